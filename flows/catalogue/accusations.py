"""Which backups a verification found not to be what was stored, and what it says of each. Nothing may rest on those."""

from collections.abc import Sequence

from flows.records import Check


def not_as_stored(checks: Sequence[Check]) -> list[Check]:
    """The newest failed check of each backup that no later good one answers: a look does not answer a failed read."""
    newest: dict[str, Check] = {}
    for failed in sorted((c for c in checks if not c.ok), key=lambda c: c.at):
        if not any(c.ok and c.backup == failed.backup and c.rung >= failed.rung and c.at > failed.at for c in checks):
            newest[failed.backup] = failed
    return list(newest.values())


def accused(check: Check) -> str:
    """What a failed check says of its backup."""
    return f"backup {check.backup} is not what was stored: {check.sentence.removeprefix(f'{check.backup}: ')}"
