"""What stands in a restore's way and what is only worth knowing."""

from dataclasses import replace

from flows.restore.plan import Chosen, Names, RestorePlan, Target, plan_restore
from tests.decide.builders import manifest, read

BACKUP = read(manifest())
NAMES = Names("", "curator_restore_k3v9q2", BACKUP.database.name, "curator_before_k3v9q2")
TARGET = Target(
    server="db:5432",
    version_num=BACKUP.database.server_version_num,
    databases=(BACKUP.database.name,),
    ours=False,
    can_create=True,
    can_rename=None,
    extensions=tuple(each.name for each in BACKUP.extensions),
    roles=BACKUP.roles,
    collation_version=BACKUP.database.collation_version,
    free_bytes=BACKUP.database.size_bytes * 2,
    client_major=BACKUP.database.server_version_num // 10000,
)


def plan(target: Target) -> RestorePlan:
    return plan_restore(Chosen(BACKUP, "0" * 64, "curator/", ("proven", "proven yesterday")), NAMES, target, ())


def test_nothing_stands_in_the_way_of_a_fitting_server() -> None:
    assert plan(TARGET).refusals == ()


def test_a_database_that_is_filled_already_needs_no_space_for_its_swap() -> None:
    full = replace(TARGET, free_bytes=1000)
    assert [line for line in plan(full).refusals if "are needed" in line]
    assert plan(replace(full, databases=(*full.databases, NAMES.new), ours=True)).refusals == ()


def test_a_missing_role_is_told_with_what_a_policy_would_do() -> None:
    missing = replace(TARGET, roles=())
    told = [line for line in plan(missing).warnings if line.startswith("roles missing there: ")]
    assert BACKUP.roles
    assert len(told) == 1
    assert BACKUP.roles[0] in told[0]
    assert "a policy that names one of them would stop the restore at its end: create them first (nologin)" in told[0]
