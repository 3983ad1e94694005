"""Which blocks a stage has, and what each is made from."""

from pathlib import Path

import pytest
from prefect_slack import SlackWebhook

from blocks.errors import Missing
from blocks.github import GitHub
from blocks.keys import new_keys
from blocks.slack import SlackChannel
from flows.deploy.flow import deploy
from flows.effect import NotDone, without_prefect
from flows.parts import GITHUB_API, wanted_blocks
from flows.redact import hide
from flows.rollback.flow import rollback
from flows.stage import STAGES, PinnedKeys, Stage
from flows.world import World

LOCAL = (STAGES / "local.toml").read_text(encoding="utf-8")
CODE = {"GITHUB_TOKEN": "github-canary-token-0815"}
WEBHOOK = {"SLACK_WEBHOOK_URL": "https://hooks.slack.com/services/T0/B0/canary0815"}
BOT = {"SLACK_BOT_TOKEN": "xoxb-canary-0815-0815", "SLACK_CHANNEL": "#deploys"}


def stage(github: str = "") -> Stage:
    return Stage.parse(LOCAL.replace("[release]\n", f'[release]\ngithub = "{github}"\n'), "local")


def test_github_is_asked_only_where_the_stage_names_a_repository() -> None:
    assert World(stage(), CODE).github is None
    assert World(stage("curator/service"), {}).github is None
    github = World(stage("curator/service"), CODE).github
    assert github
    assert (github.repository, github.api_url) == ("curator/service", GITHUB_API)
    elsewhere = World(stage("curator/service"), CODE | {"GITHUB_API_URL": "https://git.example.com/api/v3"}).github
    assert elsewhere
    assert elsewhere.api_url == "https://git.example.com/api/v3"


def test_a_channel_goes_before_a_webhook() -> None:
    assert World(stage(), {}).slack is None
    assert isinstance(World(stage(), WEBHOOK).slack, SlackWebhook)
    channel = World(stage(), WEBHOOK | BOT | {"SLACK_API_URL": "http://127.0.0.1:9/api/"}).slack
    assert isinstance(channel, SlackChannel)
    assert (channel.channel, channel.api_url) == ("#deploys", "http://127.0.0.1:9/api/")


def test_half_a_bot_is_none_and_what_is_missing_is_named() -> None:
    half = {"SLACK_BOT_TOKEN": BOT["SLACK_BOT_TOKEN"]}
    assert World(stage(), half).slack is None
    wanted = {each.block: each for each in wanted_blocks(stage("curator/service"), half)}
    assert (wanted[SlackChannel].missing, wanted[SlackChannel].optional) == (("SLACK_CHANNEL",), True)
    assert (wanted[GitHub].missing, wanted[GitHub].optional) == (("GITHUB_TOKEN",), True)


def test_their_secrets_are_hidden_from_then_on() -> None:
    world = World(stage("curator/service"), CODE | BOT)
    assert world.github
    assert world.slack
    said = hide(f"{CODE['GITHUB_TOKEN']} and {BOT['SLACK_BOT_TOKEN']}")
    assert "canary" not in said


def test_a_part_that_must_be_there_names_its_variables() -> None:
    with pytest.raises(Missing, match="HAPROXY_SOCKET, HAPROXY_URL"):
        _ = World(stage(), {}).traffic


def test_pinned_keys_that_are_given_must_agree_and_what_only_reads_wants_not_all_of_them() -> None:
    keys, other = new_keys(), new_keys()
    pins = PinnedKeys(
        recipients=(keys.team_recipient,),
        verifying_keys=(keys.backup_verifying_key,),
        proof_verifying_keys=(keys.proof_verifying_key,),
    )
    pinned = stage().model_copy(update={"pinned_keys": pins})
    given = {"BACKUP_VERIFYING_KEYS": keys.backup_verifying_key}
    assert World(pinned, given).reading_keys.verifying_keys == [keys.backup_verifying_key]
    with pytest.raises(Missing, match="needs BACKUP_RECIPIENTS, PROOF_VERIFYING_KEYS in the environment"):
        _ = World(pinned, given).keys
    with pytest.raises(Missing, match="local needs BACKUP_VERIFYING_KEYS in the environment"):
        _ = World(pinned, {}).reading_keys
    for name, value in (
        ("BACKUP_VERIFYING_KEYS", other.backup_verifying_key),
        ("PROOF_VERIFYING_KEYS", other.proof_verifying_key),
        ("BACKUP_RECIPIENTS", other.team_recipient),
    ):
        with pytest.raises(NotDone, match=r"of the BackupKeys block and of local\.toml differ"):
            _ = World(pinned, given | {name: value}).reading_keys


@pytest.mark.parametrize("name", ["production", "staging"])
def test_the_real_stages_say_that_their_platform_is_not_built_yet(
    name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    for variable in ("SHIPKEEPER_STAGES", "LEDGER_URL", "DATABASE_URL"):
        monkeypatch.delenv(variable, raising=False)
    rules = Stage.named(name).release
    assert (rules.branch, rules.github, rules.publish) == ({"production": "main"}.get(name, name), "", False)
    with without_prefect():
        for run, what in ((deploy, "deployed to"), (rollback, "rolled back on")):
            with pytest.raises(NotDone, match=f"nothing can be {what} {name} from here: its platform, railway is"):
                run(name, dry_run=True)
