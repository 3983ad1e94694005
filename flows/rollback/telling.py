"""What people are told of a rollback: one message from its beginning to its end, and its page."""

from collections.abc import Generator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime

from blocks.slack import Notice
from flows import people
from flows.bake.plot import evidence_image
from flows.bake.rule import Judgement
from flows.bake.sentence import sentence
from flows.effect import NotDone, actor
from flows.ledger import Fenced, Settled
from flows.ledger.hands import sentence as words_of
from flows.notice import Facts, Going, rollback_message
from flows.people import Announcement, Keep
from flows.records_release import Release
from flows.rollback.asking import released
from flows.rollback.plan import RollbackPlan
from flows.world import World


@contextmanager
def telling(world: World, plan: RollbackPlan) -> Generator[None]:
    """Within it people are told, by one message: that it has begun, and how it ended."""
    _tell(world, plan, "begun", plan.sentence)
    try:
        yield
    except Fenced:
        raise  # whoever has it now tells its end
    except BaseException as error:
        _tell(world, plan, "failed", words_of(error))
        raise


def tell_for_the_dead(world: World, plan: RollbackPlan, settled: Settled) -> None:
    """The last message about a rollback whose process died, once reconcile has settled it."""
    if (release := released(world, plan.key)) is None:
        return
    state: Going = "unproven" if settled.state == "done" else "failed"
    said = f"nothing was changed: {settled.reason}"
    if settled.state == "done":
        said = f"{settled.reason}. Whether it helped is not proven: its process died. Run bake/{plan.stage} to watch it"
    message = rollback_message(facts_of(world, plan.name, release.actor), state, said, datetime.now(UTC))
    message_of_the_dead(world, release).show(message, last=True)


def facts_of(world: World, name: str, by: str = "") -> Facts:
    """What every message about a release says."""
    return Facts(world.stage.name, world.stage.service.public_url, name, by or actor())


def keep_telling(world: World, release: Release) -> None:
    """From now on the message about it is kept beside it: whoever goes on with it edits the same one."""
    world.announcement.go_on(*_kept(world, release))


def message_of_the_dead(world: World, release: Release) -> Announcement:
    """The message of a process that died, to be edited: one a release, as reconcile settles several at once."""
    message = Announcement(world.slack)
    message.go_on(*_kept(world, release))
    return message


def _kept(world: World, release: Release) -> tuple[Notice | None, Keep]:
    kept = world.ledger.releases.notice(release.key)
    notice = Notice(channel=kept["channel"], ts=kept["ts"]) if kept else None
    return notice, lambda one: world.ledger.releases.keep_notice(release.key, one)


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
    if helped.is_against_it:
        return "did not help", "the rollback did not help, the cause is elsewhere: page a person"
    if helped.state == "healthy":
        return "completed", "it helped"
    return "unproven", "whether it helped is not proven"


def _tell(world: World, plan: RollbackPlan, state: Going, said: str) -> None:
    message = rollback_message(facts_of(world, plan.name), state, said, datetime.now(UTC))
    world.announcement.show(message, last=state != "begun")
