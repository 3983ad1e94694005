"""What a rollback looks at before it begins, and what it makes of the answer to whether it helped."""

import time
from datetime import UTC, datetime

from flows import people
from flows.bake.rule import Judgement
from flows.bake.tasks import Replaced, replay, serves_still, watch
from flows.effect import NotDone, actor, effect
from flows.rollback.asking import insist_on_a_platform, known_releases, release_of, rules_of, schema_if_known, verify
from flows.rollback.candidates import choose, goes_too_far
from flows.rollback.plan import RollbackPlan, blame, plan_rollback
from flows.serving import serving
from flows.world import World

LOOK_S = 0.2
GIVEN_BACK_S = 120.0  # a deploy's undo: drained, and stopped
NO_REASON = "no reason was given"


@effect(name="stop a running deploy")
def stop_running_deploy(world: World, to: str, reason: str, *, dry_run: bool) -> str:
    """Ask a deploy that still bakes to undo itself, which is the rollback; the sentence, or nothing when none ran.

    Where another release was named than the one that it gives back, or it could not be stopped any more, the plan goes
    on from there. What went live and was taken back so comes into quarantine.
    """
    insist_on_a_platform(world, "rolled back on")
    scope = f"{world.stage.name}/release"
    going = next((each for each in world.ledger.open() if scope in each.scopes and each.kind == "deploy"), None)
    if going is None:
        return ""
    if to:
        _insist_on_target(world, to, going.key)
    if dry_run:
        return f"{going.key} is {going.state}: a rollback asks it to stop, and it undoes itself"
    world.ledger.ask_to_stop(going.key, f"rollback by {actor()}: {reason or NO_REASON}")
    deadline = time.monotonic() + GIVEN_BACK_S
    while any(each.id == going.id for each in world.ledger.open()):
        if time.monotonic() > deadline:
            raise NotDone(f"{going.key} was asked to stop and has not after {GIVEN_BACK_S:.0f} s: see reconcile")
        time.sleep(LOOK_S)  # the ledger tells nobody when an operation is settled
    releases = world.ledger.releases.all()
    told = next((each for each in releases if each.release.key == going.key), None)
    if told and told.state != "undone":
        return ""
    if told and told.live_at:
        world.ledger.releases.quarantine(told.release.commit, blame(told.release.name, actor(), reason or NO_REASON))
    now = serving(releases, datetime.now(UTC))
    if now is None or (to and not now.is_called(to)):
        return ""
    checks = verify(world, now)
    return f"{going.key} was asked to stop and has undone itself: {now.name} serves ({', '.join(checks)})"


def _insist_on_target(world: World, to: str, key: str) -> None:
    """NotDone before a deploy is stopped for a release that could not be gone back to anyway."""
    now, releases = datetime.now(UTC), world.ledger.releases.all()
    undone = next((told.release for told in releases if told.release.key == key), None)
    given_back = serving([told for told in releases if told.release.key != key], now)
    if undone and undone.is_called(to):
        raise NotDone(f"{to} is what is being deployed now: name what to go back to, or nothing for what served before")
    if given_back and given_back.is_called(to):
        return
    try:
        choice = choose(known_releases(world, releases, now), given_back, schema_if_known(world), rules_of(world), to)
    except ValueError as unknown:
        raise NotDone(str(unknown)) from None
    if choice.target is None:
        raise NotDone(choice.sentence)


@effect(name="plan the rollback")
def make_plan(world: World, to: str, reason: str) -> RollbackPlan:
    """Where to go back to from what is seen now; NotDone where there is nothing."""
    now, releases = datetime.now(UTC), world.ledger.releases.all()
    current = serving(releases, now)
    if current is None:
        raise NotDone("no release serves here: there is nothing to roll back")
    live_at = next((told.live_at for told in releases if told.release.key == current.key), None)
    if not to and (why_not := goes_too_far(current, live_at, world.stage.release.rollback_pause, now)):
        raise NotDone(why_not)
    slots = {name: slot.commit or "" if slot.alive else "" for name, slot in world.platform.slots().items()}
    schema = schema_if_known(world)
    attempts = sum(told.release.kind == "rollback" for told in releases)
    try:
        choice = choose(known_releases(world, releases, now), current, schema, rules_of(world), to)
        key = f"rollback {current.commit} {attempts + 1}"
        return plan_rollback(choice, current, slots, key, reason or NO_REASON, schema, now)
    except ValueError as nothing:
        raise NotDone(str(nothing)) from None


@effect(name="did it help?", retries=0)
def did_it_help(world: World, plan: RollbackPlan) -> Judgement:
    """Watch the restored release against the same tolerance as the one that was taken back.

    If it is as bad, the cause is elsewhere: the one that was taken back is not to blame, and nothing is rolled back
    any further.
    """
    release = release_of(world, plan.key)
    try:
        seen = watch(world, release, serves_still(world, release))
    except Replaced as over:
        people.say(str(over))
        return replay(world, release)
    if seen.is_against_it and plan.blamed:
        world.ledger.releases.lift(plan.previous, blame(plan.blamed, release.actor, plan.reason))
    return seen
