"""The command line: python -m deployments COMMAND. Each command ends 0 on success, else with one plain sentence.

What a command needs is imported when it runs: importing Prefect costs a second, and `--help` needs none of it.
"""

import argparse
import json
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

COMMANDS = ("check", "apply", "up", "down", "demo", "keys", "worker", "run")


def parser() -> argparse.ArgumentParser:
    """What can be typed."""
    top = argparse.ArgumentParser(prog="python -m deployments", description="Operate the deployments of a stage.")
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")
    _stage(commands.add_parser("check", help="all that can be known about a stage without a Prefect server"))
    apply = _stage(commands.add_parser("apply", help="make the server at PREFECT_API_URL equal to the repository"))
    apply.add_argument("--prune", action="store_true", help="remove what the repository no longer names")
    commands.add_parser("up", help="start the local stage, or what of it does not run")
    commands.add_parser("down", help="end the local stage; its data stays")
    _demo(commands.add_parser("demo", help="a database backed up, proven, lost and restored on the local stage"))
    _keys(commands.add_parser("keys", help="make a set of keys"))
    worker = _stage(commands.add_parser("worker", help="become a worker of the stage's work pool"))
    worker.add_argument("--queue", action="append", default=[], help="serve this queue alone (repeats); without: all")
    _run(_stage(commands.add_parser("run", help="break glass: run a flow here, with no Prefect server")))
    return top


def _stage(command: argparse.ArgumentParser) -> argparse.ArgumentParser:
    command.add_argument("--stage", required=True, help="the stage, as its TOML file is called")
    return command


def _demo(command: argparse.ArgumentParser) -> None:
    end = command.add_mutually_exclusive_group()
    end.add_argument("--stay", action="store_true", default=None, help="stay up until Ctrl-C (what a terminal gets)")
    end.add_argument("--exit", dest="stay", action="store_false", help="shut down and end (what a pipe gets)")


def _keys(command: argparse.ArgumentParser) -> None:
    command.add_argument("what", choices=["new"])
    command.add_argument("--folder", type=Path, help="write each part to a file there (0600), instead of printing it")


def _run(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "flow",
        help="backup, prove, restore, deploy, rollback, status ...: a wrong name lists all",
    )
    command.add_argument(
        "--param", action="append", default=[], type=_parameter, metavar="k=v", help="repeats; JSON or text"
    )
    command.add_argument("--dry-run", action="store_true", help="stop after the plan")
    command.add_argument("--json", action="store_true", help="print one JSON object at the end")
    command.add_argument("--alone", action="store_true", help="the ledger is lost: nothing keeps a second operator out")
    command.add_argument("--yes", metavar="NAME", help="approve the plan, as NAME")


def _parameter(text: str) -> tuple[str, Any]:
    name, equals, value = text.partition("=")
    if not equals or not name.isidentifier():
        raise argparse.ArgumentTypeError(f"{text!r} is not k=v")
    try:
        return name, json.loads(value)
    except json.JSONDecodeError:
        return name, value


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit code."""
    given = parser().parse_args(arguments)
    carry_out: dict[str, Callable[[argparse.Namespace], int]] = {
        "check": check,
        "apply": apply,
        "up": up,
        "down": down,
        "demo": demo,
        "keys": keys,
        "worker": worker,
        "run": run,
    }
    try:
        return carry_out[given.command](given)
    except KeyboardInterrupt:
        return 130
    except Exception as error:
        if (sentence := _sentence(error)) is None:
            raise
        print(sentence, file=sys.stderr)
        return 1


def _sentence(error: Exception) -> str | None:
    """The sentence for what a person can mend; None for a defect of ours, whose traceback is wanted."""
    import httpx
    from prefect.exceptions import PrefectHTTPStatusError

    from blocks.errors import BlockError
    from deployments.declared import DeclarationError
    from flows.effect import NotDone
    from flows.redact import hide
    from flows.stage_errors import StageError

    if isinstance(error, BlockError | NotDone | DeclarationError | StageError):
        return hide(str(error))
    if isinstance(error, PrefectHTTPStatusError):
        asked = f"{error.request.method} {error.request.url.path}"
        said = " ".join(error.response.text.split())[:300]
        return hide(f"the Prefect server answered {error.response.status_code} to {asked}: {said}")
    if isinstance(error, httpx.TransportError):
        return f"the Prefect server stopped answering ({type(error).__name__}): apply again, it goes on where it stood"
    return None


def check(given: argparse.Namespace) -> int:
    """Say what can be known without a server."""
    from deployments.check import check

    problems = check(given.stage, os.environ)
    print(f"{problems} problems" if problems else "all that can be known from here is well")
    return 1 if problems else 0


def apply(given: argparse.Namespace) -> int:
    """Make the server equal to the repository."""
    from deployments.declared import declared
    from deployments.server import apply
    from flows.effect import stage_named

    apply(stage_named(given.stage), declared(given.stage), os.environ, prune=given.prune)
    return 0


def up(_given: argparse.Namespace) -> int:
    """Start the local stage."""
    from deployments.local.stage import up

    print(f"the local stage is up: {up().ui}")
    return 0


def down(_given: argparse.Namespace) -> int:
    """End the local stage."""
    from deployments.local.stage import down

    down()
    return 0


def demo(given: argparse.Namespace) -> int:
    """Show all of it."""
    from deployments.local.demo import main as show

    return show(stay=given.stay)


def keys(given: argparse.Namespace) -> int:
    """Make a set of keys."""
    from deployments.keyring import make_keys

    make_keys(given.folder)
    return 0


def worker(given: argparse.Namespace) -> int:
    """Become a worker."""
    from deployments.worker import become_worker

    become_worker(given.stage, given.queue, os.environ)
    return 0


def run(given: argparse.Namespace) -> int:
    """Break glass."""
    from deployments.breakglass import run_flow
    from flows.effect import BreakGlass

    parameters = dict(given.param) | ({"dry_run": True} if given.dry_run else {})
    glass = BreakGlass(alone=given.alone, yes=given.yes or "")
    return run_flow(given.flow, given.stage, parameters, glass, as_json=given.json)


if __name__ == "__main__":
    sys.exit(main())
