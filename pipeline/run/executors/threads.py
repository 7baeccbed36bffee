"""Block rows side by side on Dask's local threaded scheduler: no cluster, no ports."""

import threading
from collections.abc import Sequence

import dask

from hessian_tasks.spec import BlockRow
from pipeline.run.executors import Task

__all__ = ["execute"]


def execute(task: Task, block_rows: Sequence[BlockRow], num_threads: int) -> None:
    """Call ``task`` for every block row on ``num_threads`` threads.

    Dask runs one loop a thread, and the loops take block rows from a common queue. Given to
    Dask one by one, block rows would start in the order of their hashed keys, not
    largest first so that the short ones even out the end; and a failure would be raised
    while other threads still write.
    """
    waiting = iter(block_rows)
    lock = threading.Lock()
    failures: list[Exception] = []

    def work(number: int) -> None:
        while not failures:
            with lock:
                row = next(waiting, None)
            if row is None:
                return
            try:
                task(row)
            except Exception as error:
                failures.append(error)

    loops = [dask.delayed(work)(number) for number in range(num_threads)]
    dask.compute(*loops, scheduler="threads", num_workers=num_threads)
    if failures:
        raise failures[0]
