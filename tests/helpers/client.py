"""A run of regression: python client.py STORE OPTIONS_OF_THE_PROBLEM SCHEDULER_FILE.

In tiles of side 2, on threads if no file is given. It prints the name of every event.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

from hessian_tasks.process import configure_tensorflow


def tell(event: object) -> None:
    print(type(event).__name__, flush=True)
    if type(event).__name__ == "BlockRowStored":
        time.sleep(0.03)


def main(path: str, options: str, scheduler_file: str) -> None:
    configure_tensorflow(2)
    import threading
    from contextlib import nullcontext

    from hessian_tasks.source import ProblemSource
    from pipeline.run.cluster.connect import connect
    from pipeline.run.execute import execute
    from pipeline.run.inputs import freeze_source
    from pipeline.run.options import RunOptions
    from pipeline.settings.profiles import Address

    inputs = freeze_source(ProblemSource("regression", json.loads(options)))
    where = Address(kind="address", scheduler_file=Path(scheduler_file), wait=300)
    with connect(where, threading.Event()) if scheduler_file else nullcontext() as workers:
        plan = RunOptions(num_threads=2, tile=2, allowed_bytes=2**34)
        execute(path, inputs, plan, [tell], workers=workers)


if __name__ == "__main__":
    main(*sys.argv[1:])
