"""Watches a new release: probes of our own, the counter's requests, look after look, until the rule decides."""

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from blocks.counter import Served
from blocks.errors import BlockError, Unreachable
from flows import people
from flows.bake.asking import Probes, probing
from flows.bake.baseline import BEFORE_GO_LIVE_S, Baseline, Minute, baseline_of
from flows.bake.looks import BakeRules, Look
from flows.bake.plot import evidence_image
from flows.bake.rule import Judgement, Watch, judge
from flows.bake.sentence import sentence
from flows.effect import NotDone, effect
from flows.ledger import Operation
from flows.records import Record
from flows.records_release import Release
from flows.serving import serving, spans, spans_of
from flows.stage import Stage
from flows.world import World

LAG_S = 2.0  # the counter commits a second after it ended
ASKED_EVERY_S = 1.0  # who serves
PATIENCE_S = 5  # for a counter that is late
PROXY = "-"  # the counter's name for answers that no server gave: they count for who has the traffic


class Terms(Record):
    """What a bake goes by from its beginning to its end, and when it is replayed, whatever the TOML says by then."""

    baseline: Baseline
    rules: BakeRules


class Replaced(NotDone):
    """Another release has the traffic: nothing more is learned of this one."""


def rules_of(stage: Stage) -> BakeRules:
    """The stage's rules as plain numbers."""
    bake = stage.bake
    return BakeRules(
        look_s=bake.look.total_seconds(),
        minimum_s=bake.minimum.total_seconds(),
        maximum_s=bake.maximum.total_seconds(),
        policy=bake.policy,
        profile=bake.profile,
        healthy_error_rate=bake.healthy_error_percent / 100,
        objective_error_rate=bake.objective_error_percent / 100,
        minimum_baseline=bake.minimum_baseline,
        frozen_limit_s=bake.frozen_limit.total_seconds(),
    )


def go_live(world: World, release: Release, op: Operation | None = None, *, like: str = "") -> None:
    """Write down from when it serves and the terms of its bake; what is written already stays.

    A rollback is measured `like` the release that it took back: against the same baseline.
    """
    now = datetime.now(UTC)
    live_at = datetime.fromtimestamp(math.ceil(now.timestamp()), UTC)  # the counter counts whole seconds
    found = world.ledger.releases.bake(like) if like else None
    baseline = Terms.model_validate(found[1]).baseline if found else _baseline(world, release, live_at)
    terms = Terms(baseline=baseline, rules=rules_of(world.stage))
    world.ledger.releases.go_live(release.key, live_at, terms.model_dump(mode="json"), op)


def _baseline(world: World, release: Release, live_at: datetime) -> Baseline:
    """Empty where the counter is silent: then the objective is what is tolerated, and the sentence says so."""
    first = not release.previous
    try:
        return baseline_of(_minutes_before(world, release, live_at), first=first)
    except BlockError as silent:
        people.say(f"nothing is known of the version before: {silent}")
        return Baseline(first=first)


@effect(name="bake", task_run_name="bake {release.name}", retries=0)
def watch(
    world: World,
    release: Release,
    still: Callable[[], None] = lambda: None,
    told: Callable[[str], None] = lambda _text: None,
) -> Judgement:
    """Look until the rule decides. Looks are stored; whoever is called again goes on from them.

    `still` raises to end it, `told` hears after each look what is known by then.
    """
    live_at, terms = baked(world, release)
    watching = Watch(terms.baseline, terms.rules)
    for look in looks_of(world, release):
        watching.add(look)
    progress = people.Progress("bake-progress", f"Bake of {release.name}")
    with probing(world, release) as probes:
        while watching.state == "watching":
            look = _look(world, release, live_at, watching, probes, still)
            still()  # what was seen of another one is not kept
            world.ledger.releases.add_look(release.key, look.at, look.model_dump(mode="json"))
            watching.add(look)
            told(_show(progress, watching.judgement()))
    return watching.judgement()


def serves_still(world: World, release: Release) -> Callable[[], None]:
    """For a watch that holds nothing: raises Replaced once another release has the traffic, as far as is known."""
    asked_at = -math.inf

    def still() -> None:
        nonlocal asked_at
        if time.monotonic() - asked_at < ASKED_EVERY_S:
            return
        asked_at = time.monotonic()
        try:
            now = serving(world.ledger.releases.all(), datetime.now(UTC))
        except Unreachable:
            return  # a ledger that is away for a moment ends no watch
        if now is None or now.key != release.key:
            raise Replaced(f"{now.name if now else 'nothing'} has the traffic now: the watch of {release.name} is over")

    return still


def baked(world: World, release: Release) -> tuple[datetime, Terms]:
    """From when a release served, and the terms of its bake; Unreachable: it never went live."""
    found = world.ledger.releases.bake(release.key)
    if found is None:
        raise Unreachable(f"{release.name} never went live: there is nothing to watch")
    return found[0], Terms.model_validate(found[1])


def looks_of(world: World, release: Release) -> list[Look]:
    """Its stored looks."""
    return [Look.model_validate(each) for each in world.ledger.releases.looks(release.key)]


def replay(world: World, release: Release) -> Judgement:
    """What the stored looks say, to the last digit what was said then."""
    _, terms = baked(world, release)
    return judge(terms.baseline, looks_of(world, release), terms.rules)


# ---- one look


def _look(  # noqa: PLR0913, PLR0917 - what one look is made of, called once
    world: World, release: Release, live_at: datetime, watching: Watch, probes: Probes, still: Callable[[], None]
) -> Look:
    begin = watching.judgement().at
    end = _await_end(live_at, begin, watching.rules.look_s, probes, still)
    seen = Look(at=end, **probes.take())  # pyright: ignore[reportArgumentType] - counts, by a look's own names
    start, until = (live_at + timedelta(seconds=each) for each in (begin, end))
    try:
        counted = _counted_between(world, release, start, until)
    except BlockError as silent:
        people.say(f"a look without its requests: {silent}")
        return seen.model_copy(update={"read": False})
    n, errors = sum(each.n for each in counted), sum(each.errors for each in counted)
    return seen.model_copy(update={"n": n, "errors": errors, "hist": _sum_of([each.hist for each in counted])})


def _counted_between(world: World, release: Release, start: datetime, until: datetime) -> list[Served]:
    """The counter says so when it has not written the last second yet: on a busy machine that takes a moment."""
    for _ in range(PATIENCE_S):
        try:
            return world.counter.seconds((release.slot, PROXY), start, until)
        except Unreachable:
            time.sleep(1)  # until it commits again: it does so once a second
    return world.counter.seconds((release.slot, PROXY), start, until)


def _await_end(live_at: datetime, begin: float, length_s: float, probes: Probes, still: Callable[[], None]) -> float:
    """The look's end, in whole seconds since go-live: as the rules say, or at once when the release is down."""
    while True:
        still()
        since = (datetime.now(UTC) - live_at).total_seconds() - LAG_S
        if since >= begin + length_s:
            return float(math.floor(since)) if since > begin + 2 * length_s else begin + length_s
        if probes.is_down() and since >= begin + 1:
            return float(math.floor(since))
        probes.changed.wait(min(begin + length_s - since, 0.5))


def _sum_of(histograms: Sequence[Sequence[int]]) -> tuple[int, ...]:
    return tuple(sum(counts) for counts in zip(*histograms, strict=True))


def _show(progress: people.Progress, now: Judgement) -> str:
    errors = now.errors
    odds = f"{math.exp(min(errors.log_e, 50)):.3g} : 1" if errors.path else "none yet"
    text = f"{now.at:.0f} s: errors {errors.bad} of {errors.n}, evidence {odds}; {now.state}, {now.reason}"
    text = text.rstrip(", ")
    progress.show(min(now.at / now.rules.minimum_s, 1.0) if now.state == "watching" else 1.0, text)
    return text


# ---- the version before it


def _minutes_before(world: World, release: Release, live_at: datetime) -> Iterator[Minute]:
    """Minutes of the version that served before, newest first, back from shortly before the go-live."""
    if not release.previous:
        return
    end = live_at - timedelta(seconds=BEFORE_GO_LIVE_S)
    served = spans_of(release.previous, spans(world.ledger.releases.all(), end))
    for span in reversed(served):
        for minute in world.counter.minutes_back((span.release.slot,), span.begins, min(span.ends, end)):
            yield Minute(n=minute.n, errors=minute.errors, hist=tuple(minute.hist))


# ---- which release, and what people see


@dataclass(frozen=True)
class Found:
    """A release, and whether it is the one that serves, with no deploy or rollback at work on it."""

    release: Release
    serves: bool


@effect(name="find the release")
def find(world: World, wanted: str) -> Found:
    """The release of that name, or the one that serves; NotDone when there is none."""
    told = [each for each in world.ledger.releases.all() if each.live_at]
    now = serving(told, datetime.now(UTC))
    named = [each for each in told if each.release.is_called(wanted)]
    found = now if not wanted else (named[-1].release if named else None)
    if found is None:
        known = ", ".join(each.release.name for each in told[-5:]) or "none"
        raise NotDone(f"no release {wanted or 'serves'!r} here: known are {known}")
    idle = all(each.ended_at for each in told if each.release.key == found.key)
    return Found(found, serves=idle and now is not None and now.key == found.key)


def report(world: World, found: Found, seen: Judgement) -> str:
    """The page of a bake, with its picture; the sentence."""
    release = found.release
    said = sentence(seen, stays=found.serves or release.kind == "rollback")
    picture = evidence_image(seen, title=f"Evidence against {release.name} on {world.stage.name}")
    people.report(f"bake-{release.name.split()[0]}", f"# {release.name}\n\n{said}\n\n{picture}", said)
    return said
