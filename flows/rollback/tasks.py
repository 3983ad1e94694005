"""What a rollback and a deploy look at and wait for: slots, releases, health, the served version, the schema."""

import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta

from blocks import web
from blocks.postgres.fingerprint import schema_fingerprint
from flows import people
from flows.bake.plot import evidence_image
from flows.bake.rule import Judgement
from flows.bake.sentence import sentence
from flows.bake.tasks import PROXY, watch
from flows.effect import NotDone, actor, effect
from flows.ledger import Settled
from flows.records_release import SHORT, Release, Told
from flows.rollback.candidates import Known, Rules, choose
from flows.rollback.plan import RollbackPlan, plan_rollback
from flows.serving import Span, serving, spans, spans_of
from flows.world import World

LOOK_S = 0.2
ANSWER_S = 5.0
GIVEN_BACK_S = 120.0  # a deploy's undo: drained, and stopped
Still = Callable[[], None]


def nothing_lost() -> None:
    """For waits outside of an operation."""


def await_healthy(world: World, slot: str, commit: str, still: Still = nothing_lost) -> None:
    """Wait until the slot's release is healthy and says that it is the commit; NotDone when it dies or time is over."""
    rules = world.stage.release
    deadline = time.monotonic() + rules.start_limit.total_seconds()
    while True:
        still()
        found = world.platform.slots()[slot]
        if not found.alive:
            raise NotDone(f"{commit[:SHORT]} ended while it was starting: {world.platform.words(slot, 3)}")
        answer = web.ask(found.url + rules.health, timeout_s=ANSWER_S)
        if answer.healthy and _is_version(answer, rules.version, commit):
            return
        if time.monotonic() > deadline:
            said = f"{answer}, version {answer.version(rules.version)}"
            raise NotDone(f"{commit[:SHORT]} was not healthy after {rules.start_limit.total_seconds():.0f} s: {said}")
        time.sleep(LOOK_S)  # readiness is asked for: an HTTP service announces nothing


def await_balancer(world: World, slot: str, still: Still = nothing_lost) -> None:
    """Wait until the load balancer's own check has passed: traffic that comes before gets 503."""
    deadline = time.monotonic() + world.stage.release.start_limit.total_seconds()
    while not world.traffic.checked(slot):
        still()
        if time.monotonic() > deadline:
            raise NotDone(f"the load balancer's own check of {slot} does not pass: is its port reachable from there?")
        time.sleep(LOOK_S)  # HAProxy tells nobody that a check has passed


def endpoints_answer(world: World, slot: str) -> list[str]:
    """What is wrong with the endpoints of the slot's release: a sentence each."""
    base = world.platform.slots()[slot].url
    answers = [web.ask(base + path, timeout_s=ANSWER_S) for path in world.stage.release.endpoints]
    return [str(answer) for answer in answers if not answer.serves]


@effect(name="verify")
def verify(world: World, release: Release) -> list[str]:
    """The four checks that it serves: version, health, schema, endpoints, asked where its visitors ask; the sentences.

    NotDone names the first that fails. A schema that differs from the recorded one is said, and fails nothing: what
    it may be was decided before.
    """
    rules, base = world.stage.release, world.traffic.url
    answer = web.ask(base + rules.health, timeout_s=ANSWER_S)
    if not answer.healthy:
        raise NotDone(f"{release.name} does not serve: {answer}")
    if not _is_version(answer, rules.version, release.commit):
        raise NotDone(f"{base} is served by {answer.version(rules.version)}, not by {release.name}")
    if wrong := [
        str(one) for one in (web.ask(base + path, timeout_s=ANSWER_S) for path in rules.endpoints) if not one.serves
    ]:
        raise NotDone(f"{release.name} serves, but {'; '.join(wrong)}")
    schema = read_schema(world)
    same = "as it was recorded" if schema == release.schema_after else "another than was recorded"
    served = f"version {answer.version(rules.version)[:SHORT]}"
    return [served, f"health {answer.status}", f"schema {same}", f"{len(rules.endpoints)} endpoints answer"]


def read_schema(world: World) -> str:
    """The fingerprint of the service's schema."""
    return schema_fingerprint(world.database.address())


def known_releases(world: World, releases: Sequence[Told], now: datetime) -> list[Known]:
    """Every commit that ever went live, newest first, with what is known of it today."""
    found, quarantined, slots = spans(releases, now), world.ledger.releases.quarantined(), world.platform.slots()
    newest: dict[str, Release] = {span.release.commit: span.release for span in found}
    order = sorted(newest.values(), key=lambda release: -release.number)
    living = {slot.commit for slot in slots.values() if slot.alive}
    return [
        _known(world, release, spans_of(release.commit, found), living, quarantined.get(release.commit, ""))
        for release in order
    ]


def rules_of(world: World) -> Rules:
    """What counts as stable on this stage."""
    rules = world.stage.release
    return Rules(rules.stable_after.total_seconds(), rules.stable_error_percent, rules.migrations.compatible)


def _known(world: World, release: Release, served: Sequence[Span], living: set[str | None], quarantine: str) -> Known:
    n, errors = _counted(world, served)
    return Known(
        release=release,
        served_s=sum(span.seconds for span in served),
        n=n,
        errors=errors,
        kept=release.commit in living,
        can_build=world.platform.git.has(release.commit),
        quarantine=quarantine,
    )


def _counted(world: World, served: Sequence[Span]) -> tuple[int, int]:
    since = datetime.now(UTC) - timedelta(days=7)
    found = [
        minute
        for span in served
        if span.ends > since
        for minute in world.counter.minutes((span.release.slot, PROXY), max(span.begins, since), span.ends)
    ]
    return sum(minute.n for minute in found), sum(minute.errors for minute in found)


def _is_version(answer: web.Answer, where: str, commit: str) -> bool:
    return not where or answer.version(where) == commit


# ---- the flow's own


@effect(name="stop a running deploy")
def stop_running_deploy(world: World, to: str, reason: str, *, dry_run: bool) -> str:
    """Ask a deploy that still bakes to undo itself, which is the rollback; the sentence, or nothing when none ran.

    Where another release was named than the one that it gives back, the plan goes on from there.
    """
    scope = f"{world.stage.name}/release"
    going = next((each for each in world.ledger.open() if scope in each.scopes and each.kind == "deploy"), None)
    if going is None:
        return ""
    if dry_run:
        return f"{going.key} is {going.state}: a rollback asks it to stop, and it undoes itself"
    world.ledger.ask_to_stop(scope, f"rollback by {actor()}: {reason or 'no reason was given'}")
    deadline = time.monotonic() + GIVEN_BACK_S
    while any(each.id == going.id for each in world.ledger.open()):
        if time.monotonic() > deadline:
            raise NotDone(f"{going.key} was asked to stop and has not after {GIVEN_BACK_S:.0f} s: see reconcile")
        time.sleep(LOOK_S)  # the ledger tells nobody when an operation is settled
    now = serving(world.ledger.releases.all(), datetime.now(UTC))
    if now is None or (to and to != f"v{now.number}" and not now.commit.startswith(to)):
        return ""
    checks = verify(world, now)
    return f"{going.key} was asked to stop and has undone itself: {now.name} serves ({', '.join(checks)})"


@effect(name="plan the rollback")
def make_plan(world: World, to: str, reason: str) -> RollbackPlan:
    """Where to go back to from what is seen now; NotDone where there is nothing."""
    now, releases = datetime.now(UTC), world.ledger.releases.all()
    current = serving(releases, now)
    if current is None:
        raise NotDone("no release ever served here: there is nothing to roll back")
    slots = {name: slot.commit or "" if slot.alive else "" for name, slot in world.platform.slots().items()}
    schema = read_schema(world)
    attempts = sum(told.release.kind == "rollback" for told in releases)
    try:
        choice = choose(known_releases(world, releases, now), current, schema, rules_of(world), to)
        key = f"rollback {current.commit} {attempts + 1}"
        return plan_rollback(choice, current, slots, key, reason or "no reason was given", schema, now)
    except ValueError as nothing:
        raise NotDone(str(nothing)) from None


def release_of(world: World, key: str) -> Release:
    """The record of an operation's release."""
    return next(told.release for told in world.ledger.releases.all() if told.release.key == key)


@effect(name="did it help?", retries=0)
def did_it_help(world: World, plan: RollbackPlan) -> Judgement:
    """Watch the restored release against the same tolerance as the one that was taken back."""
    return watch(world, release_of(world, plan.key))


def report(plan: RollbackPlan, settled: Settled, checks: Sequence[str], helped: Judgement) -> str:
    """The page of a rollback; the sentence. NotDone when it did not help: then the cause is elsewhere."""
    well = helped.action != "rollback"
    what = f"v{plan.number} ({plan.commit[:SHORT]}) serves again ({', '.join(checks)})"
    verdict = "it helped" if well else "the rollback did not help, the cause is elsewhere: page a person"
    said = f"{what}; {verdict}: {sentence(helped)}"
    picture = evidence_image(helped, title=f"Evidence after the rollback to v{plan.number}")
    people.report("rollback", f"# Rollback\n\n{plan.sentence}\n\n{said}\n\n{picture}\n\n{settled.reason}", said)
    if not well:
        raise NotDone(said)
    return said
