"""The notes of a release: what came, what it changes, how it was proven; names only, and no Markdown of others."""

from datetime import UTC, datetime
from typing import Any

from flows.deploy.notes import MOST_COMMITS, notes, tag, title
from flows.records_release import Migration, Release

NOW = datetime(2026, 11, 25, 12, 0, tzinfo=UTC)
KEPT = "KEPT 60 s after go-live, healthy: errors 0 of 600 (0 %; the data allow 0-0.7 %)."


def release(number: int = 7, **more: Any) -> Release:
    values: dict[str, Any] = {
        "key": f"deploy {number}",
        "stage": "production",
        "kind": "deploy",
        "number": number,
        "commit": f"{number}a2b3c4d" * 5,
        "subject": "feat: favourites",
        "slot": "blue",
        "at": NOW,
        "actor": "run deploy",
        "environment": ("NODE_ENV", "REDIS_URL"),
        "migrations": (Migration(version="0001_videos", rollback=True),),
    }
    return Release(**{**values, **more})


def section(page: str, name: str) -> str:
    return page.partition(f"## {name}\n\n")[2].partition("\n\n##")[0]


def test_the_tag_and_the_title_are_the_number() -> None:
    assert (tag(release()), title(release())) == ("v7", "Release 7")


def test_the_page_as_a_person_reads_it() -> None:
    new = (
        Migration(version="0001_videos", rollback=True),
        Migration(version="0002_tags", rollback=True),
        Migration(version="0003_drop_likes", breaking=True),
    )
    after = release(environment=("CLAUDE_API_KEY", "NODE_ENV"), migrations=new)
    assert notes(after, release(6), ["feat: tags", "fix: likes (#12)"], KEPT) == (
        "Deployed to production by run deploy at 2026-11-25 12:00:00 UTC, commit " + "7a2b3c4d" * 5 + ".\n\n"
        f"**Evidence:** {KEPT}\n\n"
        "## Commits\n\n- feat: tags\n- fix: likes (#12)\n\n"
        "## Migrations\n\n- 0002\\_tags\n"
        "- 0003\\_drop\\_likes **breaking**: the release before can not work with the schema after it (no way down)\n\n"
        "## Environment\n\n- added: CLAUDE\\_API\\_KEY\n- removed: REDIS\\_URL"
    )


def test_a_release_that_changes_nothing_says_so() -> None:
    page = notes(release(), release(6), [], KEPT)
    assert section(page, "Commits") == "No other commits than this one are known."
    assert section(page, "Migrations") == "None."
    assert section(page, "Environment") == "The same variables as before."


def test_the_first_release_is_compared_with_nothing() -> None:
    page = notes(release(1), None, ["feat: all"], KEPT)
    assert section(page, "Migrations") == "- 0001\\_videos"
    assert section(page, "Environment") == "The first release, with 2 variables."


def test_a_subject_is_text_and_one_line() -> None:
    page = notes(release(), release(6), ["# x <img src=a> [a](b) `c` **d** <!-- \n\n## Environment"], KEPT)
    assert section(page, "Commits") == (
        "- \\# x \\<img src=a\\> \\[a\\](b) \\`c\\` \\*\\*d\\*\\* \\<!-- ## Environment"
    )


def test_the_longest_page_is_one_that_github_takes() -> None:
    page = notes(release(), release(6), ["<" * 5000] * 1201, KEPT)
    assert len(page) < 125_000
    assert section(page, "Commits").count("\n") == MOST_COMMITS
    assert section(page, "Commits").endswith("- and 1,001 commits more")
