"""GitHub as a deploy asks and tells it: what is checked about a commit, and the release of a version that stays.

It reads checks and makes releases. It moves no branch and no tag that is there, asks nothing twice, and holds no
opinion on which checks matter. The token goes out in one header to one host: a redirect is told, never followed.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import count
from typing import ClassVar, Literal, NoReturn, TypeVar
from urllib.parse import quote

import httpx
from prefect.blocks.core import Block
from pydantic import BaseModel, Field, HttpUrl, SecretStr, ValidationError

from blocks.errors import Garbled, Missing, Refused, Unreachable

State = Literal["success", "failure", "pending"]
READ = {"check-runs": "Checks: read", "status": "Commit statuses: read"}  # of a commit, and the right that it takes
WRITE = "Contents: write"
SHORT = 8  # letters of a commit that people read
A_PAGE = 100  # the most that GitHub gives at once
_PASSED = ("success", "neutral", "skipped")  # what GitHub itself lets a required check be
_DENIED, _FORBIDDEN, _ABSENT, _INVALID, _TOO_MANY, _BROKEN = 401, 403, 404, 422, 429, 500
M = TypeVar("M", bound=BaseModel)


@dataclass(frozen=True)
class Check:
    """What one check says of a commit: a run of GitHub's own, or a status that another system set."""

    name: str
    state: State
    url: str  # where a person reads on; empty: nowhere


class _Run(BaseModel):
    name: str
    status: str
    conclusion: str | None = None
    html_url: str | None = None

    def check(self) -> Check:
        ended: State = "success" if self.conclusion in _PASSED else "failure"
        return Check(self.name, ended if self.status == "completed" else "pending", self.html_url or "")


class _Runs(BaseModel):
    check_runs: list[_Run]

    def checks(self) -> list[Check]:
        return [run.check() for run in self.check_runs]


class _Status(BaseModel):
    context: str
    state: str
    target_url: str | None = None

    def check(self) -> Check:
        known: Mapping[str, State] = {"success": "success", "pending": "pending"}
        return Check(self.context, known.get(self.state, "failure"), self.target_url or "")


class _Combined(BaseModel):
    statuses: list[_Status]

    def checks(self) -> list[Check]:
        return [status.check() for status in self.statuses]


class _Commit(BaseModel):
    sha: str


class _Release(BaseModel):
    html_url: str


class _Repository(BaseModel):
    default_branch: str
    private: bool
    permissions: dict[str, bool] = {}


class _Message(BaseModel):
    message: str = ""


class GitHub(Block):
    """
    A repository on GitHub and the token that reads its checks and makes its releases.

    Example:
        ```python
        from blocks.github import GitHub

        github = GitHub.load("BLOCK_NAME")
        print(github.check())
        ```
    """  # noqa: D212 - Prefect reads the example from here

    _block_type_name: ClassVar[str | None] = "GitHub Repository of a service"
    _block_type_slug: ClassVar[str | None] = "github-service"
    _description: ClassVar[str | None] = "A repository whose checks shipkeeper reads and whose releases it makes."
    _logo_url: ClassVar[HttpUrl | None] = HttpUrl("https://github.githubassets.com/favicons/favicon.png")
    _documentation_url: ClassVar[HttpUrl | None] = HttpUrl("https://docs.github.com/rest")

    repository: str = Field(pattern=r"^[A-Za-z0-9][\w.-]*/[\w.-]+$", description="The repository, as OWNER/NAME.")
    token: SecretStr = Field(
        description="A token for this repository: Checks and Commit statuses to read, Contents to write."
    )
    api_url: str = Field(
        default="https://api.github.com",
        pattern=r"^(https://\S+|http://(127\.0\.0\.1|localhost)(:\d+)?(/\S*)?)$",
        description="Where GitHub's API is; a GitHub of your own has https://HOST/api/v3.",
    )
    timeout_s: float = Field(default=10.0, gt=0, le=120, description="How long one answer may take, in seconds.")

    def checks(self, commit: str) -> list[Check]:
        """Everything that vouches for a commit, by name: the latest run of each check, and the status of each context.

        An empty list means that nobody does. Raises Missing for a commit that GitHub does not have; Unreachable,
        Refused, Garbled.
        """
        with self._api() as api:
            runs = self._all(api, commit, "check-runs", _Runs)
            return sorted(runs + self._all(api, commit, "status", _Combined), key=lambda check: (check.name, check.url))

    def release(self, tag: str, commit: str, name: str, body: str) -> str:
        """The address of the release with this tag, which is made at this commit (its whole name) unless it is there.

        Asked again it changes nothing. Raises Refused when the tag stands at another commit; Unreachable, Garbled.
        """
        with self._api() as api:
            if there := self._released(api, tag, commit):
                return there
            about = {"tag_name": tag, "target_commitish": commit, "name": name, "body": body}
            what = f"making the release {tag}"
            made = self._ask(api, "POST", "/releases", json=about)
            if made.status_code == _INVALID:  # somebody else may have made it meanwhile
                return self._released(api, tag, commit) or self._refused_as_invalid(what)
            return self._read(made, _Release, what, f"{WRITE} (for changed workflows also Workflows: write)").html_url

    def check(self) -> str:
        """One sentence: which repository answers, and which right the token lacks for a deploy; it changes nothing."""
        with self._api() as api:
            answer = self._ask(api, "GET", "")
            seen = self._read(answer, _Repository, "looking at it", "Metadata: read")
            lacks = [right for which, right in READ.items() if not self._may_read(api, seen.default_branch, which)]
        lacks += [] if seen.permissions.get("push") else [WRITE]
        kind = "private" if seen.private else "public"
        found = f"{self.api_url} answers: {self.repository} ({kind}), default branch {seen.default_branch}"
        rights = "its checks can be read and its releases be made"
        ends = answer.headers.get("github-authentication-token-expiration")
        lacking = f"the token lacks {', '.join(lacks)}: give it that on the repository"
        return f"{found}; {lacking if lacks else rights}{f'; the token expires {ends}' if ends else ''}."

    def _api(self) -> httpx.Client:
        headers = {
            "Accept": "application/vnd.github+json",
            "Authorization": f"Bearer {self.token.get_secret_value().strip()}",
            "X-GitHub-Api-Version": "2022-11-28",
        }
        return httpx.Client(headers=headers, timeout=self.timeout_s)

    def _all(self, api: httpx.Client, commit: str, which: str, page: type[_Runs] | type[_Combined]) -> list[Check]:
        """Every page; the next one is asked for by its number, so that no address of an answer gets the token."""
        what, found = f"reading the {which} of {commit[:SHORT]}", list[Check]()
        for number in count(1):
            answer = self._ask(api, "GET", f"/commits/{quote(commit, safe='')}/{which}", params=_page(number))
            if answer.status_code == _INVALID:
                raise Missing(f"{self.repository} has no commit {commit}: push it first, or name another")
            found += self._read(answer, page, what, READ[which]).checks()
            if "next" not in answer.links:
                break
        return found

    def _released(self, api: httpx.Client, tag: str, commit: str) -> str:
        """The address of the release that is there; empty: none is. Refused when its tag names another commit."""
        what = f"reading the tag {tag}"
        answer = self._ask(api, "GET", f"/commits/refs/tags/{quote(tag, safe='')}")
        if answer.status_code == _INVALID:
            return ""
        tagged = self._read(answer, _Commit, what, WRITE).sha
        if tagged != commit:
            raise Refused(
                f"the tag {tag} of {self.repository} names {tagged[:SHORT]}, not {commit[:SHORT]}:"
                " no tag is moved here, take it away by hand if it is wrong"
            )
        release = self._ask(api, "GET", f"/releases/tags/{quote(tag, safe='')}")
        return "" if release.status_code == _ABSENT else self._read(release, _Release, what, WRITE).html_url

    def _may_read(self, api: httpx.Client, branch: str, which: str) -> bool:
        answer = self._ask(api, "GET", f"/commits/{quote(branch, safe='')}/{which}", params={"per_page": 1})
        return answer.status_code not in {_FORBIDDEN, _ABSENT}

    def _ask(
        self, api: httpx.Client, method: str, path: str, *,
        params: Mapping[str, str | int] | None = None, json: Mapping[str, str] | None = None,
    ) -> httpx.Response:  # fmt: skip
        """One answer. Unreachable when there is none, when GitHub is broken, or when it has been asked too often."""
        try:
            where = f"{self.api_url.rstrip('/')}/repos/{self.repository}{path}"
            answer = api.request(method, where, params=params, json=json)
        except httpx.HTTPError as error:
            raise Unreachable(f"GitHub does not answer at {self.api_url}: {type(error).__name__}") from None
        if limited := _limited(answer):
            raise Unreachable(f"GitHub's rate limit for the token is reached: ask again {limited}")
        if answer.status_code >= _BROKEN:
            raise Unreachable(f"GitHub answers {answer.status_code} at {self.api_url}: ask again later")
        return answer

    def _read(self, answer: httpx.Response, kind: type[M], what: str, right: str) -> M:
        if not answer.is_success:
            raise self._refused(answer, what, right)
        try:
            return kind.model_validate_json(answer.content)
        except ValidationError as error:
            where = ".".join(map(str, error.errors()[0]["loc"])) or "the text"
            raise Garbled(f"GitHub's answer to {what} of {self.repository} cannot be read: {where}") from None

    def _refused(self, answer: httpx.Response, what: str, right: str) -> Refused:
        to = f"{what} of {self.repository}"
        if answer.is_redirect:
            return Refused(f"{self.repository} was renamed or moved: write its new OWNER/NAME into the block")
        known = {
            _DENIED: f"GitHub does not know the token: it is wrong, taken back or expired; save a new one ({to})",
            _FORBIDDEN: f"the token may not do this: {to}; give it {right}",
            _ABSENT: f"GitHub answers 404 to {to}: it is not there, or it is private and the token lacks {right}"
            " (GitHub does not tell the two apart); correct the name, or the token's rights",
        }
        return Refused(known.get(answer.status_code, f"GitHub answers {answer.status_code} to {to}"))

    def _refused_as_invalid(self, what: str) -> NoReturn:
        raise Refused(f"GitHub calls {what} of {self.repository} invalid (422): is the commit pushed, the body short?")


def _page(number: int) -> dict[str, str | int]:
    """`filter` is for check runs; of statuses GitHub gives the latest anyway."""
    return {"filter": "latest", "per_page": A_PAGE, "page": number}


def _limited(answer: httpx.Response) -> str:
    """When to ask again, if it was too often; empty: it was not. GitHub says so with 429, or with 403 and a hint."""
    headers = answer.headers
    after, used_up = headers.get("retry-after", ""), headers.get("x-ratelimit-remaining") == "0"
    if answer.status_code != _TOO_MANY and not (
        answer.status_code == _FORBIDDEN and (after or used_up or "rate limit" in _message(answer))
    ):
        return ""
    reset = headers.get("x-ratelimit-reset", "")
    if after.isdecimal():
        return f"after {after} s"
    if used_up and reset.isdecimal():
        return f"at {datetime.fromtimestamp(int(reset), UTC):%Y-%m-%d %H:%M:%S} UTC"
    return "after a minute"


def _message(answer: httpx.Response) -> str:
    try:
        return _Message.model_validate_json(answer.content).message.lower()
    except ValidationError:
        return ""
