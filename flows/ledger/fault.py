"""Where tests end or stop this process.

`FAULT_AT=STEP:intent|acted|done`, `commit`, `settle`, `undo STEP:intent|acted|done`; `*` stands for any text (a step's
name may hold an id that is not known beforehand). `FAULT=kill|stop`. Honoured only where the stage says
`faults = true`; it never does anything on a stage that people use.
"""

import os
import re
import signal


def point(name: str, world: object) -> None:
    """Die or stop here if this is the point that the environment names."""
    wanted = ".*".join(map(re.escape, os.environ.get("FAULT_AT", "").split("*")))
    if not re.fullmatch(wanted, name, re.DOTALL) or not getattr(getattr(world, "stage", None), "faults", False):
        return
    os.kill(os.getpid(), signal.SIGSTOP if os.environ.get("FAULT") == "stop" else signal.SIGKILL)
