"""Decides what the report of a backup says: the manifest, the times and the last ones in, a page out."""

from collections.abc import Sequence
from datetime import timedelta

from flows.backup.plan import BackupPlan
from flows.catalogue.manifest import Manifest
from flows.chart import bars
from flows.records import Backup, Kind
from flows.stage import Retention
from flows.words import duration, moment, size

STEPS = {"snapshot": "until the snapshot", "dump": "dump and upload"}


def report_page(plan: BackupPlan, manifest: Manifest, trend: Sequence[Backup], retention: Retention, proof: str) -> str:
    """The page in Markdown: what, how long each step, its proof, when it goes, sizes beside the last ones.

    `trend` are the last backups, oldest first, this one at the end; `proof` says whether one was asked for, or why not.
    """
    totals = manifest.totals
    ratio = totals.plain_bytes / totals.stored_bytes if totals.stored_bytes else 1.0
    kept = trend[-1]
    parts = [
        f"# {kept.id}",
        f"A {plan.kind} backup of **{plan.database}** on {plan.server}, state of {moment(manifest.snapshot.time)}.",
        bars([(f"{b.id}: {size(b.stored_bytes)}", b.stored_bytes) for b in trend], title=_title(trend)),
        "\n".join(
            (
                "| what | amount |",
                "| --- | --- |",
                f"| tables | {totals.tables:,} |",
                f"| rows | {totals.rows:,} |",
                f"| read, as text | {size(totals.plain_bytes)} |",
                f"| stored, encrypted | {size(totals.stored_bytes)}, 1 : {ratio:.1f} |",
                *(f"| {STEPS.get(step, step)} | {duration(length)} |" for step, length in kept.seconds.items()),
                f"| proof | {proof} |",
                f"| stays, as the best of its time, until | {moment(kept.at + _window(plan.kind, retention))} |",
            )
        ),
    ]
    if manifest.excluded or manifest.left_out:
        parts += ["## Not in it", "\n".join(f"- {line}" for line in (*plan.excluded, *manifest.left_out))]
    parts += ["## Largest tables", _largest(manifest)]
    return "\n\n".join(parts)


def _title(trend: Sequence[Backup]) -> str:
    """What the chart shows, and this one against the one before it."""
    if len(trend) == 1:
        return f"Stored: {size(trend[-1].stored_bytes)}, the first one"
    before, now = trend[-2].stored_bytes, trend[-1].stored_bytes
    percent = round(100 * (now - before) / before) if before else 0
    change = f"{percent:+d} % against the one before" if percent else "like the one before"
    return f"Stored: {size(now)}, {change} (the last {len(trend)}, this one at the right)"


def _window(kind: Kind, retention: Retention) -> timedelta:
    windows: dict[Kind, timedelta] = {
        "frequent": retention.hourly,
        "daily": retention.daily,
        "weekly": retention.weekly,
        "monthly": retention.monthly,
    }
    return windows.get(kind, retention.extra)


def _largest(manifest: Manifest) -> str:
    data = sorted((o for o in manifest.objects if o.role == "data"), key=lambda o: o.plain_bytes, reverse=True)[:8]
    rows = ["| table | rows | as text | stored |", "| --- | ---: | ---: | ---: |"]
    for each in data:
        table = manifest.tables[each.table or 0]
        name = f"{table.schema_}.{table.name}".replace("|", "\\|")
        rows.append(f"| {name} | {each.rows or 0:,} | {size(each.plain_bytes)} | {size(each.bytes)} |")
    return "\n".join(rows)
