"""Faults of workers, schedulers and jobs: each costs what was being computed, and no more."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import threading
import time
import uuid
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest

from hessian_tasks.frozen import FrozenInputs
from hessian_tasks.spec import BlockRow
from pipeline.cluster.connect import connect
from pipeline.cluster.schedule import Schedule, run_block_rows
from pipeline.cluster.workers import Workers
from pipeline.errors import BlockRowError, ClusterError, StoppedError, StoreError
from pipeline.events import BlockRowStored, RunStarted
from pipeline.profiles import Address
from pipeline.store import HessianStore
from tests.clusters import (
    NUM_BLOCK_ROWS,
    TILE,
    Run,
    Snapshot,
    computed,
    objects,
    on_slurm,
    processes,
    rows,
    standing_scheduler,
)


def schedule(stored: list[Any], **keys: Any) -> Schedule:
    stop = keys.pop("stop", threading.Event())
    return Schedule(uuid.uuid4().hex, keys.pop("attempts", 3), 60.0, stored.append, stop, **keys)


class Counting:
    """A task that counts its calls in files, and then does something."""

    def __init__(self, directory: Path, then: Callable[[BlockRow, int], Any]) -> None:
        self.directory, self.then = directory, then

    def __call__(self, row: BlockRow) -> Any:
        number = self.calls(row)
        (self.directory / f"{row.index}-{number}").touch()
        self.then(row, number)
        return row.index

    def calls(self, row: BlockRow) -> int:
        return len(list(self.directory.glob(f"{row.index}-*")))


def die_at_two(row: BlockRow, number: int) -> None:
    if row.index == 2:
        os.kill(os.getpid(), signal.SIGKILL)


def die_afterwards(row: BlockRow, number: int) -> None:
    def die() -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    # About when the result arrives, for some before and for some after it.
    if number == 0:
        threading.Timer(0.002 * row.index, die).start()


def fail_at_first(row: BlockRow, number: int) -> None:
    if number == 0:
        raise StoreError("the network file system is away")


def fail_always_at_one(row: BlockRow, number: int) -> None:
    if row.index == 1:
        raise BlockRowError("Block row 1 holds NaN.")


def test_a_block_row_that_kills_its_workers_is_set_aside(tmp_path: Path) -> None:
    stored: list[Any] = []
    task = Counting(tmp_path, die_at_two)
    with (
        connect(processes(), threading.Event()) as workers,
        pytest.raises(BlockRowError, match=r"1 of 6 block rows .*: block row 2 .*workers died"),
    ):
        run_block_rows(workers.client, task, rows(6), schedule(stored))
    assert sorted(stored) == [0, 1, 3, 4, 5]
    assert task.calls(rows(6)[2]) == 3
    # Others are only computed again if they were on a worker that died.
    assert all(task.calls(row) <= 1 + 3 for row in rows(6))


def test_workers_that_die_with_their_results_lose_none(tmp_path: Path) -> None:
    stored: list[Any] = []
    task = Counting(tmp_path, die_afterwards)
    with connect(processes(attempts=100), threading.Event()) as workers:
        run_block_rows(workers.client, task, rows(8), schedule(stored, attempts=100))
    assert sorted(stored) == list(range(8))


def test_failures_that_pass_are_tried_again(tmp_path: Path, workers: Workers) -> None:
    stored: list[Any] = []
    task = Counting(tmp_path, fail_at_first)
    run_block_rows(workers.client, task, rows(5), schedule(stored))
    assert sorted(stored) == [0, 1, 2, 3, 4]
    assert [task.calls(row) for row in rows(5)] == [2] * 5


def test_failures_that_stay_are_set_aside(tmp_path: Path, workers: Workers) -> None:
    stored: list[Any] = []
    task = Counting(tmp_path, fail_always_at_one)
    with pytest.raises(BlockRowError, match=r"block row 1 .* Block row 1 holds NaN"):
        run_block_rows(workers.client, task, rows(4), schedule(stored, attempts=2))
    assert sorted(stored) == [0, 2, 3]
    assert [task.calls(row) for row in rows(4)] == [1, 2, 1, 1]


def test_few_futures_are_open_at_a_time(workers: Workers) -> None:
    most = []

    def look(_: Any) -> None:
        most.append(len(workers.client.futures))

    plan = Schedule("many", 1, 60.0, look, threading.Event())
    run_block_rows(workers.client, lambda row: row.index, rows(500), plan)
    assert len(most) == 500
    assert max(most) <= 2 + 2 + 1


def test_stopping_keeps_what_is_stored(
    tmp_path: Path,
    workers: Workers,
    run: Run,
    inputs: FrozenInputs,
    expected: dict[str, bytes],
    snapshot: Snapshot,
) -> None:
    path, stop = tmp_path / "h.zarr", threading.Event()

    def tell(event: Any) -> None:
        if isinstance(event, BlockRowStored):
            stop.set()

    with pytest.raises(StoppedError):
        run(path, inputs, [tell], stop, tile=TILE, workers=workers)
    left = len(HessianStore(path).pending())
    assert 0 < left < NUM_BLOCK_ROWS
    # Those that were being computed then are completed by their workers.
    time.sleep(1)
    events = run(path, inputs, tile=TILE, workers=workers)
    assert len(computed(events)) <= left
    assert objects(path, snapshot) == expected


def kill_workers(workers: Workers, number: int, done: threading.Event, killed: list[int]) -> None:
    """Kill workers at random moments, until there were so many."""
    rng = random.Random(7)
    while len(killed) < number and not done.wait(rng.uniform(0.05, 0.6)):
        found = workers.client.run(os.getpid, on_error="ignore")
        if found:
            pid = rng.choice(sorted(found.values()))
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
                killed.append(pid)


@pytest.mark.parametrize("kills", [3, pytest.param(50, marks=pytest.mark.slow)])
def test_killed_workers_cost_what_they_were_computing(
    kills: int, tmp_path: Path, run: Run, inputs: FrozenInputs, snapshot: Snapshot
) -> None:
    reference, path = tmp_path / "expected.zarr", tmp_path / "h.zarr"
    run(reference, inputs, tile=1)
    killed: list[int] = []
    with connect(processes(attempts=100), threading.Event()) as workers:
        while len(killed) < kills:  # a run is over in seconds: as many as it takes
            shutil.rmtree(path, ignore_errors=True)
            done = threading.Event()
            killer = threading.Thread(target=kill_workers, args=(workers, kills, done, killed))
            killer.start()
            events = run(path, inputs, tile=1, workers=workers)
            done.set()
            killer.join()
            assert computed(events) == list(range(37))
            assert objects(path, snapshot) == objects(reference, snapshot)


def test_a_lost_scheduler_leaves_a_store_that_resumes(
    tmp_path: Path,
    workers: Workers,
    run: Run,
    inputs: FrozenInputs,
    expected: dict[str, bytes],
    snapshot: Snapshot,
) -> None:
    path = tmp_path / "h.zarr"

    def kill(event: Any) -> None:
        if isinstance(event, RunStarted):
            for process in psutil.Process().children():
                with suppress(psutil.NoSuchProcess):
                    if "scheduler" in process.cmdline():
                        process.kill()

    with standing_scheduler(tmp_path) as file:
        profile = Address(kind="address", scheduler_file=Path(file), wait=60)
        with pytest.raises(ClusterError), connect(profile, threading.Event()) as lost:
            run(path, inputs, [kill], tile=TILE, workers=lost)
    run(path, inputs, tile=TILE, workers=workers)
    assert objects(path, snapshot) == expected


def test_a_killed_job_is_replaced(
    slurm: None,
    tmp_path: Path,
    run: Run,
    inputs: FrozenInputs,
    expected: dict[str, bytes],
    snapshot: Snapshot,
) -> None:
    path = tmp_path / "h.zarr"
    cancelled: list[str] = []

    def cancel(event: Any) -> None:
        if isinstance(event, BlockRowStored) and not cancelled:
            jobs = subprocess.check_output(["squeue", "--noheader", "--format=%i"], text=True)
            cancelled.append(jobs.split()[0])
            subprocess.run(["scancel", "--signal=KILL", cancelled[0]], check=True)

    with connect(on_slurm(tmp_path), threading.Event()) as workers:
        run(path, inputs, [cancel], tile=TILE, workers=workers)
    assert cancelled
    assert objects(path, snapshot) == expected
