"""What a rollback and a deploy look at and wait for: slots, releases, health, the served version, the schema."""

import time
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta

from blocks import web
from blocks.errors import BlockError
from blocks.postgres.fingerprint import schema_fingerprint
from blocks.slack import Notice
from flows import people
from flows.bake.plot import evidence_image
from flows.bake.rule import Judgement
from flows.bake.sentence import sentence
from flows.bake.tasks import PROXY, watch
from flows.effect import NotDone, actor, effect
from flows.ledger import Settled
from flows.ledger.hands import sentence as words_of
from flows.notice import Facts, Going, rollback_message
from flows.records_release import SHORT, Release, Told
from flows.rollback.candidates import Known, Rules, choose, goes_too_far
from flows.rollback.plan import RollbackPlan, plan_rollback
from flows.serving import Span, serving, spans, spans_of
from flows.world import World

LOOK_S = 0.2
ANSWER_S = 5.0
GIVEN_BACK_S = 120.0  # a deploy's undo: drained, and stopped
NO_REASON = "no reason was given"
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
    schema = schema_if_known(world)
    same = "as it was recorded" if schema == release.schema_after else "another than was recorded, or not known"
    served = f"version {answer.version(rules.version)[:SHORT]}"
    return [served, f"health {answer.status}", f"schema {same}", f"{len(rules.endpoints)} endpoints answer"]


def read_schema(world: World) -> str:
    """The fingerprint of the service's schema."""
    return schema_fingerprint(world.database.address())


def schema_if_known(world: World) -> str:
    """The same, or nothing when the database does not answer: then the migrations alone decide what fits."""
    try:
        return read_schema(world)
    except BlockError as silent:
        people.say(f"the schema is not known: {silent}")
        return ""


def known_releases(world: World, releases: Sequence[Told], now: datetime) -> list[Known]:
    """Every commit that ever went live, newest first, with what is known of it today."""
    found, locked_away, slots = spans(releases, now), quarantined(world), world.platform.slots()
    newest: dict[str, Release] = {span.release.commit: span.release for span in found}
    order = sorted(newest.values(), key=lambda release: -release.number)
    living = {slot.commit for slot in slots.values() if slot.alive}
    return [
        _known(world, release, spans_of(release.commit, found), living, locked_away.get(release.commit, ""))
        for release in order
    ]


def quarantined(world: World) -> dict[str, str]:
    """Which commits are in quarantine, and why; not those that the stage's TOML pardons."""
    pardoned = world.stage.release.pardoned
    found = world.ledger.releases.quarantined()
    return {commit: why for commit, why in found.items() if not any(commit.startswith(each) for each in pardoned)}


def insist_on_a_platform(world: World) -> None:
    """NotDone where the stage has no platform that releases can be driven on."""
    platform = world.stage.release.platform
    if platform != "processes":
        what = f"{platform} is not built yet" if platform else "it declares none in [release]"
        raise NotDone(f"nothing can be deployed to {world.stage.name} from here: its platform, {what}")


def facts_of(world: World, name: str) -> Facts:
    """What every message about a release says."""
    return Facts(world.stage.name, world.stage.service.public_url, name, actor())


def keep_telling(world: World, release: Release) -> None:
    """From now on the message about it is kept beside it: whoever goes on with it edits the same one."""
    kept = world.ledger.releases.notice(release.key)
    notice = Notice(channel=kept["channel"], ts=kept["ts"]) if kept else None
    world.announcement.go_on(notice, lambda one: world.ledger.releases.keep_notice(release.key, one))


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
    """Nothing where the counter is silent: whoever has to go back at night goes back without it."""
    try:
        return _counts(world, served)
    except BlockError as silent:
        people.say(f"what was served is not known: {silent}")
        return 0, 0


def _counts(world: World, served: Sequence[Span]) -> tuple[int, int]:
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

    Where another release was named than the one that it gives back, or it could not be stopped any more, the plan goes
    on from there. What went live and was taken back so comes into quarantine.
    """
    insist_on_a_platform(world)
    scope = f"{world.stage.name}/release"
    going = next((each for each in world.ledger.open() if scope in each.scopes and each.kind == "deploy"), None)
    if going is None:
        return ""
    if dry_run:
        return f"{going.key} is {going.state}: a rollback asks it to stop, and it undoes itself"
    world.ledger.ask_to_stop(scope, f"rollback by {actor()}: {reason or NO_REASON}")
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
        world.ledger.releases.quarantine(told.release.commit, _why(told.release.name, reason))
    now = serving(releases, datetime.now(UTC))
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


def release_of(world: World, key: str) -> Release:
    """The record of an operation's release."""
    return next(told.release for told in world.ledger.releases.all() if told.release.key == key)


@contextmanager
def telling(world: World, plan: RollbackPlan) -> Generator[None]:
    """Within it people are told, by one message: that it has begun, and how it ended."""
    _tell(world, plan, "begun", plan.sentence)
    try:
        yield
    except BaseException as error:
        _tell(world, plan, "failed", words_of(error))
        raise


@effect(name="quarantine")
def lock_away(world: World, plan: RollbackPlan) -> None:
    """What was taken back is not gone back to, nor deployed again; nothing, where a newer release got the traffic."""
    if plan.blamed:
        world.ledger.releases.quarantine(plan.previous, _why(plan.blamed, plan.reason))


@effect(name="did it help?", retries=0)
def did_it_help(world: World, plan: RollbackPlan) -> Judgement:
    """Watch the restored release against the same tolerance as the one that was taken back.

    If it is as bad, the cause is elsewhere: the one that was taken back is not to blame, and nothing is rolled back
    any further.
    """
    seen = watch(world, release_of(world, plan.key))
    if _did_not_help(seen) and plan.blamed:
        world.ledger.releases.lift(plan.previous, _why(plan.blamed, plan.reason))
    return seen


def report(world: World, plan: RollbackPlan, settled: Settled, checks: Sequence[str], helped: Judgement) -> str:
    """The page of a rollback; the sentence. NotDone when it did not help: then the cause is elsewhere."""
    state, verdict = _verdict(helped)
    said = f"{plan.name} serves again ({', '.join(checks)}); {verdict}: {sentence(helped, stays=True)}"
    picture = evidence_image(helped, title=f"Evidence after the rollback to v{plan.number}")
    people.report("rollback-report", f"# Rollback\n\n{picture}\n\n{plan.sentence}\n\n{settled.reason}", said)
    _tell(world, plan, state, said)
    if state == "did not help":
        raise NotDone(said)
    return said


def _verdict(helped: Judgement) -> tuple[Going, str]:
    if _did_not_help(helped):
        return "did not help", "the rollback did not help, the cause is elsewhere: page a person"
    if helped.state == "healthy":
        return "completed", "it helped"
    return "unproven", "whether it helped is not proven"


def _did_not_help(seen: Judgement) -> bool:
    """By evidence alone: a policy that rolls back what proved nothing has no say here."""
    return seen.state in {"rollback", "hard_down"}


def _why(name: str, reason: str) -> str:
    return f"{name}: rolled back by {actor()}: {reason or NO_REASON}"


def _tell(world: World, plan: RollbackPlan, state: Going, said: str) -> None:
    message = rollback_message(facts_of(world, plan.name), state, said, datetime.now(UTC))
    world.announcement.show(message, last=state != "begun")
