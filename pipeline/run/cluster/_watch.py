"""Which block rows take too long: what the scheduler says is computed, and since when.

Clocks are monotonic, and this process's own: those of workers may be wrong, or jump.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass

from dask.typing import Key
from distributed import Client

__all__ = ["Watch"]

# How much longer than the longest so far a block row may take before an idle worker is given a
# second copy of it, and before its worker is restarted; and what is never too long.
SLOW, STUCK = 3.0, 20.0
SLOW_SECONDS, STUCK_SECONDS = 10.0, 3600.0
# A process that does not end by itself is killed after 4 seconds.
RESTART_SECONDS = 10.0
# How often to see whether a cancellation has arrived.
CANCEL_SECONDS = 0.02


@dataclass(frozen=True)
class Working:
    """A task that a worker computes.

    Attributes:
        worker: Its address.
        since: When it was first seen there.
    """

    worker: str
    since: float


class Watch:
    """What is computed where, and since when, as far as it was seen from here.

    Attributes:
        working: By key of the task.
        threads: Threads of each worker, by its address.
        longest: Seconds of the longest task that has ended, or that are expected of one.
    """

    def __init__(self, client: Client, expected: float, limit: float | None) -> None:
        """Nothing is seen yet.

        Args:
            client: Of the workers.
            expected: Seconds of the longest task by the plan.
            limit: Seconds that a task may take; by default 20 times the longest, and at least an
                hour.
        """
        self.client = client
        self.longest = expected
        self.threads: Mapping[str, int] = {}
        self.working: dict[Key, Working] = {}
        self._limit = limit

    def look(self, keys: Sequence[Key]) -> None:
        """Ask the scheduler; while it does not answer, what was seen last is taken for true.

        It gives a worker more tasks than threads where there are few of them. The others wait, and
        their time has not begun.

        Args:
            keys: Of the tasks, in the order in which they were submitted.
        """
        # The connection is made anew, or given up, by Dask's client.
        with suppress(OSError):
            self.threads = self.client.nthreads()
            given, now = self.client.processing(), time.monotonic()
            where = {key: worker for worker, tasks in given.items() for key in tasks}
            working = {k: seen for k, seen in self.working.items() if where.get(k) == seen.worker}
            busy = Counter(seen.worker for seen in working.values())
            for key in keys:
                worker = where.get(key)
                if key not in working and worker and busy[worker] < self.threads.get(worker, 0):
                    busy[worker] += 1
                    working[key] = Working(worker, now)
            self.working = working

    def end(self, key: Key) -> None:
        """Take the time of a task that has ended well."""
        if key in self.working:
            self.longest = max(self.longest, time.monotonic() - self.working.pop(key).since)

    @property
    def num_threads(self) -> int:
        """Threads of all workers."""
        return sum(self.threads.values())

    def slow(self, key: Key) -> bool:
        """Whether a second copy would be worth it."""
        return self._seconds(key) > max(SLOW_SECONDS, SLOW * self.longest)

    def other_workers(self, key: Key) -> list[str]:
        """The workers that do not compute a task."""
        working = self.working.get(key)
        return [w for w in self.threads if working is None or w != working.worker]

    @property
    def limit(self) -> float:
        """Seconds that a task may take."""
        return self._limit or max(STUCK_SECONDS, STUCK * self.longest)

    def stuck(self, key: Key) -> bool:
        """Whether a task has taken longer than the limit."""
        return self._seconds(key) > self.limit

    def restart(self, key: Key) -> None:
        """End the worker that computes a task; its nanny, or the queue, starts another.

        No two workers then write the same block row, if only with the same bytes. The task has to
        be cancelled before.
        """
        working, scheduler = self.working.pop(key, None), self.client.scheduler
        if working is not None and scheduler is not None:
            with suppress(OSError):
                self._await_cancelled(key)
                self.client.sync(
                    scheduler.restart_workers,
                    workers=[working.worker],
                    timeout=RESTART_SECONDS,
                    wait_for_workers=False,
                    on_error="return",
                    stimulus_id=f"restart-{key}",
                )

    def _await_cancelled(self, key: Key) -> None:
        # A restart overtakes a cancellation on its way: they take different connections. The
        # scheduler would then have the task done once more, on the next worker.
        patience = time.monotonic() + RESTART_SECONDS
        while time.monotonic() < patience and any(
            key in tasks for tasks in self.client.processing().values()
        ):
            time.sleep(CANCEL_SECONDS)

    def _seconds(self, key: Key) -> float:
        return time.monotonic() - self.working[key].since if key in self.working else 0.0
