"""HAProxy as a running one is asked and told: over its runtime socket, in one command line, with every answer read.

It looks, and it shifts traffic between servers that HAProxy's own file names. It writes no file, starts nothing, waits
for nothing, and holds no opinion about which server deserves traffic. What is set here is lost by HAProxy's next
reload or start unless its state file was written before (`show servers state`): that is the part of who reloads it.
"""

import csv
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

from prefect.blocks.core import Block
from pydantic import Field, HttpUrl

from blocks.errors import Garbled, Refused, Unreachable

State = Literal["ready", "drain", "maint"]
MOST = 256  # the highest weight that HAProxy takes
_PASSED = ("L4OK", "L6OK", "L7OK", "L7OKC")
_DRAINED = 0x08 | 0x10  # srv_admin_state: by a command, or with a tracked server
_ASKED = 0x02 | 0x04  # srv_check_state: a check is declared, and switched on
_SERVING = ("1", "2")  # srv_op_state: starting slowly, running
_AT_ONCE = 1 << 16


@dataclass(frozen=True)
class Server:
    """One server of the backend, as HAProxy sees it now."""

    name: str
    address: str
    port: int
    weight: int  # what it would serve with when ready
    state: State
    has_check: bool  # HAProxy asks for its health itself: without, it is never seen to be ready, or to die
    check: str  # the last result of that, as L7OK or L4CON; "" without one
    up: bool
    in_flight: int  # requests sent to it and unanswered, or waiting for it

    @property
    def share(self) -> int:
        """The weight that it serves with: none while it is drained or in maintenance."""
        return self.weight if self.state == "ready" else 0


class HAProxy(Block):
    """
    A running HAProxy and one of its backends, by the runtime socket.

    Example:
        ```python
        from blocks.haproxy import HAProxy

        balancer = HAProxy.load("BLOCK_NAME")
        print(balancer.check())
        ```
    """  # noqa: D212 - Prefect reads the example from here

    _block_type_name: ClassVar[str | None] = "HAProxy"
    _block_type_slug: ClassVar[str | None] = "haproxy"
    _description: ClassVar[str | None] = "A running HAProxy whose servers' weights shipkeeper shifts."
    _logo_url: ClassVar[HttpUrl | None] = HttpUrl("https://www.haproxy.org/img/HAProxyCommunityEdition_60px.png")
    _documentation_url: ClassVar[HttpUrl | None] = HttpUrl("https://docs.haproxy.org/2.8/management.html#9.3")

    socket: str = Field(
        description="The absolute path of the runtime socket, which HAProxy's file opens with `level admin`."
    )
    backend: str = Field(
        default="api", pattern=r"^[A-Za-z0-9_.:-]+$", description="The backend whose servers are looked at and shifted."
    )
    url: str = Field(default="", description="Where the service's visitors reach it, as http://HOST:PORT.")
    timeout_s: float = Field(default=2.0, gt=0, le=60, description="How long one answer may take, in seconds.")

    def servers(self) -> dict[str, Server]:
        """Every server of the backend, by name. What a reload's old process still answers is not in its counts.

        Raises Unreachable, Refused when there is no such backend, Garbled.
        """
        states = f"show servers state {self.backend}"
        found, _, counted = self.tell(f"{states};show stat").partition("\n\n")
        if not found.startswith("1\n# "):
            raise Refused(f"HAProxy answered `{states}` with: {_line(found)}")
        rows = [row for row in _table(counted, ",") if row["pxname"] == self.backend]
        numbers = {row["svname"]: row for row in rows}
        try:
            return {row["srv_name"]: _server(row, numbers[row["srv_name"]]) for row in _table(found[2:], " ")}
        except (KeyError, ValueError) as error:
            raise Garbled(f"HAProxy's list of the servers of {self.backend} cannot be read: {error!r}") from None

    def shares(self) -> dict[str, int]:
        """The weight that each server serves with; 0 for one that is drained or in maintenance."""
        return {name: server.share for name, server in self.servers().items()}

    def shift(self, shares: Mapping[str, int]) -> None:
        """Make the servers serve with these weights, 0 to 256; a server that is not named keeps its own.

        It is one command line, raises before lowers: at no moment is the sum 0. Who dies before HAProxy answered may
        leave it half done (measured: 2.8 stops reading when its client is gone): then the raised ones serve beside the
        not yet lowered ones, as `shares` shows, and shifting again settles it.
        A share of 0 drains: what is in flight is answered, nothing new comes. Whether a server can serve is asked with
        `checked`. Raises Refused before any effect for an unknown server, for a weight that is none, and when nothing
        would serve; Refused also for an answer of HAProxy that is not silence; Unreachable.
        """
        present = self.shares()
        _refuse_impossible(self.backend, present, shares)
        commands = [
            command
            for name in sorted(shares, key=lambda name: shares[name] < present[name])
            for command in _commands(f"{self.backend}/{name}", shares[name])
        ]
        if commands:
            self._tell(commands)

    def in_flight(self, server: str) -> int:
        """How many requests the server has not answered yet; Refused when it is unknown."""
        return self._one(server).in_flight

    def checked(self, server: str) -> bool:
        """Whether HAProxy's own check of the server has passed, so that a request would be sent to it."""
        seen = self._one(server)
        return seen.up and seen.check in _PASSED

    def tell(self, line: str) -> str:
        """What HAProxy answers to one line of commands, as it stands: an error of its own is text, too.

        Raises Unreachable when it gives none.
        """
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(self.timeout_s)
            try:
                connection.connect(self.socket)
                connection.sendall(line.encode() + b"\n")
                answer = b"".join(iter(lambda: connection.recv(_AT_ONCE), b""))
            except OSError as error:
                why = f"no answer within {self.timeout_s:g} s" if isinstance(error, TimeoutError) else error.strerror
                raise Unreachable(f"HAProxy does not answer at {self.socket}: {why or error}") from None
        if not answer.endswith(b"\n"):
            raise Unreachable(f"HAProxy's answer at {self.socket} broke off")
        return answer.decode(errors="replace")

    def check(self) -> str:
        """One sentence: which servers there are, what each serves with, and whether its check passes."""
        servers = self.servers().values()
        told = (f"{one.name} {one.share} ({one.state}, {_checked(one)}, {one.in_flight} in flight)" for one in servers)
        return f"HAProxy at {self.socket} answers; backend {self.backend}: {', '.join(told)}."

    def _one(self, name: str) -> Server:
        servers = self.servers()
        if name not in servers:
            raise Refused(_unknown(self.backend, [name], servers))
        return servers[name]

    def _tell(self, commands: Sequence[str]) -> None:
        answers = _answers(self.tell(";".join(commands)))
        for command, answer in zip(commands, answers, strict=False):
            if answer:
                raise Refused(f"HAProxy answered `{command}` with: {_line(answer)}")
        if len(answers) != len(commands):
            raise Garbled(f"HAProxy gave {len(answers)} answers to {len(commands)} commands: {'; '.join(commands)}")


def _refuse_impossible(backend: str, present: Mapping[str, int], wanted: Mapping[str, int]) -> None:
    if unknown := [name for name in wanted if name not in present]:
        raise Refused(_unknown(backend, unknown, present))
    if wrong := {name: share for name, share in wanted.items() if not 0 <= share <= MOST}:
        raise Refused(f"a weight of HAProxy is 0 to {MOST}, not {wrong}")
    if not any({**present, **wanted}.values()):
        raise Refused(f"nothing of backend {backend} would serve with {dict(wanted)}: give one server a weight")


def _unknown(backend: str, names: Sequence[str], known: Mapping[str, object]) -> str:
    return f"backend {backend} has no server {', '.join(names)}: it has {', '.join(known)}"


def _commands(server: str, share: int) -> list[str]:
    """The weight first: a drained server that became ready would serve with its old one for a moment."""
    if share:
        return [f"set server {server} weight {share}", f"set server {server} state ready"]
    return [f"set server {server} state drain"]


def _answers(text: str) -> list[str]:
    """One for each command, in order: lines that an empty one ends. Nothing but the empty one is a yes."""
    answers, lines = list[str](), list[str]()
    for line in text.split("\n")[:-1]:
        if line:
            lines.append(line)
        else:
            answers.append("\n".join(lines))
            lines = []
    return answers


def _table(text: str, separator: str) -> list[dict[str, str]]:
    return list(csv.DictReader(text.removeprefix("# ").strip().splitlines(), delimiter=separator))


def _server(state: Mapping[str, str], numbers: Mapping[str, str]) -> Server:
    admin = int(state["srv_admin_state"])
    return Server(
        name=state["srv_name"],
        address=state["srv_addr"],
        port=int(state["srv_port"]),
        weight=int(state["srv_uweight"]),
        state="maint" if admin & ~_DRAINED else "drain" if admin else "ready",
        has_check=int(state["srv_check_state"]) & _ASKED == _ASKED,
        check=numbers["check_status"].removeprefix("* "),  # "* ": the next check is under way
        up=state["srv_op_state"] in _SERVING,
        in_flight=int(numbers["scur"]) + int(numbers["qcur"]),
    )


def _checked(server: Server) -> str:
    return server.check or ("no result yet" if server.has_check else "no check")


def _line(answer: str) -> str:
    """The first line: HAProxy answers an unknown command with a page of help."""
    return answer.strip().partition("\n")[0] or "nothing"
