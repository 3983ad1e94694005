"""restore: bring a backup back into a new database, compared before it is called done; on approval swap it in."""

from functools import partial

from flows import people
from flows.effect import procedure, run_name
from flows.restore import tasks
from flows.restore.steps import bring_back, swap_in, swap_plan
from flows.world import World


@procedure(name="restore", flow_run_name=run_name("restore {which} of {database}"))
def restore(stage: str, which: str = "latest-proven", into: str = "", swap: str = "", dry_run: bool = False) -> str:
    """Brings a backup back into a new database beside the live one, compares every row, and on approval swaps it in.

    Args:
        stage: which stage's backup is restored
        which: an id, "latest-proven", or a time such as 2026-11-24T02:00Z (the newest backup not later than that)
        into: name of the new database; empty for a name of our own; "BLOCK:NAME" or "BLOCK:" for another server
        swap: the live database's name, typed out, to swap the restored one in after an approval; empty for no swap
        dry_run: show the plan and stop
    """
    world, run = World.of(stage), people.run_key()
    chosen = tasks.find(world, which, run)
    plan = tasks.make_plan(world, chosen, into=into, swap=swap, key=run)
    people.rename_run(plan.sentence)
    people.report("restore-plan", plan.markdown, plan.sentence)
    if dry_run:
        return plan.sentence
    tasks.insist(plan)
    key, again = tasks.restore_key(run, plan.backup), partial(tasks.look_again, world, chosen)
    restored = world.carry_out(bring_back, plan, key=key, look=partial(again, into=into, swap=swap, key=run))
    people.outcome(database=plan.new, operation=restored.operation)
    if not swap:
        return tasks.report(plan, f"{plan.backup} is restored as {plan.new} on {plan.server}, every table compared")
    approved_by = people.approve(plan.question, database=swap, digest=plan.digest())
    dressed = tasks.dress(world, plan)
    swapped = world.carry_out(swap_in, swap_plan(plan, approved_by), key=f"{run}/swap", approved_by=approved_by)
    people.outcome(database=swap, kept=plan.old, swap_operation=swapped.operation)
    return tasks.report(plan, f"{plan.backup} is live as {swap}; the old one is kept, closed, as {plan.old}", dressed)
