"""Which block row is computed when, and how often, on the workers of a Dask client.

Few futures are open at a time, so that the scheduler's memory does not depend on the number of
block rows; they are submitted in order, the largest first. The records that workers leave in the
store say what is done, so that nothing here has to survive.
"""

from __future__ import annotations

import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from typing import TypeAlias

from distributed import Client, Future, KilledWorker

from hessian_tasks.spec import BlockRow
from pipeline.errors import (
    BlockRowError,
    ClusterError,
    HessianError,
    StoppedError,
    StoreError,
)
from pipeline.records import BlockRecord

__all__ = ["Schedule", "run_block_rows"]

# Futures beyond those that are computed; enough that no worker waits for the client.
SPARE = 2
POLL_SECONDS = 0.2

Compute: TypeAlias = Callable[[BlockRow], BlockRecord]


@dataclass(frozen=True)
class Schedule:
    """How block rows are given to workers.

    Attributes:
        token: Makes keys of tasks unlike those of other runs on the same scheduler.
        attempts: How often a block row may fail before it is set aside.
        wait: Seconds to go on without any worker.
        on_stored: Called with the record of every stored block row.
        stop: Set to end the run.
        expected_threads: Threads that workers may come to have. So many futures are open even
            before: adaptive scaling asks for as many workers as there are tasks.
    """

    token: str
    attempts: int
    wait: float
    on_stored: Callable[[BlockRecord], None]
    stop: threading.Event
    expected_threads: int = 0


def run_block_rows(
    client: Client, compute: Compute, pending: Sequence[BlockRow], schedule: Schedule
) -> None:
    """Have every block row computed once, and again where that fails.

    Args:
        client: Of the workers.
        compute: Run on a worker; may be pickled.
        pending: The block rows.
        schedule: How.

    Raises:
        StoppedError: If the run was stopped.
        ClusterError: If the scheduler is lost, or there are no workers any more.
        BlockRowError: At the end, if block rows were set aside; names them and the first reason.
        StoreError: If the store cannot be written, after all attempts at one block row.
        HessianError: Of another kind, at once, if the problem is not the client's on a worker.
    """
    run = _Run(client, compute, deque(pending), schedule)
    try:
        run.loop()
    finally:
        run.cancel()
    if run.set_aside:
        rows = sorted(run.set_aside, key=lambda row: row.index)
        raise BlockRowError(
            f"{len(rows)} of {len(pending)} block rows could not be computed: "
            f"{', '.join(map(str, rows))}. The others are stored. {run.set_aside[rows[0]]}"
        )


class _Run:
    def __init__(
        self, client: Client, compute: Compute, waiting: deque[BlockRow], schedule: Schedule
    ) -> None:
        self.client, self.compute, self.waiting = client, compute, waiting
        self.schedule = schedule
        self.open: dict[Future[BlockRecord], BlockRow] = {}
        self.ended: SimpleQueue[Future[BlockRecord]] = SimpleQueue()
        self.attempts: Counter[BlockRow] = Counter()
        self.set_aside: dict[BlockRow, str] = {}
        self.alone = 0.0

    def loop(self) -> None:
        while self.waiting or self.open:
            if self.schedule.stop.is_set():
                raise StoppedError("The run was stopped.")
            self.fill(max(self.count_threads(), self.schedule.expected_threads))
            try:
                future = self.ended.get(timeout=POLL_SECONDS)
            except Empty:
                continue
            self.settle(future, self.open.pop(future))

    def count_threads(self) -> int:
        """Threads of all workers; their absence is waited out, but not for ever."""
        if self.client.status not in ("running", "connecting"):
            raise ClusterError(f"The connection to the scheduler is {self.client.status}.")
        threads: int = sum(self.client.nthreads().values())
        self.alone = 0.0 if threads else self.alone + POLL_SECONDS
        if self.alone > self.schedule.wait:
            raise ClusterError(
                f"There has been no worker for {self.schedule.wait:g} s. Look into the workers' "
                "logs; resume when there are some again."
            )
        return threads

    def fill(self, num_threads: int) -> None:
        while self.waiting and len(self.open) < num_threads + SPARE:
            row = self.waiting.popleft()
            self.attempts[row] += 1
            key = f"block-row-{self.schedule.token}-{row.index}-{self.attempts[row]}"
            future = self.client.submit(self.compute, row, key=key, pure=False)
            self.watch(future, row)

    def watch(self, future: Future[BlockRecord], row: BlockRow) -> None:
        self.open[future] = row
        future.add_done_callback(self.ended.put)

    def settle(self, future: Future[BlockRecord], row: BlockRow) -> None:
        if future.status == "finished":
            self.schedule.on_stored(future.result())
            # Or its worker, when it is given back, would have a result to pass on.
            future.release()
        elif future.status == "error":
            self.retry(row, future.exception())
        elif future.status == "cancelled":
            raise ClusterError("The scheduler is lost, and with it the block rows that it had.")
        else:
            # The worker died before it could pass on the record; Dask has the task done again.
            time.sleep(POLL_SECONDS)
            self.watch(future, row)

    def retry(self, row: BlockRow, error: BaseException) -> None:
        spent = self.attempts[row] >= self.schedule.attempts
        if isinstance(error, KilledWorker):
            # Dask has tried it on several workers, all of which ended.
            self.put_aside(row, "Its workers died, one after the other: is memory short?")
        elif isinstance(error, HessianError) and not isinstance(error, BlockRowError | StoreError):
            raise error
        elif not spent:
            self.waiting.append(row)
        elif isinstance(error, StoreError):
            raise error
        else:
            self.put_aside(row, str(error))

    def put_aside(self, row: BlockRow, reason: str) -> None:
        self.set_aside[row] = reason

    def cancel(self) -> None:
        if self.open and self.client.status == "running":
            self.client.cancel(list(self.open), force=True)
        self.open.clear()
