"""What a rollback and a deploy ask and wait for: health, the served version, endpoints, the schema, what ran before."""

import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta

from blocks import web
from blocks.errors import BlockError
from blocks.postgres.fingerprint import schema_fingerprint
from flows import people
from flows.bake.tasks import PROXY
from flows.effect import NotDone, effect
from flows.records_release import SHORT, Release, Told
from flows.rollback.candidates import Known, Rules
from flows.serving import Span, spans, spans_of
from flows.world import World

LOOK_S = 0.2
ANSWER_S = 5.0
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
    return _silent_endpoints(world, world.platform.slots()[slot].url)


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
    if wrong := _silent_endpoints(world, base):
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
    found, locked_away = spans(releases, now), quarantined(world)
    newest: dict[str, Release] = {span.release.commit: span.release for span in found}
    order = sorted(newest.values(), key=lambda release: -release.number)
    living = {slot.commit for slot in world.platform.slots().values() if slot.alive and _answers(world, slot.url)}
    return [
        _known(world, release, spans_of(release.commit, found), living, locked_away.get(release.commit, ""))
        for release in order
    ]


def quarantined(world: World) -> dict[str, str]:
    """Which commits are in quarantine, and why; not those that the stage's TOML pardons."""
    pardoned = world.stage.release.pardoned
    found = world.ledger.releases.quarantined()
    return {commit: why for commit, why in found.items() if not any(commit.startswith(each) for each in pardoned)}


def released(world: World, key: str) -> Release | None:
    """The record of an operation's release; None when it died before there was one."""
    return next((told.release for told in world.ledger.releases.all() if told.release.key == key), None)


def release_of(world: World, key: str) -> Release:
    """The same of an operation that has one."""
    release = released(world, key)
    if release is None:
        raise NotDone(f"nothing is remembered of {key}")
    return release


def insist_on_a_platform(world: World, what: str) -> None:
    """NotDone where the stage has no platform that releases can be `what`: deployed to, rolled back on."""
    platform = world.stage.release.platform
    if platform != "processes":
        why = f"{platform} is not built yet" if platform else "it declares none in [release]"
        raise NotDone(f"nothing can be {what} {world.stage.name} from here: its platform, {why}")


def rules_of(world: World) -> Rules:
    """What counts as stable on this stage."""
    rules = world.stage.release
    return Rules(
        rules.stable_after.total_seconds(),
        rules.stable_error_percent,
        rules.migrations.compatible,
        rules.migrations.down,
    )


def _silent_endpoints(world: World, base: str) -> list[str]:
    answers = [web.ask(base + path, timeout_s=ANSWER_S) for path in world.stage.release.endpoints]
    return [str(answer) for answer in answers if not answer.serves]


def _answers(world: World, url: str) -> bool:
    return web.ask(url + world.stage.release.health, timeout_s=ANSWER_S).healthy


def _known(world: World, release: Release, served: Sequence[Span], living: set[str | None], quarantine: str) -> Known:
    n, errors = _counted(world, served)
    return Known(
        release=release,
        served_s=sum(span.seconds for span in served),
        n=n,
        errors=errors,
        kept=release.commit in living,
        can_build=world.platform.can_build(release.commit),
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
        world.counter.totals((span.release.slot, PROXY), max(span.begins, since), span.ends)
        for span in served
        if span.ends > since
    ]
    return sum(n for n, _ in found), sum(errors for _, errors in found)


def _is_version(answer: web.Answer, where: str, commit: str) -> bool:
    return not where or answer.version(where) == commit
