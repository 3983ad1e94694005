"""Starts a worker of a stage: Prefect's own, on the stage's pool, after asking for a reconcile.

Each worker's start asks for one, so that what died with the last worker is settled within seconds, not at the next
tick. This process becomes the worker: who started it signals it directly.
"""

import os
import signal
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime

from blocks.errors import Refused
from deployments.declared import declared
from deployments.server import reached
from flows.effect import ask_for

SETTINGS = {
    "PREFECT_WORKER_QUERY_SECONDS": "2",
    "PREFECT_FLOWS_HEARTBEAT_FREQUENCY": "30",
    "PREFECT_LOGGING_EXTRA_LOGGERS": "flows,blocks",
    "PREFECT_SERVER_ALLOW_EPHEMERAL_MODE": "false",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "DO_NOT_TRACK": "1",
}


def become_worker(stage: str, queues: Sequence[str], environ: Mapping[str, str]) -> None:
    """Ask for a reconcile, then replace this process by the worker; what the environment sets already stays.

    Refused for a queue on which no deployment of the stage lies: the right one would not be served.
    """
    known = sorted({each.queue for each in declared(stage)})
    if strange := [each for each in queues if each not in known]:
        raise Refused(f"no deployment of {stage} lies on queue {strange[0]!r}: there are {', '.join(known)}")
    with reached():
        ask_for("reconcile", stage, {}, key=f"reconcile-{stage}-worker-{os.getpid()}-{datetime.now(UTC):%Y%m%dT%H%M%S}")
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a worker that ignores SIGINT never stops on SIGTERM
    command = [sys.executable, "-m", "prefect", "worker", "start", "--pool", stage, "--type", "process"]
    for queue in queues:
        command += ["--work-queue", queue]
    os.execve(command[0], command, {**SETTINGS, **environ})  # noqa: S606 - no shell: this process is to be the worker
