"""What a deploy looks at and asks for before it begins."""

import time
from datetime import UTC, datetime
from functools import partial

from blocks.errors import Missing
from flows import people
from flows.backup.flow import backup as take_backup
from flows.bake.tasks import Replaced, serves_still, watch
from flows.deploy.asking import BEFORE_DEPLOY, ask_gates
from flows.deploy.plan import DeployPlan, Seen, plan_deploy
from flows.deploy.telling import tell, tell_while_baking
from flows.effect import NotDone, effect
from flows.ledger import Operation
from flows.records_release import Release
from flows.rollback.asking import insist_on_a_platform, known_releases, read_schema, release_of, rules_of
from flows.rollback.candidates import choose
from flows.serving import serving
from flows.world import World

LOOK_S = 0.2
MOST_CHANGES = 1000  # of the commits since what serves


@effect(name="look")
def look(world: World, commit: str) -> Seen:
    """What serves, what ran before, what the commit is; NotDone for a commit that the repository does not have."""
    insist_on_a_platform(world, "deployed to")
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
        subject=(platform.git.subjects("", whole, most=1) or [""])[0],
        slots=slots,
        shares=world.traffic.shares(),
        releases=tuple(releases),
        environment=tuple(sorted(name for name, value in platform.environment.items() if value.get_secret_value())),
        changes=tuple(platform.git.subjects(current.commit, whole, most=MOST_CHANGES)) if current and known else (),
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
    if reading_only:
        said = ask_gates(world, seen, backup, None)
    else:
        with world.platform.fresh_checkout(seen.commit) as checkout:
            said = ask_gates(world, seen, backup, checkout)
    taken = backup if backup != BEFORE_DEPLOY or world.stage.release.proven_backup else "none"
    return plan_deploy(world.stage, seen, said.gates, said.migrations, said.pending, taken)


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
        try:
            take_backup(world.stage.name, BEFORE_DEPLOY)
        finally:
            people.take_outcome()  # the backup's operation is not the deploy's


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


def watch_on(world: World, plan: DeployPlan) -> None:
    """The bake of a release that stays whatever is found; over, when another one gets the traffic."""
    release = release_of(world, plan.key)
    try:
        watch(world, release, serves_still(world, release), partial(tell_while_baking, world, release.name))
    except Replaced as over:
        people.say(str(over))


def remember_schema(world: World, release: Release, op: Operation) -> Release:
    """What the schema is once its migrations are through."""
    changed = release.model_copy(update={"schema_after": read_schema(world)})
    world.ledger.releases.remember(changed, op)
    return changed
