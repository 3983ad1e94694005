"""What stands in a restore's way and what is only worth knowing."""

from dataclasses import replace

from flows.catalogue.manifest import Manifest
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
    cant_set=(),
    extensions=tuple(each.name for each in BACKUP.extensions),
    roles=BACKUP.roles,
    collation_version=BACKUP.database.collation_version,
    free_bytes=BACKUP.database.size_bytes * 2,
    client_major=BACKUP.database.server_version_num // 10000,
)


CHOSEN = Chosen(BACKUP, "0" * 64, "curator/", ("proven", "proven yesterday"))


def plan(target: Target, backup: Manifest = BACKUP) -> RestorePlan:
    return plan_restore(replace(CHOSEN, manifest=backup), NAMES, target, ())


def test_nothing_stands_in_the_way_of_a_fitting_server() -> None:
    assert plan(TARGET).refusals == ()


def test_a_database_that_is_filled_already_needs_no_space_for_its_swap() -> None:
    full = replace(TARGET, free_bytes=1000)
    assert [line for line in plan(full).refusals if "are needed" in line]
    assert plan(replace(full, databases=(*full.databases, NAMES.new), ours=True)).refusals == ()


def test_settings_of_the_live_database_that_the_role_may_not_give_stand_in_a_swaps_way_alone() -> None:
    lacking = replace(TARGET, cant_set=("app.secret", "work_mem of app"))
    (refusal,) = plan(lacking).refusals
    assert refusal.startswith(
        "the role may not set app.secret, work_mem of app on the new database, as the live one has"
    )
    assert "restore without swap=" in refusal
    assert plan_restore(CHOSEN, Names("", NAMES.new), lacking, ()).refusals == ()


def test_a_missing_role_that_a_policy_names_stands_in_the_way() -> None:
    backup = read(manifest(roles=["app", "reader", "other"], policy_roles=["reader", "pg_monitor"]))
    assert plan(replace(TARGET, roles=("app", "reader", "other", "pg_monitor")), backup).refusals == ()
    found = plan(replace(TARGET, roles=("app", "pg_monitor")), backup)
    assert found.refusals == (
        "policies name roles that are missing there: reader; create them first (create role NAME nologin)",
    )
    told = [line for line in found.warnings if line.startswith("roles missing there: ")]
    assert told == ["roles missing there: reader, other; owners and grants are not restored in any case"]


def test_what_hangs_on_a_schema_that_the_backup_lacks_stands_in_the_way_by_name() -> None:
    backup = read(manifest(dependents={"auth": ["policy own on public.videos", "view public.people"]}))
    (refusal,) = plan(TARGET, backup).refusals
    assert "schema auth was left out of this backup" in refusal
    assert "on it hang policy own on public.videos, view public.people: take a backup with it in, or" in refusal


def test_a_missing_role_of_a_backup_that_names_no_policies_is_told_with_what_one_would_do() -> None:
    missing = replace(TARGET, roles=())
    told = [line for line in plan(missing).warnings if line.startswith("roles missing there: ")]
    assert BACKUP.roles
    assert len(told) == 1
    assert BACKUP.roles[0] in told[0]
    assert "a policy that names one of them would stop the restore at its end: create them first (nologin)" in told[0]
