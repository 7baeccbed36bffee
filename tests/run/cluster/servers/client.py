"""The client of a run: python client.py STORE SCHEDULER_FILE TILE OPTIONS_OF_THE_PROBLEM.

It prints the name of every event, and what its clock says then.
"""

from __future__ import annotations

import json
import sys
import threading
import time
from pathlib import Path

from hessian_tasks.process import configure_tensorflow


def tell(event: object) -> None:
    print(type(event).__name__, time.time(), flush=True)


def main(path: str, scheduler_file: str, tile: str, options: str) -> None:
    configure_tensorflow(2)
    from hessian_tasks.source import ProblemSource
    from pipeline.run.cluster.connect import connect
    from pipeline.run.execute import execute
    from pipeline.run.inputs import freeze_source
    from pipeline.run.options import RunOptions
    from pipeline.settings.profiles import Address

    inputs = freeze_source(ProblemSource("regression", json.loads(options)))
    profile = Address(kind="address", scheduler_file=Path(scheduler_file), wait=300)
    with connect(profile, threading.Event()) as workers:
        plan = RunOptions(tile=int(tile), allowed_bytes=2**34)
        execute(path, inputs, plan, [tell], workers=workers)


if __name__ == "__main__":
    main(*sys.argv[1:])
