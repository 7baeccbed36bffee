"""Which block row is computed when, and how often, on the workers of a Dask client.

Few futures are open at a time, so that the scheduler's memory does not depend on the number of
block rows; they are submitted in order, the largest first. The records that workers leave in the
store say what is done, so that nothing here has to survive.

A block row that takes too long has its worker restarted, which counts as a failed attempt, as does
the death of a worker. Once none is waiting, an idle worker is given a second copy of one that is
slow: tasks are idempotent, and the first copy to end counts.
"""

from __future__ import annotations

import itertools
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from contextlib import suppress
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
from pipeline.run.cluster._watch import Watch
from pipeline.store.records import BlockRecord

__all__ = ["Schedule", "run_block_rows"]

# Futures beyond those that are computed, at least, and for each of so many threads one; enough that
# no worker waits for the client.
SPARE, THREADS_PER_SPARE = 2, 4
POLL_SECONDS = 0.2
# How often the scheduler is asked what its workers do.
WATCH_SECONDS = 1.0

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
        limit: Seconds that a block row may take before its worker is restarted; by default 20 times
            the longest so far, or that the plan expects, and at least an hour.
        expected: Seconds of the largest block row by the plan.
        may_restart: Whether workers are ours: only then is one restarted, or its block row copied.
    """

    token: str
    attempts: int
    wait: float
    on_stored: Callable[[BlockRecord], None]
    stop: threading.Event
    expected_threads: int = 0
    limit: float | None = None
    expected: float = 0.0
    may_restart: bool = True


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
        self.watch = Watch(client, schedule.expected, schedule.limit)
        self.open: dict[Future[BlockRecord], BlockRow] = {}
        self.ended: SimpleQueue[Future[BlockRecord]] = SimpleQueue()
        self.numbers = itertools.count()
        self.copied: set[BlockRow] = set()
        self.failures: Counter[BlockRow] = Counter()
        self.set_aside: dict[BlockRow, str] = {}
        self.next_look = self.last_seen = time.monotonic()

    def loop(self) -> None:
        while self.waiting or self.open:
            if self.schedule.stop.is_set():
                raise StoppedError("The run was stopped.")
            if self.client.status not in ("running", "connecting"):
                raise ClusterError(f"The connection to the scheduler is {self.client.status}.")
            if self.client.status == "running":
                if time.monotonic() >= self.next_look:
                    self.look()
                self.fill()
            self.settle([future for future in self.take_ended() if future in self.open])

    def take_ended(self) -> list[Future[BlockRecord]]:
        """Wait for the next future to end, and take all others that have."""
        ended: list[Future[BlockRecord]] = []
        with suppress(Empty):
            ended.append(self.ended.get(timeout=POLL_SECONDS))
            while True:
                ended.append(self.ended.get_nowait())
        return ended

    def look(self) -> None:
        """Wait out the absence of workers, but not for ever; find what takes too long."""
        self.watch.look([future.key for future in self.open])
        now = time.monotonic()
        self.next_look = now + WATCH_SECONDS
        if self.watch.num_threads:
            self.last_seen = now
        elif now - self.last_seen > self.schedule.wait:
            raise ClusterError(
                f"There has been no worker for {self.schedule.wait:g} s. Look into the workers' "
                "logs; resume when there are some again."
            )
        if not self.schedule.may_restart:
            return
        for future, row in list(self.open.items()):
            if self.watch.stuck(future.key):
                self.abandon(future)
                self.retry(row, BlockRowError(f"It took longer than {self.watch.limit:.0f} s."))
        self.copy_slow()

    def copy_slow(self) -> None:
        """Give idle workers a second copy of block rows that are slow, once none is waiting."""
        for future, row in list(self.open.items()):
            idle = self.watch.num_threads > len(self.open) and not self.waiting
            others = self.watch.other_workers(future.key)
            if idle and others and row not in self.copied and self.watch.slow(future.key):
                self.copied.add(row)
                self.submit([row], others)

    def fill(self) -> None:
        threads = max(self.watch.num_threads, self.schedule.expected_threads)
        room = threads + max(SPARE, threads // THREADS_PER_SPARE) - len(self.open)
        self.submit([self.waiting.popleft() for _ in range(min(room, len(self.waiting)))])

    def submit(self, rows: list[BlockRow], workers: list[str] | None = None) -> None:
        if not rows:
            return
        # Keys of one name, or the scheduler would keep statistics of each.
        keys = [(f"block-row-{self.schedule.token}", next(self.numbers)) for _ in rows]
        # Within 100 ms Dask takes no notice of what was submitted first.
        futures = self.client.map(
            self.compute, rows, key=keys, pure=False, workers=workers, priority=-keys[0][1]
        )
        for future, row in zip(futures, rows, strict=True):
            self.open[future] = row
            future.add_done_callback(self.ended.put)

    def settle(self, ended: list[Future[BlockRecord]]) -> None:
        finished = [future for future in ended if future.status == "finished"]
        for future, record in zip(finished, self.collect(finished), strict=False):
            self.finish(future, record)
        for future in ended:
            # Of two copies the second is given up when the first has ended.
            if future in self.open and future not in finished:
                self.mend(future)

    def collect(self, futures: list[Future[BlockRecord]]) -> list[BlockRecord]:
        """The results, all in one message; none if some were lost in the meantime."""
        try:
            return list(self.client.gather(futures)) if futures else []
        except Exception as error:
            if not isinstance(error, OSError) and all(f.status == "finished" for f in futures):
                raise
        # Lost with the connection, or with a worker: what has become of them is seen next time.
        self.wait_for(futures)
        return []

    def wait_for(self, futures: list[Future[BlockRecord]]) -> None:
        time.sleep(POLL_SECONDS)
        for future in futures:
            future.add_done_callback(self.ended.put)

    def finish(self, future: Future[BlockRecord], record: BlockRecord) -> None:
        row = self.open.pop(future, None)
        if row is None:
            return  # a copy that ended just after the other
        self.watch.end(future.key)
        if row in self.copied:
            for other in [other for other, same in self.open.items() if same == row]:
                self.abandon(other)
        self.schedule.on_stored(record)
        # Or its worker, when it is given back, would have a result to pass on.
        future.release()

    def mend(self, future: Future[BlockRecord]) -> None:
        """See what to do about a future that did not end well."""
        if future.status == "error":
            self.retry(self.open.pop(future), future.exception())
        elif future.status == "cancelled":
            # The connection to the scheduler was lost, which then forgets what it was given.
            row = self.open.pop(future)
            if row not in self.open.values():
                self.waiting.appendleft(row)
        else:
            # The worker died before it could pass on the record; Dask has the task done again.
            self.wait_for([future])

    def abandon(self, future: Future[BlockRecord]) -> None:
        """Neither wait for a future any more nor let it write."""
        del self.open[future]
        self.client.cancel([future], force=True)
        self.watch.restart(future.key)

    def retry(self, row: BlockRow, error: BaseException) -> None:
        self.failures[row] += 1
        spent = self.failures[row] >= self.schedule.attempts
        if row in self.open.values():
            return  # a second copy is still computed
        if isinstance(error, KilledWorker):
            # Dask has tried it on several workers, all of which ended.
            self.set_aside[row] = "Its workers died, one after the other: is memory short?"
        elif isinstance(error, HessianError) and not isinstance(error, BlockRowError | StoreError):
            raise error
        elif not isinstance(error, StoreError):
            if spent:
                self.set_aside[row] = str(error)
            else:
                self.waiting.append(row)
        elif spent:
            raise error
        else:
            # At once: if the store cannot be written at all, nothing else is worth computing.
            self.waiting.appendleft(row)

    def cancel(self) -> None:
        if self.open and self.client.status == "running":
            self.client.cancel(list(self.open), force=True)
        self.open.clear()
