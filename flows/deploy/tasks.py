"""What a deploy looks at before it begins, what it asks of a checkout, and what people see afterwards."""

import os
import time
from collections.abc import Callable, Generator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from blocks import commands
from blocks.errors import BlockError, Missing, Refused
from blocks.github import GitHub
from flows import people
from flows.backup.flow import backup as take_backup
from flows.bake.plot import evidence_image
from flows.bake.tasks import replay
from flows.deploy import gates
from flows.deploy.notes import notes, tag, title
from flows.deploy.plan import DeployPlan, Seen, plan_deploy
from flows.effect import NotDone, effect
from flows.ledger import Busy, Operation, Settled, Stopped
from flows.ledger.hands import sentence as words_of
from flows.notice import State, deploy_message, is_last
from flows.records import is_id
from flows.records_release import Gate, Migration, Release
from flows.redact import hide
from flows.rollback.candidates import choose
from flows.rollback.tasks import (
    facts_of,
    insist_on_a_platform,
    known_releases,
    quarantined,
    read_schema,
    release_of,
    rules_of,
    verify,
)
from flows.serving import serving
from flows.words import count
from flows.world import World

LOOK_S = 0.2
TOLD_EVERY_S = 60.0  # while it bakes
INCONCLUSIVE = ", inconclusive "  # as the sentence of a bake says it
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


@effect(name="gates", retries=0)
def make_plan(world: World, seen: Seen, backup: str, *, reading_only: bool) -> DeployPlan:
    """Ask every gate, all at once, and plan; with `reading_only` the commands are named and not run.

    A deploy that a dead run left unfinished has its plan already: nothing is asked again.
    """
    if seen.unfinished:
        people.say(f"{seen.name} was left unfinished: it goes on with its plan, and from the looks that are stored")
        return DeployPlan.model_validate(world.ledger.plan(seen.unfinished))
    rules = world.stage.release
    checkout = None if reading_only else world.platform.build(seen.commit)
    migrations, pending, found = _migrations(world, checkout)
    asked: list[Asked] = [
        lambda: gates.reachable(
            seen.commit, rules.branch, is_on_branch=world.platform.git.reachable(seen.commit, rules.branch)
        ),
        lambda: gates.not_quarantined(seen.commit, quarantined(world)),
        lambda: _vouched(world, seen.commit),
        lambda: gates.environment(world.stage.environment.required, seen.environment),
        lambda: gates.no_freeze(rules.freezes, seen.now),
        lambda: gates.way_back(seen, migrations, rules.migrations.compatible),
        lambda: gates.platform(rules),
        lambda: _backup(world, backup, seen.now),
        *(_command_gate(world, checkout, name, command) for name, command in rules.commands.items()),
        *([lambda: _audit(world, checkout, seen.now)] if rules.audit.command else []),
    ]
    with ThreadPoolExecutor(max_workers=4) as pool:
        answers = [each.result() for each in [pool.submit(ask) for ask in asked]]
    taken = backup if backup != BEFORE_DEPLOY or rules.proven_backup else "none"
    return plan_deploy(world.stage, seen, [*answers, *found], migrations, pending, taken)


def prepare(world: World, seen: Seen, plan: DeployPlan) -> None:
    """What must be so before anything is touched: every gate says yes, and there is the backup that it wants.

    Of a deploy that goes on: whoever had it is gone. NotDone names every gate that says no.
    """
    if seen.unfinished:
        _await_the_end_of_its_lease(world, seen.unfinished)
        return
    if plan.refusals:
        raise NotDone(f"{plan.name} was not deployed: {'; '.join(plan.refusals)}")
    if plan.backup == BEFORE_DEPLOY:
        tell(world, plan.name, "backup", plan.sentence)
        take_backup(world.stage.name, BEFORE_DEPLOY)


def _await_the_end_of_its_lease(world: World, key: str) -> None:
    """Until it ran out, was renewed (then it lives, and the ledger names it), or the deploy was settled."""
    first = None
    while going := next((each for each in world.ledger.open() if each.key == key), None):
        first = first or going.expires_at
        if going.renewed_ago >= world.stage.ledger.lease or going.expires_at != first:
            return
        time.sleep(LOOK_S)  # the ledger tells nobody that a lease ran out


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


def _vouched(world: World, commit: str) -> Gate:
    rules = world.stage.release
    if not rules.github:
        said = f"not asked, as release.github is empty: {count(len(rules.commands), 'declared command')} vouch"
        return Gate(name="CI", ok=True, sentence=said) if rules.commands else gates.nobody_vouches()
    try:
        checks = _github(world).checks(commit)
    except BlockError as error:
        return Gate(name="CI", ok=False, sentence=str(error))
    return gates.vouched(commit, [(check.name, check.state) for check in checks])


def _github(world: World) -> GitHub:
    """The repository that the stage names; Missing, Refused when no block is for it."""
    wanted, github = world.stage.release.github, world.github
    again = f"python -m deployments apply --stage {world.stage.name}"
    if github is None:
        raise Missing(f"nobody may ask {wanted}: set GITHUB_TOKEN and run {again}")
    if github.repository != wanted:
        raise Refused(f"the GitHub block is for {github.repository}, the stage's TOML names {wanted}: run {again}")
    return github


def _backup(world: World, backup: str, now: datetime) -> Gate:
    if backup == BEFORE_DEPLOY:
        taken = Gate(name="backup", ok=True, sentence=f"a {BEFORE_DEPLOY} backup is taken first")
        return taken if world.stage.release.proven_backup else gates.backup_is_left_out()
    if not is_id(backup):
        sentence = f"backup={backup!r} is neither {BEFORE_DEPLOY!r} nor the id of a backup"
        return Gate(name="backup", ok=False, sentence=sentence)
    found = next((each for each in world.ledger.backups() if each.id == backup), None)
    return gates.backup_is_proven(backup, found, world.ledger.proofs(backup), world.stage.objectives.rpo, now)


# ---- what people see


@contextmanager
def telling(world: World, seen: Seen, *, dry_run: bool) -> Generator[None]:
    """Within it people are told, by one message, of every way in which the deploy ends; of a dry run nothing is told.

    A deploy that goes on has its message already: it is edited once the deploy is ours.
    """
    if dry_run:
        yield
        return
    if not seen.unfinished:
        tell(world, seen.name, "gates", seen.subject)
    try:
        yield
    except BaseException as error:
        if not (seen.unfinished and isinstance(error, Busy)):  # else it is told by whoever holds it
            tell(world, seen.name, "rolled back" if isinstance(error, Stopped) else "failed", words_of(error))
        raise


def tell(world: World, name: str, state: State, said: str, *, every_s: float = 0.0) -> None:
    """Put this into the message about the release."""
    message = deploy_message(facts_of(world, name), state, said, datetime.now(UTC))
    world.announcement.show(message, last=is_last(state), every_s=every_s)


def tell_while_baking(world: World, name: str, known: str) -> None:
    """What a look came to, now and then."""
    tell(world, name, "baking", known, every_s=TOLD_EVERY_S)


@effect(name="take it back", retries=0)
def taken_back(world: World, plan: DeployPlan, why: str, *, by_evidence: bool) -> str:
    """After the undo: see that the version before serves, tell people; the sentence.

    What evidence took back comes into quarantine. What a policy took back because it proved nothing may come again.
    """
    release = release_of(world, plan.key)
    if by_evidence:
        world.ledger.releases.quarantine(release.commit, f"{release.name}: {why}")
    said = f"{release.name}: {why} {_what_serves(world)}"
    tell(world, release.name, "rolled back", said)
    _page(world, release, plan, said)
    return said


def _what_serves(world: World) -> str:
    now = serving(world.ledger.releases.all(), datetime.now(UTC))
    if now is None:
        return "Now nothing serves."
    try:
        return f"Now {now.name} serves again ({', '.join(verify(world, now))})."
    except NotDone as bad:
        return f"{now.name} has the traffic again, BUT: {bad}."


@effect(name="report", retries=0)
def report(world: World, plan: DeployPlan, settled: Settled) -> str:
    """The page of a deploy that stays, and its release on GitHub; the sentence.

    NotDone for one that is held: a person decides.
    """
    release, said = release_of(world, plan.key), str(settled.reason)
    is_held = said.startswith("HELD")
    published = "" if is_held else publish(world, plan, release, said)
    sentence = f"{release.name}: {said}{published}"
    tell(world, release.name, "held" if is_held else "inconclusive" if INCONCLUSIVE in said else "kept", sentence)
    _page(world, release, plan, sentence)
    if is_held:
        raise NotDone(sentence)
    return sentence


def publish(world: World, plan: DeployPlan, release: Release, evidence: str) -> str:
    """Make it a release on GitHub, where the stage wants that; what failed, as a sentence: the release stays."""
    if not world.stage.release.publish:
        return ""
    earlier = [told.release for told in world.ledger.releases.all() if told.release.commit == release.previous]
    page = notes(release, earlier[-1] if earlier else None, plan.changes, evidence)
    try:
        where = _github(world).release(tag(release), release.commit, title(release), hide(page))
    except BlockError as error:
        people.say(f"{tag(release)} is not on GitHub: {error}")
        return f" It is not published on GitHub: {error}."
    people.say(f"published: {where}")
    return ""


def _page(world: World, release: Release, plan: DeployPlan, said: str) -> None:
    picture = evidence_image(replay(world, release), title=f"Evidence against {release.name} on {release.stage}")
    people.report("deploy-report", f"# {release.name} on {release.stage}\n\n{picture}\n\n{plan.markdown}", said)


@effect(name="history")
def history(world: World) -> str:
    """Every release with what became of it, newest first, as a table."""
    told, why_not = world.ledger.releases.all(), quarantined(world)
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
            "quarantine": why_not.get(each.release.commit, ""),
        }
        for each in reversed(told)
    ]
    people.table("history", rows, f"{len(rows)} releases of {world.stage.name}")
    return f"{now.name} serves; {len(rows)} releases are remembered" if now else "nothing serves yet"
