"""What a deploy looks at before it begins, what it asks of a checkout, and what people see afterwards."""

import os
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path

from blocks import commands
from blocks.errors import BlockError, Missing
from flows import people
from flows.backup.flow import backup as take_backup
from flows.bake.plot import evidence_image
from flows.bake.tasks import replay
from flows.deploy import gates
from flows.deploy.plan import DeployPlan, Seen, plan_deploy
from flows.effect import NotDone, effect
from flows.ledger import Operation, Settled
from flows.records import is_id
from flows.records_release import Gate, Migration, Release
from flows.redact import hide
from flows.rollback.candidates import choose
from flows.rollback.tasks import known_releases, read_schema, release_of, rules_of, verify
from flows.serving import serving
from flows.world import World

PASSED_ON = ("PATH", "HOME", "LANG", "TMPDIR")  # of this process' variables, to a declared command
BEFORE_DEPLOY = "before-deploy"
Asked = Callable[[], Gate]


@effect(name="look")
def look(world: World, commit: str) -> Seen:
    """What serves, what ran before, what the commit is; NotDone for a commit that the repository does not have."""
    insist_on_a_platform(world)
    rules, platform, now = world.stage.release, world.platform, datetime.now(UTC)
    try:
        whole = platform.git.resolve(commit or rules.branch)
    except Missing as unknown:
        raise NotDone(f"nothing was deployed: {unknown}") from None
    releases = world.ledger.releases.all()
    current = serving(releases, now)
    known = current is not None and platform.git.has(current.commit)
    slots = {name: slot.commit or "" if slot.alive else "" for name, slot in platform.slots().items()}
    schema = read_schema(world)
    return Seen(
        commit=whole,
        subject=(platform.git.subjects("", whole) or [""])[0],
        slots=slots,
        shares=world.traffic.shares(),
        releases=tuple(releases),
        environment=tuple(sorted(platform.environment)),
        changes=tuple(platform.git.subjects(current.commit, whole)) if current and known else (),
        schema=schema,
        way_back=choose(known_releases(world, releases, now), None, schema, rules_of(world)),
        now=now,
    )


def insist_on_a_platform(world: World) -> None:
    """NotDone where the stage has no platform that releases can be driven on."""
    platform = world.stage.release.platform
    if platform != "processes":
        what = f"{platform} is not built yet" if platform else "it declares none in [release]"
        raise NotDone(f"nothing can be deployed to {world.stage.name} from here: its platform, {what}")


@effect(name="gates", retries=0)
def make_plan(world: World, seen: Seen, backup: str, *, reading_only: bool) -> DeployPlan:
    """Ask every gate, all at once, and plan; with `reading_only` the commands are named and not run."""
    rules = world.stage.release
    checkout = None if reading_only else world.platform.build(seen.commit)
    migrations, pending, found = _migrations(world, checkout)
    asked: list[Asked] = [
        lambda: gates.reachable(
            seen.commit, rules.branch, is_on_branch=world.platform.git.reachable(seen.commit, rules.branch)
        ),
        lambda: gates.not_quarantined(seen.commit, world.ledger.releases.quarantined()),
        lambda: gates.environment(world.stage.environment.required, seen.environment),
        lambda: gates.no_freeze(rules.freezes, seen.now),
        lambda: gates.way_back(seen, migrations, rules.migrations.compatible),
        lambda: gates.platform(rules),
        *([] if backup == BEFORE_DEPLOY else [lambda: _named_backup(world, backup, seen.now)]),
        *(_command_gate(world, checkout, name, command) for name, command in rules.commands.items()),
        *([lambda: _audit(world, checkout, seen.now)] if rules.audit.command else []),
    ]
    with ThreadPoolExecutor(max_workers=4) as pool:
        answers = [each.result() for each in [pool.submit(ask) for ask in asked]]
    said = f"a {BEFORE_DEPLOY} backup is taken first" if backup == BEFORE_DEPLOY else backup
    return plan_deploy(world.stage, seen, [*answers, *found], migrations, pending, said)


def insist(plan: DeployPlan) -> None:
    """Stop here when a gate says no; all that do are named."""
    if plan.refusals:
        raise NotDone(f"{plan.name} was not deployed: {'; '.join(plan.refusals)}")


def back_up(world: World, backup: str) -> None:
    """Take the before-deploy backup, where no proven one was named."""
    if backup == BEFORE_DEPLOY and world.stage.release.proven_backup:
        take_backup(world.stage.name, BEFORE_DEPLOY)


def look_again(world: World, plan: DeployPlan) -> DeployPlan:
    """The plan once more, from what is seen while everything is held; gates are not asked again."""
    seen = look(world, plan.commit)
    return plan_deploy(world.stage, seen, plan.gates, plan.migrations, plan.pending, plan.backup)


# ---- commands of a checkout


def is_pending(world: World, commit: str) -> bool:
    """Whether migrations of the commit are pending; NotDone when its status command says neither."""
    done = _run(world, world.platform.build(commit), world.stage.release.migrations.status)
    gate, pending = gates.migrations(done.code, done.seconds, hide(done.last_words))
    if not gate.ok:
        raise NotDone(f"the state of the migrations is unknown: {gate.sentence}")
    return pending


def migrate_up(world: World, commit: str) -> None:
    """Run the commit's migrations; NotDone with their last words when they fail."""
    done = _run(world, world.platform.build(commit), world.stage.release.migrations.up)
    if done.code:
        raise NotDone(f"the migrations failed with exit code {done.code}: {hide(done.last_words)}")


@effect(name="smoke", retries=0)
def smoke(world: World, plan: DeployPlan) -> None:
    """Run the smoke tests against the new release before it has traffic; NotDone when they fail."""
    command = world.stage.release.smoke
    if not command:
        return
    address = world.platform.slots()[plan.slot].url
    done = _run(world, world.platform.build(plan.commit), command, {"API_URL": address})
    if done.code:
        raise NotDone(f"{plan.name} gets no traffic: its smoke tests failed: {hide(done.last_words)}")
    people.say(f"smoke tests passed: {hide(done.last_words)}")


def remember_schema(world: World, release: Release, op: Operation) -> Release:
    """What the schema is once its migrations are through."""
    changed = release.model_copy(update={"schema_after": read_schema(world)})
    world.ledger.releases.remember(changed, op)
    return changed


def _run(world: World, folder: Path, command: str, more: Mapping[str, str] | None = None) -> commands.Done:
    own = {name: value for name, value in ((each, os.environ.get(each)) for each in PASSED_ON) if value}
    secret = {name: value.get_secret_value() for name, value in world.platform.environment.items()}
    limit_s = world.stage.release.command_limit.total_seconds()
    return commands.run(command, folder, limit_s=limit_s, environment={**own, **secret, **(more or {})})


def _command_gate(world: World, checkout: Path | None, name: str, command: str) -> Asked:
    def ask() -> Gate:
        if checkout is None:
            return Gate(name=name, ok=True, sentence=f"would run: {command}")
        try:
            done = _run(world, checkout, command)
        except BlockError as error:
            return Gate(name=name, ok=False, sentence=str(error))
        limit = world.stage.release.command_limit
        return gates.command(name, done.code, done.seconds, hide(done.last_words), limit)

    return ask


def _migrations(world: World, checkout: Path | None) -> tuple[tuple[Migration, ...], bool, list[Gate]]:
    """All that the checkout knows, whether some are pending, and the gate's answer."""
    rules = world.stage.release.migrations
    if not rules.status or checkout is None:
        found = [Gate(name="migrations", ok=True, sentence=f"would run: {rules.status}")] if rules.status else []
        return (), False, found
    status = _run(world, checkout, rules.status)
    gate, pending = gates.migrations(status.code, status.seconds, hide(status.last_words))
    try:
        return gates.listed(_run(world, checkout, rules.listing).output), pending, [gate]
    except ValueError as wrong:
        return (), pending, [gate, Gate(name="migrations' listing", ok=False, sentence=str(wrong))]


def _audit(world: World, checkout: Path | None, now: datetime) -> Gate:
    rules = world.stage.release.audit
    if checkout is None:
        return Gate(name="audit", ok=True, sentence=f"would run: {rules.command}")
    return gates.audit(_run(world, checkout, rules.command).output, rules, now)


def _named_backup(world: World, backup: str, now: datetime) -> Gate:
    if not is_id(backup):
        sentence = f"backup={backup!r} is neither {BEFORE_DEPLOY!r} nor the id of a backup"
        return Gate(name="backup", ok=False, sentence=sentence)
    found = next((each for each in world.ledger.backups() if each.id == backup), None)
    return gates.backup_is_proven(backup, found, world.ledger.proofs(backup), world.stage.objectives.rpo, now)


# ---- what people see


@effect(name="take it back", retries=0)
def taken_back(world: World, plan: DeployPlan, why: str) -> str:
    """After the undo: quarantine the commit, see that the version before serves, tell people; the sentence."""
    release = release_of(world, plan.key)
    world.ledger.releases.quarantine(release.commit, f"{release.name}: {why}")
    now = serving(world.ledger.releases.all(), datetime.now(UTC))
    checks = f"{now.name} serves again ({', '.join(verify(world, now))})" if now else "nothing serves"
    said = f"{release.name}: {why} Now {checks}."
    _page(world, release, plan, said)
    return said


@effect(name="report", retries=0)
def report(world: World, plan: DeployPlan, settled: Settled) -> str:
    """The page of a deploy that stays; the sentence. NotDone for one that is held: a person decides."""
    release = release_of(world, plan.key)
    said = f"{release.name}: {settled.reason}"
    _page(world, release, plan, said)
    if str(settled.reason).startswith("HELD"):
        raise NotDone(said)
    return said


def _page(world: World, release: Release, plan: DeployPlan, said: str) -> None:
    picture = evidence_image(replay(world, release), title=f"Evidence against {release.name} on {release.stage}")
    people.report("deploy", f"# {release.name} on {release.stage}\n\n{said}\n\n{picture}\n\n{plan.markdown}", said)


@effect(name="history")
def history(world: World) -> str:
    """Every release with what became of it, newest first, as a table."""
    told = world.ledger.releases.all()
    now = serving(told, datetime.now(UTC))
    rows = [
        {
            "release": each.release.name,
            "kind": each.release.kind,
            "subject": each.release.subject,
            "by": each.release.actor,
            "live at": str(each.live_at or "never"),
            "state": "live" if now and now.key == each.release.key else each.state,
            "what became of it": each.why,
        }
        for each in reversed(told)
    ]
    people.table("history", rows, f"{len(rows)} releases of {world.stage.name}")
    return f"{now.name} serves; {len(rows)} releases are remembered" if now else "nothing serves yet"
