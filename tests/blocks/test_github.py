"""What GitHub's checks say, and a release that is made once: against its protocol, on this machine."""

import logging
import socket
from typing import Any

import pytest
from prefect.blocks.core import Block
from prefect.testing.standard_test_suites.blocks import BlockStandardTestSuite
from pydantic import SecretStr, ValidationError

from blocks.errors import BlockError, Garbled, Missing, Refused, Unreachable
from blocks.github import Check, GitHub
from tests.parts.github import ALL_RIGHTS, MOST_OF_A_BODY, REPOSITORY, TOKEN, FakeGitHub, run, status

pytest_plugins = ["tests.parts.github"]
COMMIT, OTHER = "1a2b3c4d" * 5, "99887766" * 5
SECONDARY = "You have exceeded a secondary rate limit."
PLACE = f"https://github.invalid/{REPOSITORY}/releases/tag/v7"


class TestTheBlock(BlockStandardTestSuite):
    @pytest.fixture
    def block(self) -> type[Block]:
        return GitHub

    def test_has_a_valid_image(self, block: type[Block]) -> None:
        """Prefect's own fetches it from the net."""
        assert str(getattr(block, "_logo_url", None)).startswith("https://")


@pytest.fixture
def block(github: FakeGitHub) -> GitHub:
    github.commits |= {COMMIT, OTHER}
    return opened(github)


def opened(github: FakeGitHub, token: str = TOKEN, **more: Any) -> GitHub:
    values = {"repository": REPOSITORY, "token": SecretStr(token), "api_url": github.url, **more}
    return GitHub.model_validate(values)


# What vouches for a commit


def test_runs_and_statuses_are_one_list(github: FakeGitHub, block: GitHub) -> None:
    github.runs[COMMIT] = [run("test"), run("build", "failure")]
    github.statuses[COMMIT] = [status("ci/lint", "pending")]
    assert block.checks(COMMIT) == [
        Check("build", "failure", f"https://github.invalid/{REPOSITORY}/runs/build"),
        Check("ci/lint", "pending", "https://ci.invalid/ci/lint"),
        Check("test", "success", f"https://github.invalid/{REPOSITORY}/runs/test"),
    ]


@pytest.mark.parametrize(
    ("conclusion", "state"),
    [
        ("success", "success"),
        ("neutral", "success"),
        ("skipped", "success"),
        ("failure", "failure"),
        ("cancelled", "failure"),
        ("timed_out", "failure"),
        ("action_required", "failure"),
        ("startup_failure", "failure"),
        ("stale", "failure"),
        ("a word that GitHub adds one day", "failure"),
        (None, "pending"),
    ],
)
def test_a_conclusion_means(github: FakeGitHub, block: GitHub, conclusion: str | None, state: str) -> None:
    github.runs[COMMIT] = [run("test", conclusion)]
    assert [check.state for check in block.checks(COMMIT)] == [state]


@pytest.mark.parametrize("going", ["queued", "waiting", "requested", "pending"])
def test_a_run_that_has_not_ended_is_pending_whatever_it_says(github: FakeGitHub, block: GitHub, going: str) -> None:
    github.runs[COMMIT] = [run("test", "success", going)]
    assert block.checks(COMMIT)[0].state == "pending"


@pytest.mark.parametrize(
    ("said", "state"), [("success", "success"), ("pending", "pending"), ("failure", "failure"), ("error", "failure")]
)
def test_a_status_means(github: FakeGitHub, block: GitHub, said: str, state: str) -> None:
    github.statuses[COMMIT] = [status("ci", said)]
    assert block.checks(COMMIT)[0].state == state


def test_every_page_is_read(github: FakeGitHub, block: GitHub) -> None:
    github.runs[COMMIT] = [run(f"test {number:03}") for number in range(230)] + [run("the last one", "failure")]
    github.statuses[COMMIT] = [status(f"ci {number:03}") for number in range(101)]
    found = block.checks(COMMIT)
    assert len(found) == 332
    assert [check.name for check in found if check.state == "failure"] == ["the last one"]
    assert sum("check-runs" in asked for asked in github.asked) == 3


def test_a_full_page_without_a_next_one_is_all(github: FakeGitHub, block: GitHub) -> None:
    github.runs[COMMIT] = [run(f"test {number}") for number in range(100)]
    assert len(block.checks(COMMIT)) == 100
    assert sum("check-runs" in asked for asked in github.asked) == 1


def test_nobody_vouches_for_a_commit_without_checks(block: GitHub) -> None:
    assert block.checks(COMMIT) == []


def test_an_unknown_commit_is_missing(block: GitHub) -> None:
    with pytest.raises(Missing, match=rf"{REPOSITORY} has no commit feedbeef: push it first"):
        block.checks("feedbeef")


def test_a_commit_is_no_way_to_another_address(github: FakeGitHub, block: GitHub) -> None:
    with pytest.raises(BlockError):
        block.checks("../../../user")
    assert not [asked for asked in github.asked if asked == "GET /user"]


# A release


def test_a_release_is_made_at_its_commit(github: FakeGitHub, block: GitHub) -> None:
    assert block.release("v7", COMMIT, "Release 7", "Kept.") == PLACE
    assert github.tags == {"v7": COMMIT}
    assert (github.releases["v7"]["name"], github.releases["v7"]["body"]) == ("Release 7", "Kept.")


def test_a_release_made_twice_is_one(github: FakeGitHub, block: GitHub) -> None:
    first = block.release("v7", COMMIT, "Release 7", "Kept.")
    assert block.release("v7", COMMIT, "Release 7", "Kept, said otherwise.") == first
    assert github.releases["v7"]["body"] == "Kept."
    assert sum(asked.startswith("POST") for asked in github.asked) == 1


def test_a_tag_that_is_there_already_is_used(github: FakeGitHub, block: GitHub) -> None:
    github.tags["v7"] = COMMIT
    assert block.release("v7", COMMIT, "Release 7", "") == PLACE


def test_a_tag_is_never_moved(github: FakeGitHub, block: GitHub) -> None:
    github.tags["v7"] = OTHER
    with pytest.raises(Refused, match=r"the tag v7 of \S+ names 99887766, not 1a2b3c4d: no tag is moved here"):
        block.release("v7", COMMIT, "Release 7", "")
    assert not github.releases


def test_a_release_at_another_commit_is_refused(block: GitHub) -> None:
    block.release("v7", OTHER, "Release 7", "")
    with pytest.raises(Refused, match="names 99887766, not 1a2b3c4d"):
        block.release("v7", COMMIT, "Release 7", "")


def test_a_release_that_another_made_meanwhile_is_taken(github: FakeGitHub, block: GitHub) -> None:
    github.first_somebody_else = True
    assert block.release("v7", COMMIT, "Release 7", "") == PLACE


def test_a_lost_answer_is_found_by_asking_again(github: FakeGitHub, block: GitHub) -> None:
    github.breaks_off = True
    with pytest.raises(Unreachable, match="does not answer"):
        block.release("v7", COMMIT, "Release 7", "")
    github.breaks_off = False
    assert block.release("v7", COMMIT, "Release 7", "") == PLACE


def test_a_commit_that_was_not_pushed_is_refused(block: GitHub) -> None:
    with pytest.raises(Refused, match=r"invalid \(422\): is the commit pushed, the body short\?"):
        block.release("v7", "feedbeef" * 5, "Release 7", "")


def test_a_body_that_is_too_long_is_refused(block: GitHub) -> None:
    with pytest.raises(Refused, match=r"invalid \(422\)"):
        block.release("v7", COMMIT, "Release 7", "x" * (MOST_OF_A_BODY + 1))


# What the token may


def test_the_check_says_that_all_is_there(block: GitHub) -> None:
    assert block.check() == (
        f"{block.api_url} answers: {REPOSITORY} (private), default branch main;"
        " its checks can be read and its releases be made."
    )


def test_the_check_names_each_missing_right(github: FakeGitHub, block: GitHub) -> None:
    github.rights = frozenset({"metadata", "statuses"})
    github.expires = "2026-12-31 00:00:00 UTC"
    assert block.check().partition("; ")[2] == (
        "the token lacks Checks: read, Contents: write: give it that on the repository;"
        " the token expires 2026-12-31 00:00:00 UTC."
    )


def test_the_check_changes_nothing(github: FakeGitHub, block: GitHub) -> None:
    block.check()
    assert all(asked.startswith("GET ") for asked in github.asked)


@pytest.mark.parametrize(
    ("rights", "sentence"),
    [
        (ALL_RIGHTS - {"checks"}, "not do this: reading the check-runs of 1a2b3c4d of curator/service; give it Checks"),
        (ALL_RIGHTS - {"statuses"}, "give it Commit statuses: read"),
        (frozenset[str](), r"404 to reading .*: it is not there, or it is private and the token lacks Checks: read"),
    ],
)  # fmt: skip
def test_a_missing_right_is_named(github: FakeGitHub, block: GitHub, rights: frozenset[str], sentence: str) -> None:
    github.rights = rights
    with pytest.raises(Refused, match=sentence):
        block.checks(COMMIT)


def test_a_token_that_only_reads_makes_no_release(github: FakeGitHub, block: GitHub) -> None:
    github.rights = ALL_RIGHTS - {"contents"}
    with pytest.raises(Refused, match="give it Contents: write"):
        block.release("v7", COMMIT, "Release 7", "")


def test_a_wrong_token_is_refused(github: FakeGitHub) -> None:
    block = opened(github, "wrong-canary-token")
    for ask in (lambda: block.checks(COMMIT), block.check, lambda: block.release("v7", COMMIT, "", "")):
        with pytest.raises(Refused, match="does not know the token: it is wrong, taken back or expired"):
            ask()


def test_a_line_break_behind_the_token_does_no_harm(github: FakeGitHub) -> None:
    assert "can be read" in opened(github, f"{TOKEN}\n").check()


def test_a_private_repository_of_others_is_a_404_that_says_so(github: FakeGitHub) -> None:
    with pytest.raises(Refused, match="or it is private and the token lacks Metadata: read"):
        opened(github, repository="others/service").check()


def test_a_renamed_repository_is_not_followed(github: FakeGitHub, block: GitHub) -> None:
    away = f"http://127.0.0.1:{github.port}/repositories/1"
    github.instead = [(301, {"message": "Moved Permanently", "url": away}, {"Location": away})]
    with pytest.raises(Refused, match="was renamed or moved: write its new OWNER/NAME"):
        block.check()
    assert len(github.asked) == 1


# When it does not answer


@pytest.mark.parametrize(
    ("code", "said", "headers", "when"),
    [
        (429, "too many", "Retry-After: 30", "after 30 s"),
        (403, SECONDARY, "Retry-After: 60", "after 60 s"),
        (403, SECONDARY, "X-Other: 1", "after a minute"),
        (429, SECONDARY, "X-Other: 1", "after a minute"),
        (403, "", "X-RateLimit-Remaining: 0\nX-RateLimit-Reset: 1795608000", "at 2026-11-25 12:00:00 UTC"),
    ],
)
def test_a_rate_limit_says_when_to_ask_again(github: FakeGitHub, code: int, said: str, headers: str, when: str) -> None:
    github.instead = [(code, {"message": said}, dict(line.split(": ") for line in headers.split("\n")))]
    with pytest.raises(Unreachable, match=f"rate limit for the token is reached: ask again {when}$"):
        opened(github).checks(COMMIT)


@pytest.mark.parametrize("code", [500, 502, 503])
def test_a_broken_github_may_be_asked_again(github: FakeGitHub, block: GitHub, code: int) -> None:
    github.instead = [(code, "<html>Unicorn!</html>", {})]
    with pytest.raises(Unreachable, match=f"GitHub answers {code}"):
        block.checks(COMMIT)


def test_a_rate_limit_in_a_check_is_no_missing_right(github: FakeGitHub, block: GitHub) -> None:
    limited = (403, {"message": "API rate limit exceeded"}, {"X-RateLimit-Remaining": "0"})
    github.instead = [github.answer("GET", f"/repos/{REPOSITORY}", f"Bearer {TOKEN}", {}), limited]
    with pytest.raises(Unreachable, match="rate limit"):
        block.check()


def test_nothing_listens() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    alone = GitHub(repository=REPOSITORY, token=SecretStr(TOKEN), api_url=f"http://127.0.0.1:{port}")
    with pytest.raises(Unreachable, match=f"does not answer at http://127.0.0.1:{port}: ConnectError"):
        alone.checks(COMMIT)


def test_an_answer_that_does_not_come_ends_at_the_time_out() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        block = GitHub(repository=REPOSITORY, token=SecretStr(TOKEN), api_url=url, timeout_s=0.2)
        with pytest.raises(Unreachable, match="ReadTimeout"):
            block.check()


@pytest.mark.parametrize(
    ("said", "where"),
    [
        ("<html>", "the text"),
        ({"total_count": 1}, "check_runs"),
        ({"total_count": 1, "check_runs": [{"name": "test"}]}, "check_runs.0.status"),
    ],
)
def test_an_answer_that_is_none_is_garbled(github: FakeGitHub, block: GitHub, said: object, where: str) -> None:
    github.instead = [(200, said, {})]
    with pytest.raises(Garbled, match=f"of {REPOSITORY} cannot be read: {where}$"):
        block.checks(COMMIT)


# Where the token never is


def test_the_token_is_in_no_error_no_log_and_no_address(
    github: FakeGitHub, block: GitHub, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    told = list[str]()
    for code in (200, 401, 403, 404, 422, 500):
        github.instead = [(code, {"message": TOKEN}, {})]
        with pytest.raises(BlockError) as caught:
            block.checks(COMMIT)
        told.append(str(caught.value))
    block.release("v7", COMMIT, "Release 7", "")
    assert "httpx" in {record.name for record in caplog.records}
    assert TOKEN not in "".join([*told, caplog.text, *github.asked, repr(block), str(block.model_dump())])


@pytest.mark.parametrize("url", ["http://github.invalid", "ftp://127.0.0.1", "http://127.0.0.1.evil.invalid/"])
def test_the_token_travels_encrypted_or_stays_on_this_machine(url: str) -> None:
    with pytest.raises(ValidationError, match="api_url"):
        GitHub(repository=REPOSITORY, token=SecretStr(TOKEN), api_url=url)
