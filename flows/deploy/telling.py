"""What people are told of a deploy: one message from beginning to end, its page, its release on GitHub; the history."""

from collections.abc import Generator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime

from blocks.errors import BlockError
from flows import people
from flows.bake.plot import evidence_image
from flows.bake.sentence import sentence as sentence_of
from flows.bake.tasks import replay
from flows.deploy.asking import github_of
from flows.deploy.notes import notes, tag, title
from flows.deploy.plan import DeployPlan, Seen
from flows.effect import NotDone, effect
from flows.ledger import Busy, Fenced, Settled, Stopped
from flows.ledger.hands import sentence as words_of
from flows.notice import State, deploy_message, is_last
from flows.records_release import Gate, Release
from flows.redact import hide
from flows.rollback.asking import quarantined, release_of, released, verify
from flows.rollback.telling import facts_of, message_of_the_dead
from flows.serving import serving
from flows.world import World

STAYS = "as what served before is dead"
TOLD_EVERY_S = 60.0  # while it bakes
INCONCLUSIVE = ", inconclusive "  # as the sentence of a bake says it


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
    except Fenced:
        raise  # whoever has it now tells its end
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
def taken_back(world: World, plan: DeployPlan, why: str) -> str:
    """After the undo: see that the version before serves, tell people; the sentence."""
    release = release_of(world, plan.key)
    _lock_away(world, release, why)
    said = f"{release.name}: {why} {_what_serves(world)}"
    tell(world, release.name, "rolled back", said)
    _page(world, release, plan, said)
    return said


def _lock_away(world: World, release: Release, why: str) -> None:
    """What evidence took back. What a policy took back because it proved nothing may come again."""
    if replay(world, release).is_against_it:
        world.ledger.releases.quarantine(release.commit, f"{release.name}: {why}")


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
    release = release_of(world, plan.key)
    state, sentence = _stays(world, plan, release, str(settled.reason))
    tell(world, release.name, state, sentence)
    _page(world, release, plan, sentence)
    if state == "held":
        raise NotDone(sentence)
    return sentence


def tell_for_the_dead(world: World, plan: DeployPlan, settled: Settled) -> None:
    """What is left to do for people when reconcile has settled a deploy whose process died: the same as in its life."""
    release, why = released(world, plan.key), str(settled.reason)
    if release is None:
        return
    if settled.state == "done":
        state, sentence = _stays(world, plan, release, why)
    else:
        if world.ledger.releases.bake(release.key):
            _lock_away(world, release, why)
        now = serving(world.ledger.releases.all(), datetime.now(UTC))
        state, sentence = "rolled back", f"{release.name}: {why}. Now {now.name if now else 'nothing'} serves."
    message = deploy_message(facts_of(world, release.name, release.actor), state, sentence, datetime.now(UTC))
    message_of_the_dead(world, release).show(message, last=True)


def _stays(world: World, plan: DeployPlan, release: Release, said: str) -> tuple[State, str]:
    """How it ended and the sentence, once it is a release on GitHub; one that is held is none."""
    if said == STAYS:
        seen = replay(world, release)
        said = f"{'HELD' if seen.is_against_it else 'KEPT'}, {STAYS}: {sentence_of(seen, stays=True)}"
    if said.startswith("HELD"):
        return "held", f"{release.name}: {said}"
    state = "inconclusive" if INCONCLUSIVE in said else "kept"
    return state, f"{release.name}: {said}{publish(world, plan, release, said)}"


def publish(world: World, plan: DeployPlan, release: Release, evidence: str) -> str:
    """Make it a release on GitHub, where the stage wants that; what failed, as a sentence: the release stays."""
    if not world.stage.release.publish:
        return ""
    earlier = [told.release for told in world.ledger.releases.all() if told.release.commit == release.previous]
    page = notes(release, earlier[-1] if earlier else None, plan.changes, evidence)
    try:
        where = github_of(world).release(tag(release), release.commit, title(release), hide(page))
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
    told, work, why_not = world.ledger.releases.all(), world.ledger.releases.work(), quarantined(world)
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
            "gates": _gates_in_words(work[each.release.key].gates),
            "looks": work[each.release.key].looks,
            "steps": work[each.release.key].steps,
            "quarantine": why_not.get(each.release.commit, ""),
        }
        for each in reversed(told)
    ]
    people.table("history", rows, f"{len(rows)} releases of {world.stage.name}")
    return f"{now.name} serves; {len(rows)} releases are remembered" if now else "nothing serves yet"


def _gates_in_words(gates: Sequence[Gate]) -> str:
    warned = [f"{gate.name}: {gate.sentence}" for gate in gates if gate.warning]
    return "; ".join([f"{len(gates)} passed", *warned]) if gates else ""
