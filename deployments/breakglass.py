"""Break glass: any rescue flow with no Prefect server at all, credentials from the environment.

The same functions run plainly, with the same ledger; without one only with --alone, which says what that costs. Secrets
never stand on the command line, and every text passes the redactor.
"""

import inspect
import json
import signal
import sys
from collections.abc import Mapping
from importlib import import_module
from types import FrameType
from typing import Any, NoReturn

from flows import people
from flows.effect import BreakGlass, NotDone, Procedure, without_prefect
from flows.records import ids_in

FLOWS: Mapping[str, str] = {
    "backup": "flows.backup.flow",
    "prove": "flows.prove.flow",
    "verify": "flows.verify.flow",
    "prune": "flows.prune.flow",
    "catalogue": "flows.catalogue.flow",
    "restore": "flows.restore.flow",
    "reconcile": "flows.reconcile.flow",
    "deploy": "flows.deploy.flow",
    "history": "flows.deploy.flow",
    "bake": "flows.bake.flow",
    "rollback": "flows.rollback.flow",
    "status": "flows.status.flow",
}
ALONE = "without a ledger nothing keeps a second operator out: make sure that nobody else works on this stage"
INTERRUPTED = "interrupted: what was under way is undone or, once committed, finished"
LATER = ", by reconcile where it could not be here"
LEFT = " where that could be done here; look at what is left, as nobody else goes on without a ledger"


class TerminationSignal(KeyboardInterrupt):
    """SIGTERM, made an exception: what is under way undoes itself, as after Ctrl-C."""


def run_flow(name: str, stage: str, parameters: Mapping[str, Any], glass: BreakGlass, *, as_json: bool) -> int:
    """Run one flow here; 0 only on success. The plan goes to standard error.

    The last line is the sentence, or with as_json one JSON object, with the ids of the backups that it names and what
    the flow told of its outcome: its operation in the ledger, of a restore the new database too.
    """
    signal.signal(signal.SIGTERM, _told_to_end)
    people.to_terminal()
    people.take_outcome()
    if glass.alone:
        people.say(ALONE)
    try:
        flow = _flow(name)
        _refuse_unknown(flow, name, parameters)
        with without_prefect(alone=glass.alone, yes=glass.yes):
            sentence, code = str(flow(stage=stage, **parameters)), 0
    except NotDone as error:
        sentence, code = str(error), 1
    except KeyboardInterrupt:
        sentence, code = INTERRUPTED + (LEFT if glass.alone else LATER), 130
    if as_json:
        said = {"flow": name, "stage": stage, "done": code == 0, "sentence": sentence, "backups": ids_in(sentence)}
        print(json.dumps(said | people.take_outcome(), ensure_ascii=False))
    else:
        print(sentence, file=sys.stdout if code == 0 else sys.stderr)
    return code


def _told_to_end(_number: int, _frame: FrameType | None) -> NoReturn:
    raise TerminationSignal


def _flow(name: str) -> Procedure[..., Any]:
    if name not in FLOWS:
        raise NotDone(f"no flow {name!r}: known are {', '.join(FLOWS)}")
    return getattr(import_module(FLOWS[name]), name)


def _refuse_unknown(flow: Procedure[..., Any], name: str, parameters: Mapping[str, Any]) -> None:
    known = [each for each in inspect.signature(flow.fn).parameters if each != "stage"]
    strange = [each for each in parameters if each not in known]
    if strange:
        raise NotDone(f"{name} has no parameter {strange[0]!r}: it takes {', '.join(known) or 'none'}")
