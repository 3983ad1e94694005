"""The parts table: which block of a stage holds what, and from which of the deployer's variables `apply` makes it.

It is the one place that says so. Break glass builds the same blocks from the same variables, without a Prefect server.
"""

import json
import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from prefect.blocks.core import Block
from prefect_aws import AwsCredentials
from prefect_slack import SlackCredentials, SlackWebhook
from pydantic import SecretStr

from blocks.counter import Counter
from blocks.github import GitHub
from blocks.haproxy import HAProxy
from blocks.keys import BackupKeys, RestoreKey
from blocks.postgres.server import PostgresServer
from blocks.processes import Processes
from blocks.slack import SlackChannel
from blocks.storage.block import BackupStore
from flows.stage import Stage

Environment = Mapping[str, str]
COMMAND_SHARE = 0.2  # of the lease: a command begun at 80 % of it is over at its end
GITHUB_API, SLACK_API = "https://api.github.com", "https://slack.com/api/"


@dataclass(frozen=True)
class Part:
    """A block of a stage: its role in the name, the variables it is made from, and how."""

    role: str  # "" is the block named like the stage itself
    block: type[Block]
    needs: tuple[str, ...]
    build: Callable[[Stage, Environment], Block]
    optional: bool = False
    spare: tuple[str, ...] = ()  # break glass does without, where it only reads: it encrypts and signs nothing
    where: Callable[[Stage], bool] = lambda _stage: True  # on which stages there is one at all

    def name(self, stage: str) -> str:
        """The block's name: the stage, and the role where a stage has several blocks of one type."""
        return f"{stage}-{self.role}" if self.role else stage


@dataclass(frozen=True)
class WantedBlock:
    """What `apply` saves: a block's name and how to build it, or the variables that are missing for it."""

    name: str
    block: type[Block]
    build: Callable[[], Block]
    needs: tuple[str, ...]
    missing: tuple[str, ...]  # of what it needs
    optional: bool
    spare: tuple[str, ...] = ()


def server_part(url: str) -> Callable[[Stage, Environment], Block]:
    """How a server is made whose address is in the variable `url`; its certificate authority in `url`_CA_FILE."""

    def build(stage: Stage, env: Environment) -> Block:
        ca = env.get(f"{url}_CA_FILE", "")
        return PostgresServer(
            url=SecretStr(env[url]), ca=Path(ca).read_text(encoding="utf-8") if ca else "", bin_dir=stage.database.tools
        )

    return build


def _store(prefix: str) -> Callable[[Stage, Environment], Block]:
    def build(stage: Stage, env: Environment) -> Block:
        store = stage.store
        if store.kind == "directory":
            return BackupStore(kind="directory", folder=store.folder, prefix=store.prefix)
        credentials = AwsCredentials(
            aws_access_key_id=env[f"{prefix}AWS_ACCESS_KEY_ID"],
            aws_secret_access_key=SecretStr(env[f"{prefix}AWS_SECRET_ACCESS_KEY"]),
            region_name=store.region or None,
            aws_client_parameters={"endpoint_url": env.get("AWS_ENDPOINT_URL")},  # pyright: ignore[reportArgumentType] - pydantic makes it
        )
        return BackupStore(
            kind="s3",
            bucket=store.bucket,
            prefix=store.prefix,
            credentials=credentials,
            sse=store.sse or "none",
            storage_class=store.storage_class,
            frequent_storage_class=store.frequent_storage_class,
        )

    return build


def _keys(signing: str) -> Callable[[Stage, Environment], Block]:
    def build(_stage: Stage, env: Environment) -> Block:
        return BackupKeys(
            recipients=_keys_in(env, "BACKUP_RECIPIENTS"),
            verifying_keys=_keys_in(env, "BACKUP_VERIFYING_KEYS"),
            proof_verifying_keys=_keys_in(env, "PROOF_VERIFYING_KEYS"),
            signing_key=SecretStr(env[signing]) if env.get(signing) else None,
        )

    return build


def _keys_in(env: Environment, name: str) -> list[str]:
    return env[name].split(",") if env.get(name) else []


def _processes(stage: Stage, env: Environment) -> Block:
    names = dict.fromkeys((*stage.environment.required, *stage.environment.presets))
    given = {name: env.get(f"SERVICE_{name}") or stage.environment.presets.get(name, "") for name in names}
    return Processes(
        folder=env["PROCESSES_FOLDER"],
        repository=env["PROCESSES_REPOSITORY"],
        ports=json.loads(env["PROCESSES_PORTS"]),
        start_command=shlex.split(env["PROCESSES_START"]),
        environment={name: SecretStr(value) for name, value in given.items() if value},
        grace_s=stage.release.drain_limit.total_seconds(),
    )


def _balancer(stage: Stage, env: Environment) -> Block:
    lease_s = stage.ledger.lease.total_seconds()
    return HAProxy(socket=env["HAPROXY_SOCKET"], url=env["HAPROXY_URL"], timeout_s=lease_s * COMMAND_SHARE)


def _on_processes(stage: Stage) -> bool:
    return stage.release.platform == "processes"


def _github(stage: Stage, env: Environment) -> Block:
    token, api_url = SecretStr(env["GITHUB_TOKEN"]), env.get("GITHUB_API_URL") or GITHUB_API
    return GitHub(repository=stage.release.github, token=token, api_url=api_url)


def _channel(_stage: Stage, env: Environment) -> Block:
    credentials = SlackCredentials(token=SecretStr(env["SLACK_BOT_TOKEN"]))
    api_url = env.get("SLACK_API_URL") or SLACK_API
    return SlackChannel(credentials=credentials, channel=env["SLACK_CHANNEL"], api_url=api_url)


PROCESSES = ("PROCESSES_FOLDER", "PROCESSES_REPOSITORY", "PROCESSES_PORTS", "PROCESSES_START")
AWS = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")
PUBLIC_KEYS = ("BACKUP_RECIPIENTS", "BACKUP_VERIFYING_KEYS", "PROOF_VERIFYING_KEYS")
PARTS = (
    Part("", PostgresServer, ("DATABASE_URL",), server_part("DATABASE_URL")),
    Part("ledger", PostgresServer, ("LEDGER_URL",), server_part("LEDGER_URL")),
    Part("scratch", PostgresServer, ("SCRATCH_URL",), server_part("SCRATCH_URL"), optional=True),
    Part("", BackupStore, AWS, _store("")),
    Part("reading", BackupStore, tuple(f"READING_{name}" for name in AWS), _store("READING_"), optional=True),
    Part("pruning", BackupStore, tuple(f"PRUNING_{name}" for name in AWS), _store("PRUNING_"), optional=True),
    Part(
        "",
        BackupKeys,
        (*PUBLIC_KEYS, "BACKUP_SIGNING_KEY"),
        _keys("BACKUP_SIGNING_KEY"),
        spare=("BACKUP_RECIPIENTS", "PROOF_VERIFYING_KEYS", "BACKUP_SIGNING_KEY"),
    ),
    Part("proof", BackupKeys, (*PUBLIC_KEYS, "PROOF_SIGNING_KEY"), _keys("PROOF_SIGNING_KEY")),
    Part(
        "",
        RestoreKey,
        ("RESTORE_IDENTITY_FILE",),
        lambda _stage, env: RestoreKey(identity_file=env["RESTORE_IDENTITY_FILE"]),
    ),
    Part("", Processes, PROCESSES, _processes, where=_on_processes),
    Part("", HAProxy, ("HAPROXY_SOCKET", "HAPROXY_URL"), _balancer, where=_on_processes),
    Part(
        "",
        Counter,
        ("COUNTER_FILE",),
        lambda _stage, env: Counter(file=env["COUNTER_FILE"]),
        where=_on_processes,
    ),
    Part("", GitHub, ("GITHUB_TOKEN",), _github, optional=True, where=lambda stage: bool(stage.release.github)),
    Part("", SlackChannel, ("SLACK_BOT_TOKEN", "SLACK_CHANNEL"), _channel, optional=True),
    Part(
        "",
        SlackWebhook,
        ("SLACK_WEBHOOK_URL",),
        lambda _stage, env: SlackWebhook(url=SecretStr(env["SLACK_WEBHOOK_URL"])),
        optional=True,
    ),
)


def wanted_blocks(stage: Stage, environ: Environment) -> list[WantedBlock]:
    """Every block of the stage, with what is missing in the environment to build it."""
    return [
        WantedBlock(
            part.name(stage.name),
            part.block,
            lambda part=part: part.build(stage, environ),
            needs_of(part, stage),
            tuple(name for name in needs_of(part, stage) if not environ.get(name)),
            part.optional,
            part.spare,
        )
        for part in PARTS
        if part.where(stage)
    ]


def needs_of(part: Part, stage: Stage) -> tuple[str, ...]:
    """The variables that the part is made from on that stage."""
    directory = part.block is BackupStore and stage.store.kind == "directory"
    return () if directory else part.needs
