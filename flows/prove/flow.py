"""prove: restore one backup into a scratch server, compare every row with its manifest, and sign what came of it."""

from flows import people
from flows.effect import procedure, run_name
from flows.prove import tasks
from flows.world import World


@procedure(name="prove", flow_run_name=run_name("prove {which} of {database}"))
def prove(stage: str, which: str = tasks.NEWEST_UNPROVEN) -> str:
    """Restores a backup into a scratch server, compares every row, and signs the proof.

    Args:
        stage: which stage's backup is proven
        which: a backup's id, or "newest-unproven": first one whose proof was asked for and died, then the newest
            that was never judged and is of a kind that the policy proves
    """
    world = World.of(stage)
    found = tasks.choose(world, which)
    if found is None or found.manifest is None:
        return "nothing to prove: every backup that is to be proven is judged"
    people.rename_run(f"prove {found.id}")
    paper = tasks.keep(world, found, tasks.prove_it(world, found))
    sentence = tasks.report(paper, found.manifest)
    return tasks.follow_up(world, paper, sentence)
