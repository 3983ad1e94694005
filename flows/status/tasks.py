"""What status looks at and shows; the judgement is flows/catalogue/health.py."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from flows import people
from flows.catalogue.grades import Graded, graded
from flows.catalogue.health import health
from flows.catalogue.tasks import accusations
from flows.effect import NotDone, effect
from flows.ledger import Entry
from flows.prune.retention import Circumstances, next_expiry, prune_plan
from flows.words import count, moment
from flows.world import World


@dataclass(frozen=True)
class Seen:
    """What the ledger knows now."""

    open: Sequence[Entry]
    backups: Sequence[Graded]
    ticked: datetime | None
    now: datetime  # by the ledger's clock, as the tick is
    wrong: tuple[str, ...] = ()  # sentences of backups that are not what was stored


@effect(name="look at the ledger")
def look(world: World) -> Seen:
    """Open operations, graded backups, reconcile's last tick."""
    proofs = world.ledger.proofs()
    backups = [graded(each, proofs) for each in world.ledger.backups()]
    wrong = accusations(world, {each.id for each in backups})
    return Seen(world.ledger.open(), backups, world.ledger.ticked(), world.ledger.now(), wrong)


def show(world: World, seen: Seen) -> str:
    """The page, and the sentence; NotDone when the promise is broken."""
    promised, proves = world.stage.objectives, world.stage.backup.proves
    verdict = health(
        seen.backups,
        rpo=promised.rpo,
        proof_age=promised.proof_age if proves else None,
        ticked=seen.ticked,
        now=seen.now,
        wrong=seen.wrong,
    )
    facts = [*verdict.evidence, _next_to_go(world, seen)]
    page = [
        f"# {world.stage.name}: {'all is well' if verdict.go else verdict.reason}",
        "\n".join(f"- {fact}" for fact in facts),
        f"## {count(len(seen.open), 'open operation')}",
        "\n".join(f"- {entry}" for entry in seen.open),
    ]
    people.report("status", "\n\n".join(page), verdict.reason)
    if not verdict.go:
        raise NotDone(verdict.reason)
    return verdict.reason


def _next_to_go(world: World, seen: Seen) -> str:
    plan = prune_plan(seen.backups, world.stage.retention, seen.now, Circumstances(wrong=seen.wrong, really=True))
    going = [each.id for each in plan.drops]
    if not plan.verdict.go:
        return f"the next prune deletes nothing: {plan.verdict.reason}"
    if going:
        return f"the next prune deletes {', '.join(going)}"
    first = next_expiry(plan.rows)
    if first is None or first.until is None:
        return "no backup expires: rules without an end keep all of them"
    return f"the next to expire is {first.backup.id}, at {moment(first.until)}"
