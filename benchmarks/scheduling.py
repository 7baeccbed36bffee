"""What a block row costs the scheduler and the client: tasks that do nothing, as many as wanted.

The scheduler, the workers and the client are processes of their own, so that time and memory of
each can be told apart; block rows are given out as in a run. The scheduler's own time for a task
bounds how many block rows a second any number of workers can take.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
from distributed import Client

from hessian_tasks.spec import BlockRow
from pipeline.run.cluster._schedule import Schedule, run_block_rows

DASK = Path(sys.executable).with_name("dask")


def do_nothing(row: BlockRow) -> int:
    return row.index


@contextmanager
def standing(num_threads: int) -> Iterator[tuple[Client, psutil.Process]]:
    """A scheduler, a process of workers' threads, and a client."""
    with tempfile.TemporaryDirectory() as directory:
        file = f"{directory}/scheduler.json"
        common = ["--scheduler-file", file, "--host", "tcp://127.0.0.1", "--no-dashboard"]
        scheduler = [DASK, "scheduler", "--port", "0", *common]
        worker = [DASK, "worker", "--no-nanny", "--nthreads", str(num_threads), *common]
        started = [
            subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            for command in (scheduler, worker)
        ]
        try:
            while not Path(file).exists():
                time.sleep(0.1)
            with Client(scheduler_file=file, set_as_default=False) as client:
                client.wait_for_workers(1)
                yield client, psutil.Process(started[0].pid)
        finally:
            for process in reversed(started):
                process.terminate()
                process.wait()


class Meter:
    """Prints what a number of tasks took, every so often."""

    def __init__(self, scheduler: psutil.Process, every: int) -> None:
        self.scheduler, self.every = scheduler, every
        self.number = 0
        self.last = self.read()

    def read(self) -> tuple[float, float, float]:
        used = [sum(p.cpu_times()[:2]) for p in (self.scheduler, psutil.Process())]
        return time.perf_counter(), *used

    def count(self, _: object) -> None:
        self.number += 1
        if self.number % self.every:
            return
        now = self.read()
        wall, scheduler, client = (b - a for a, b in zip(self.last, now, strict=True))
        self.last = now
        memory = [p.memory_info().rss / 2**20 for p in (self.scheduler, psutil.Process())]
        print(
            f"{self.number:>9,} {self.every / wall:>8.0f}/s "
            f"{scheduler / self.every * 1e3:>9.2f} ms "
            f"{client / self.every * 1e3:>9.2f} ms {memory[0]:>9.0f} MiB {memory[1]:>9.0f} MiB",
            flush=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tasks", type=int, default=100_000)
    parser.add_argument("--threads", type=int, default=16, help="threads of the workers")
    arguments = parser.parse_args()
    rows = [BlockRow(i, i, i + 1) for i in range(arguments.tasks)]
    print("    tasks       rate    scheduler     client  memory: scheduler     client")
    with standing(arguments.threads) as (client, scheduler):
        meter = Meter(scheduler, max(1, arguments.tasks // 10))
        schedule = Schedule("bench", 3, 60.0, meter.count, threading.Event())
        run_block_rows(client, do_nothing, rows, schedule)  # type: ignore[arg-type]


if __name__ == "__main__":
    main()
