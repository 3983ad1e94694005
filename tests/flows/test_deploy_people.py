"""A deploy and the people around it: who vouches for a commit, who is told what, who decides when nothing is proven."""

from contextlib import closing
from typing import Any

import pytest

from flows.deploy.flow import deploy
from flows.effect import NotDone
from flows.rollback.flow import rollback
from flows.world import World
from tests.parts.deaths import DIED, expire, fork, reconcile
from tests.parts.github import ALL_RIGHTS, REPOSITORY, FakeGitHub, github, run, status
from tests.parts.github import TOKEN as GITHUB_TOKEN
from tests.parts.rollout import SHORT, Rollout, failures
from tests.parts.slack import CHANNEL, FakeSlack, slack
from tests.parts.slack import TOKEN as SLACK_TOKEN

__all__ = ["github", "slack"]
pytestmark = [pytest.mark.timeout(240), pytest.mark.usefixtures("short_bakes")]
PLATFORM = 'platform = "processes"'
WITH_GITHUB = f'{PLATFORM}\ngithub = "{REPOSITORY}"'
CHECKS = ["build", "test", "lint", "audit"]


@pytest.fixture
def ci(github: FakeGitHub, lab: Rollout, monkeypatch: pytest.MonkeyPatch) -> FakeGitHub:
    """The stage's repository on GitHub, with all that the git repository has."""
    monkeypatch.setenv("GITHUB_TOKEN", GITHUB_TOKEN)
    monkeypatch.setenv("GITHUB_API_URL", github.url)
    lab.also(PLATFORM, WITH_GITHUB)
    return github


@pytest.fixture
def channel(slack: FakeSlack, monkeypatch: pytest.MonkeyPatch) -> FakeSlack:
    """Where people read, by a bot that can edit."""
    monkeypatch.setenv("SLACK_BOT_TOKEN", SLACK_TOKEN)
    monkeypatch.setenv("SLACK_CHANNEL", CHANNEL)
    monkeypatch.setenv("SLACK_API_URL", slack.url)
    return slack


def release(lab: Rollout, ci: FakeGitHub, subject: str, traits: dict[str, object] | None = None) -> str:
    """One more commit that all of CI vouches for, while its own deploy is pending."""
    made = lab.repository.release(subject, traits or {})
    ci.commits.add(made)
    ci.runs[made] = [*map(run, CHECKS), run("deploy production", None)]
    return made


def attachment(message: dict[str, Any]) -> dict[str, Any]:
    return message["attachments"][0]


def test_ci_is_asked_and_says_no_in_words(lab: Rollout, ci: FakeGitHub, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", logger="flows")
    head = release(lab, ci, "feat: checked by CI")

    def said() -> str:
        caplog.clear()
        deploy("test", dry_run=True)
        return next(line for line in caplog.text.splitlines() if line.startswith("| CI |"))

    assert "| passed | 4 checks passed |" in said()
    ci.statuses[head] = [status("coverage", "pending")]
    assert "**refused** | coverage pending: wait for it |" in said()
    ci.statuses[head] = [status("coverage", "error")]
    ci.runs[head] += [run("lint", "failure")]
    assert "coverage, lint failed" in said()
    ci.runs[head], ci.statuses[head] = [run("deploy production", None), run("deploy staging", "failure")], []
    assert "nobody vouches for" in said()
    ci.rights = ALL_RIGHTS - {"checks"}
    assert "give it Checks: read" in said()
    ci.rights, ci.instead = ALL_RIGHTS, [(503, {}, {})] * 4
    assert "GitHub answers 503" in said()
    ci.commits.remove(head)
    ci.instead = []
    assert "has no commit" in said()
    assert not any(asked.startswith("POST") for asked in ci.asked)


def test_a_commit_that_ci_refuses_is_not_deployed(lab: Rollout, ci: FakeGitHub) -> None:
    head, before = release(lab, ci, "feat: red"), lab.serves()
    ci.runs[head] = [run("test", "failure")]
    with pytest.raises(NotDone, match="was not deployed: CI: test failed"):
        deploy("test")
    assert lab.serves() == before


def test_a_stage_with_a_repository_and_no_token_refuses(
    lab: Rollout, ci: FakeGitHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    release(lab, ci, "feat: nobody may ask")
    monkeypatch.delenv("GITHUB_TOKEN")
    with pytest.raises(NotDone, match=f"CI: nobody may ask {REPOSITORY}: set GITHUB_TOKEN and run python -m"):
        deploy("test")
    assert ci.asked == []


def test_a_release_that_stays_is_published_and_told_in_one_message(
    lab: Rollout, ci: FakeGitHub, channel: FakeSlack
) -> None:
    lab.also(WITH_GITHUB, f"{WITH_GITHUB}\npublish = true")
    before, head = lab.serves(), release(lab, ci, "feat: told to everybody")

    said = deploy("test")

    told = lab.newest
    made = ci.releases[f"v{told.release.number}"]
    assert (ci.tags[made["tag_name"]], made["name"]) == (head, f"Release {told.release.number}")
    assert "- feat: told to everybody" in made["body"]
    assert str(told.why) in made["body"].replace("\\", "")
    assert "The same variables as before." in made["body"]
    assert not ci.releases.keys() - {made["tag_name"]}

    [message] = channel.messages.values()
    assert message["text"] == "Deployment to test completed, inconclusive"
    assert attachment(message)["text"] == said
    assert told.release.name in str(attachment(message)["fields"])
    assert channel.asked.count("/api/chat.postMessage") == 1
    assert channel.asked.count("/api/chat.update") == 3  # starting, baking, kept: a bake tells at most once a minute
    assert lab.world.ledger.releases.notice(told.release.key) == {"channel": "C024BE91L", "ts": min(channel.messages)}
    assert lab.serves() == head != before
    kept = {gate.name: gate.sentence for gate in lab.world.ledger.releases.gates(told.release.key)}
    assert kept["CI"] == "4 checks passed"
    assert {"branch", "quarantine", "way back", "test", "migrations"} < kept.keys()


def test_what_github_and_slack_refuse_is_said_and_undoes_nothing(
    lab: Rollout, ci: FakeGitHub, channel: FakeSlack, caplog: pytest.LogCaptureFixture
) -> None:
    lab.also(WITH_GITHUB, f"{WITH_GITHUB}\npublish = true")
    head = release(lab, ci, "feat: nobody hears of it")
    ci.rights, channel.archived = ALL_RIGHTS - {"contents"}, True

    said = deploy("test")

    assert "KEPT" in said
    assert "It is not published on GitHub: " in said
    assert "Contents: write" in said
    assert lab.serves() == head
    assert lab.newest.state == "done"
    assert caplog.text.count("people were not told: Slack refused chat.postMessage to #deploys: is_archived") == 4
    assert (ci.releases, channel.messages) == ({}, {})


def test_a_webhook_brings_the_first_and_the_last_message(
    lab: Rollout, slack: FakeSlack, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLACK_WEBHOOK_URL", slack.hook)
    lab.repository.release("feat: two messages", {"empty": True})
    with pytest.raises(NotDone, match="its smoke tests failed"):
        deploy("test")
    assert [message["text"] for message in slack.hooked] == [
        "Deployment to test: asking the gates",
        "Deployment to test failed",
    ]
    assert "its smoke tests failed: the trending list is empty" in attachment(slack.hooked[-1])["text"]
    deploy("test", dry_run=True)
    assert len(slack.hooked) == 2


def test_a_release_taken_back_and_a_rollback_are_told_with_their_sentences(lab: Rollout, channel: FakeSlack) -> None:
    lab.repository.release("feat: proves nothing", {})
    lab.also(SHORT, f'{SHORT}\npolicy = "rollback"')
    with pytest.raises(NotDone, match=r"ROLLED BACK 1 s after go-live, inconclusive \(policy rollback\)") as undone:
        deploy("test")
    [message] = channel.messages.values()
    assert message["text"] == "Deployment to test rolled back"
    assert attachment(message)["text"] == str(undone.value)
    assert lab.world.ledger.releases.quarantined() == {}  # it proved nothing, so it may come again

    said = rollback("test", reason="a feeling")
    message = channel.messages[max(channel.messages)]
    assert message["text"] == "Rollback of test completed, not proven to help"
    assert attachment(message)["text"] == said
    assert (len(channel.messages), channel.asked.count("/api/chat.update")) == (2, 4)


def test_nobody_decides_for_a_release_that_is_held(lab: Rollout, channel: FakeSlack) -> None:
    before, head = lab.serves(), lab.repository.release("feat: held", {})
    lab.also(SHORT, f'{SHORT}\npolicy = "hold"')

    with pytest.raises(NotDone, match=r": HELD 1 s after go-live, inconclusive \(policy hold\): .* A person decides\."):
        deploy("test")

    assert lab.serves() == head
    assert set(lab.runs().values()) == {before, head}
    assert sorted(lab.world.traffic.shares().values()) == [0, 100]
    assert lab.newest.state == "done"
    assert lab.world.ledger.open() == []
    [message] = channel.messages.values()
    assert message["text"] == "Deployment to test held, a person decides"


def test_a_policy_may_accept_what_proved_nothing(lab: Rollout) -> None:
    head = lab.repository.release("feat: accepted", {})
    lab.also(SHORT, f'{SHORT}\npolicy = "accept"')
    assert "KEPT 1 s after go-live, inconclusive (policy accept)" in deploy("test")
    assert lab.serves() == head


def test_a_bad_release_of_an_unknown_version_is_held_until_a_person_rolls_it_back(lab: Rollout) -> None:
    before, bad = lab.serves(), lab.repository.release("feat: a fault", {"errors": 0.4, "errors_after": 30})
    lab.toml('version = "header x-release"', 'version = ""')  # and a bake that is long enough for evidence
    with lab.visited() as log:
        with pytest.raises(NotDone, match=r"HELD, the served version is unknown, so nothing is taken back: BAD \d+ s"):
            deploy("test")
        assert lab.serves() == bad
        assert lab.newest.state == "done"

        lab.toml()
        assert "it helped" in rollback("test", reason="4 in 10 searches fail")
    assert lab.serves() == before
    assert lab.world.ledger.releases.quarantined()[bad].endswith("4 in 10 searches fail")
    assert not [line for line in failures(log) if "answered 500" not in line]


def settled_by_reconcile(lab: Rollout) -> None:
    """In a world of its own, as its run has one."""
    expire(lab.scene.ledger)
    with closing(World.of("test").ledger) as ledger:
        reconcile(ledger)


def test_of_a_deploy_that_died_after_its_commit_reconcile_tells_and_publishes(
    lab: Rollout, ci: FakeGitHub, channel: FakeSlack
) -> None:
    lab.also(WITH_GITHUB, f"{WITH_GITHUB}\npublish = true")
    head = release(lab, ci, "feat: its process dies")
    assert fork(lambda: deploy("test"), "commit").ended() == DIED
    [message] = channel.messages.values()
    assert message["text"] == "Deployment to test: live, and watched"

    settled_by_reconcile(lab)

    told = lab.newest
    assert (told.state, lab.serves()) == ("done", head)
    [message] = channel.messages.values()
    assert message["text"] == "Deployment to test completed, inconclusive"
    assert str(told.why) in attachment(message)["text"]
    assert {"title": "Deployed by", "value": told.release.actor, "short": True} in attachment(message)["fields"]
    assert told.release.actor.endswith("in break glass")
    assert ci.tags == {f"v{told.release.number}": head}


def test_of_a_deploy_that_died_in_its_bake_reconcile_tells_that_it_was_taken_back(
    lab: Rollout, channel: FakeSlack
) -> None:
    before, head = lab.serves(), lab.repository.release("feat: its process dies early", {})
    slot = next(name for name, commit in lab.runs().items() if commit != before)
    assert fork(lambda: deploy("test"), f"shift to {slot}:done").ended() == DIED

    settled_by_reconcile(lab)

    [message] = channel.messages.values()
    assert message["text"] == "Deployment to test rolled back"
    assert "its holder died while acting" in attachment(message)["text"]
    assert f"({before[:8]}) serves." in attachment(message)["text"]
    assert lab.serves() == before
    assert head not in lab.world.ledger.releases.quarantined()  # nothing was found against it


def test_of_a_rollback_that_died_after_its_commit_reconcile_tells_and_the_quarantine_holds(
    lab: Rollout, channel: FakeSlack
) -> None:
    bad = lab.serves()
    assert fork(lambda: rollback("test", reason="odd"), "commit").ended() == DIED
    assert bad not in lab.world.ledger.releases.quarantined()

    settled_by_reconcile(lab)

    [message] = channel.messages.values()
    assert message["text"] == "Rollback of test completed, not proven to help"
    assert "Whether it helped is not proven: its process died. Run bake/test" in attachment(message)["text"]
    assert lab.serves() != bad
    assert lab.world.ledger.releases.quarantined()[bad].endswith(": odd")
