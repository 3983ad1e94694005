"""Decides what the report of a backup says: the manifest, the times and the last ones in, a page out."""

from collections.abc import Mapping, Sequence
from datetime import timedelta

from flows.backup.plan import BackupPlan
from flows.catalogue.manifest import Manifest
from flows.chart import bars
from flows.records import Backup, Kind
from flows.stage import Retention
from flows.words import count, duration, moment, size


def report_page(
    plan: BackupPlan, manifest: Manifest, trend: Sequence[Backup], seconds: Mapping[str, float], retention: Retention
) -> str:
    """The page in Markdown: what, how long each step, sizes beside the last ones, when it goes.

    `trend` are the last backups, oldest first, this one at the end.
    """
    totals = manifest.totals
    ratio = totals.plain_bytes / totals.stored_bytes if totals.stored_bytes else 1.0
    kept = trend[-1]
    lines = [
        f"# {kept.id}",
        f"{plan.kind} backup of **{plan.database}** ({plan.server}), state of {moment(manifest.snapshot.time)}.",
        "| what | amount |\n| --- | --- |",
        f"| tables, rows | {totals.tables:,}, {totals.rows:,} |",
        f"| as text, stored | {size(totals.plain_bytes)}, {size(totals.stored_bytes)} (1 : {ratio:.1f}) |",
        *(f"| {step} | {duration(length)} |" for step, length in seconds.items()),
        f"| stays at least until | {moment(kept.at + _window(plan.kind, retention))} |",
        "",
        bars([(b.id, b.stored_bytes / 1e6) for b in trend], unit="MB stored, this one last"),
    ]
    if manifest.excluded or manifest.left_out:
        lines += ["## Not in it", *(f"- {line}" for line in (*plan.excluded, *manifest.left_out))]
    lines += ["## Largest tables", _largest(manifest)]
    return "\n".join(lines)


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
    rows = ["| table | rows | as text | stored |", "| --- | --- | --- | --- |"]
    for each in data:
        table = manifest.tables[each.table or 0]
        name = f"{table.schema_}.{table.name}".replace("|", "\\|")
        rows.append(f"| {name} | {count(each.rows or 0, 'row')} | {size(each.plain_bytes)} | {size(each.bytes)} |")
    return "\n".join(rows)
