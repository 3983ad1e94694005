"""What a deploy asks of others: of a checkout's commands, of the repository's CI, of the backups."""

import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path

from blocks import commands
from blocks.errors import BlockError, Missing, Refused
from blocks.github import GitHub
from flows import people
from flows.deploy import gates
from flows.deploy.plan import DeployPlan, Seen
from flows.effect import NotDone, effect
from flows.records import is_id
from flows.records_release import Gate, Migration
from flows.redact import hide
from flows.rollback.asking import quarantined
from flows.words import count, duration
from flows.world import World

PASSED_ON = ("PATH", "HOME", "LANG", "TMPDIR")  # of this process' variables, to a declared command
BEFORE_DEPLOY = "before-deploy"
Ask = Callable[[], Gate]


@dataclass(frozen=True)
class Answers:
    """What gates said, and the migrations that the checkout knows; whether some are pending, None: not known."""

    gates: list[Gate]
    migrations: tuple[Migration, ...] = ()
    pending: bool | None = None


def ask_gates(world: World, seen: Seen, backup: str, checkout: Path | None) -> Answers:
    """Every gate, all at once, and all answer; without a checkout the commands are named and not run."""
    rules, git = world.stage.release, world.platform.git
    asked: dict[str, Ask] = {
        "branch": lambda: gates.reachable(
            seen.commit, rules.branch, is_on_branch=git.reachable(seen.commit, rules.branch)
        ),
        "quarantine": lambda: gates.not_quarantined(seen.commit, quarantined(world)),
        "CI": lambda: _vouched(world, seen.commit),
        "environment": lambda: gates.environment(world.stage.environment.required, seen.environment),
        "freeze": lambda: gates.no_freeze(rules.freezes, seen.now),
        "platform": lambda: _platform(world),
        "backup": lambda: _backup(world, backup, seen.now),
        **{name: partial(_command_gate, world, checkout, name, each) for name, each in rules.commands.items()},
        **({"audit": lambda: _audit(world, checkout, seen.now)} if rules.audit.command else {}),
    }
    with ThreadPoolExecutor(max_workers=4) as pool:
        migrations = pool.submit(_migrations, world, checkout)
        answers = [pool.submit(_answer, name, ask) for name, ask in asked.items()]
    found = migrations.result()
    way_back = gates.way_back(seen, found.migrations, rules.migrations.compatible, is_known=found.pending is not None)
    return Answers([way_back, *(each.result() for each in answers), *found.gates], found.migrations, found.pending)


def _answer(name: str, ask: Ask) -> Gate:
    """One that cannot answer says no, with the reason; the others are asked all the same."""
    begun = time.monotonic()
    try:
        said = ask()
    except (BlockError, NotDone, ValueError) as error:
        said = Gate(name=name, ok=False, sentence=str(error))
    return said.model_copy(update={"seconds": time.monotonic() - begun})


def is_pending(world: World, commit: str) -> bool:
    """Whether migrations of the commit are pending; NotDone when its status command says neither."""
    _, pending = _status(world, world.platform.build(commit))
    return pending


def migrate_up(world: World, commit: str) -> None:
    """Run the commit's migrations; NotDone with their last words when they fail."""
    done = _run(world, world.platform.build(commit), world.stage.release.migrations.up)
    if done.code:
        raise NotDone(f"the migrations failed with exit code {done.code}: {hide(done.last_words)}")


@effect(name="smoke", retries=0)
def smoke(world: World, plan: DeployPlan) -> None:
    """Run the smoke tests against the new release before it has traffic; NotDone when they fail."""
    command = world.stage.release.smoke
    if not command:
        return
    address = world.platform.slots()[plan.slot].url
    done = _run(world, world.platform.build(plan.commit), command, API_URL=address)
    if done.code:
        raise NotDone(f"{plan.name} gets no traffic: its smoke tests failed: {hide(done.last_words)}")
    people.say(f"smoke tests passed: {hide(done.last_words)}")


def _platform(world: World) -> Gate:
    checked = {name: server.has_check for name, server in world.traffic.servers().items()}
    return gates.platform(world.stage.release, checked, timedelta(seconds=world.platform.grace_s))


def _run(world: World, folder: Path, command: str, **more: str) -> commands.Done:
    """In the service's environment, secrets and all; NotDone past the time limit."""
    secret = {name: value.get_secret_value() for name, value in world.platform.environment.items()}
    return _run_bare(world, folder, command, **{**secret, **more})


def _run_bare(world: World, folder: Path, command: str, **variables: str) -> commands.Done:
    """Without the service's secrets: a test suite or a foreign install script has no business with them."""
    own = {name: value for name, value in ((each, os.environ.get(each)) for each in PASSED_ON) if value}
    limit = world.stage.release.command_limit
    done = commands.run(command, folder, limit_s=limit.total_seconds(), environment={**own, **variables})
    if done.code == commands.TIMED_OUT:
        words = hide(done.last_words)
        raise NotDone(f"{command} was ended after {duration(limit)} (release.command_limit), it said: {words}")
    return done


def _command_gate(world: World, checkout: Path | None, name: str, command: str) -> Gate:
    if checkout is None:
        return Gate(name=name, ok=True, sentence=f"would run: {command}")
    done = _run_bare(world, checkout, command)
    return gates.command(name, done.code, hide(done.last_words))


def _migrations(world: World, checkout: Path | None) -> Answers:
    """All that the checkout knows, whether some are pending, and the gate's answer."""
    rules = world.stage.release.migrations
    if not rules.status:
        return Answers([], pending=False)
    if checkout is None:
        return Answers([Gate(name="migrations", ok=True, sentence=f"would run: {rules.status}")])
    try:
        gate, pending = _status(world, checkout)
        listed = _run(world, checkout, rules.listing)
        known = gates.listed(listed.code, listed.output, hide(listed.last_words))
    except (BlockError, NotDone, ValueError) as error:
        return Answers([Gate(name="migrations", ok=False, sentence=str(error))])
    return Answers([gate], known, pending)


def _status(world: World, folder: Path) -> tuple[Gate, bool]:
    done = _run(world, folder, world.stage.release.migrations.status)
    try:
        return gates.migrations(done.code, hide(done.last_words))
    except ValueError as unknown:
        raise NotDone(str(unknown)) from None


def _audit(world: World, checkout: Path | None, now: datetime) -> Gate:
    rules = world.stage.release.audit
    if checkout is None:
        return Gate(name="audit", ok=True, sentence=f"would run: {rules.command}")
    return gates.audit(_run_bare(world, checkout, rules.command).output, rules, now)


def _vouched(world: World, commit: str) -> Gate:
    rules = world.stage.release
    if not rules.github:
        said = f"not asked, as release.github is empty: {count(len(rules.commands), 'declared command')} vouch"
        return Gate(name="CI", ok=True, sentence=said) if rules.commands else gates.nobody_vouches()
    checks = github_of(world).checks(commit)
    return gates.vouched(commit, [(check.name, check.state) for check in checks])


def github_of(world: World) -> GitHub:
    """The repository that the stage names; Missing, Refused when no block is for it."""
    wanted, github = world.stage.release.github, world.github
    again = f"python -m deployments apply --stage {world.stage.name}"
    if github is None:
        raise Missing(f"nobody may ask {wanted}: set GITHUB_TOKEN and run {again}")
    if github.repository != wanted:
        raise Refused(f"the GitHub block is for {github.repository}, the stage's TOML names {wanted}: run {again}")
    return github


def _backup(world: World, backup: str, now: datetime) -> Gate:
    if backup == BEFORE_DEPLOY:
        taken = Gate(name="backup", ok=True, sentence=f"a {BEFORE_DEPLOY} backup is taken first")
        return taken if world.stage.release.proven_backup else gates.backup_is_left_out()
    if not is_id(backup):
        sentence = f"backup={backup!r} is neither {BEFORE_DEPLOY!r} nor the id of a backup"
        return Gate(name="backup", ok=False, sentence=sentence)
    found = next((each for each in world.ledger.backups() if each.id == backup), None)
    return gates.backup_is_proven(backup, found, world.ledger.proofs(backup), world.stage.objectives.rpo, now)
