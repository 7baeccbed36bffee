"""Block rows side by side on threads of this process: no cluster, no ports."""

import threading
from collections.abc import Sequence

from hessian_tasks.spec import BlockRow
from pipeline.run.executors import Task

__all__ = ["execute"]


def execute(task: Task, block_rows: Sequence[BlockRow], num_threads: int) -> None:
    """Call ``task`` for every block row on ``num_threads`` threads.

    They take block rows from a common queue, largest first, so that the short ones even out the
    end; and a failure is raised when no thread writes any more. Dask's scheduler of threads does
    neither, and takes a second to import, as it looks for a cluster's.
    """
    waiting = iter(block_rows)
    lock = threading.Lock()
    failures: list[BaseException] = []

    def work() -> None:
        while not failures:
            with lock:
                row = next(waiting, None)
            if row is None:
                return
            try:
                task(row)
            except BaseException as error:  # raised by the thread that waits
                failures.append(error)

    threads = [threading.Thread(target=work) for _ in range(num_threads)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()  # which Ctrl-C ends by raising KeyboardInterrupt here
    if failures:
        raise failures[0]
