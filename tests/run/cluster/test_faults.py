"""Real block rows on workers to which something happens: the same bytes, nothing done in vain."""

from __future__ import annotations

import subprocess
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dask
import pytest

from hessian_tasks.frozen import FrozenInputs
from pipeline.errors import BlockRowError, ClusterError, StoppedError, StoreError
from pipeline.run.cluster.workers import Workers
from pipeline.run.events import BlockRowStored, RunStarted
from pipeline.store.store import HessianStore
from tests.helpers.runs import Run, computed, connected, fill, intact, objects, processes, wait_for
from tests.run.cluster import faults
from tests.run.cluster.clusters import NUM_BLOCK_ROWS, TILE, Standing, on_slurm
from tests.run.cluster.faults import Counted, FlakyDisk

ALL = list(range(NUM_BLOCK_ROWS))


def test_stopping_keeps_what_is_stored(
    tmp_path: Path, workers: Workers, run: Run, inputs: FrozenInputs, expected: dict[str, bytes]
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
    wait_for(lambda: not any(workers.client.processing().values()))
    events = run(path, inputs, tile=TILE, workers=workers)
    assert len(computed(events)) <= left
    assert objects(path) == expected


def test_a_lost_scheduler_leaves_a_store_that_resumes(
    tmp_path: Path, workers: Workers, run: Run, inputs: FrozenInputs, expected: dict[str, bytes]
) -> None:
    path = tmp_path / "h.zarr"
    with Standing(tmp_path, 1) as standing:

        def kill(event: Any) -> None:
            if isinstance(event, RunStarted):
                standing.scheduler.kill()

        with pytest.raises(ClusterError), connected(standing.profile) as lost:
            run(path, inputs, [kill], tile=TILE, workers=lost)
    run(path, inputs, tile=TILE, workers=workers)
    assert objects(path) == expected


@pytest.mark.slow
def test_a_killed_job_is_replaced(
    slurm: None, tmp_path: Path, run: Run, inputs: FrozenInputs, expected: dict[str, bytes]
) -> None:
    path = tmp_path / "h.zarr"
    cancelled: list[str] = []

    def cancel(event: Any) -> None:
        if isinstance(event, BlockRowStored) and not cancelled:
            jobs = subprocess.check_output(["squeue", "--noheader", "--format=%i"], text=True)
            cancelled.append(jobs.split()[0])
            subprocess.run(["scancel", "--signal=KILL", cancelled[0]], check=True)

    with (
        # A worker that its nanny starts again is back by then; here there is none.
        dask.config.set({"distributed.deploy.lost-worker-timeout": "1s"}),
        connected(on_slurm(tmp_path, workers=1)) as workers,
    ):
        run(path, inputs, [cancel], tile=TILE, workers=workers)
    assert cancelled
    assert objects(path) == expected


@pytest.mark.slow
@pytest.mark.parametrize("fault", [faults.kill, faults.gobble, faults.hang, faults.stop])
def test_a_lost_worker_changes_no_byte(
    fault: faults.Fault, tmp_path: Path, run: Run, inputs: FrozenInputs, expected: dict[str, bytes]
) -> None:
    """Killed, out of memory, in a task that never returns, suspended."""
    counted = Counted(tmp_path / "begun", {0: (fault, 1), 4: (fault, 1)})
    with connected(processes(memory="2GiB", limit=60), counted) as workers:
        events = run(tmp_path / "h.zarr", inputs, tile=TILE, workers=workers)
    assert computed(events) == ALL
    assert objects(tmp_path / "h.zarr") == expected
    begun = counted.begun()
    assert min(begun[0], begun[4]) >= 2
    assert begun.total() <= NUM_BLOCK_ROWS + 2 + 2


@pytest.mark.slow
def test_a_block_row_that_eats_all_memory_is_set_aside(
    tmp_path: Path, run: Run, inputs: FrozenInputs, expected: dict[str, bytes]
) -> None:
    counted = Counted(tmp_path / "begun", {3: (faults.gobble, 2)})
    path = tmp_path / "h.zarr"
    with connected(processes(memory="2GiB", attempts=2), counted) as workers:
        with pytest.raises(BlockRowError, match=r"1 of 19 .*: block row 3 .*is memory short"):
            run(path, inputs, tile=TILE, workers=workers)
        assert sorted(HessianStore(path).records()) == [i for i in ALL if i != 3]
        assert computed(run(path, inputs, workers=workers)) == [3]
    assert counted.begun()[3] == 3
    assert objects(path) == expected


@pytest.mark.slow
def test_a_straggler_is_overtaken(
    tmp_path: Path, run: Run, inputs: FrozenInputs, expected: dict[str, bytes]
) -> None:
    """A block row never ends; the other worker computes it, too, after 10 s."""
    counted = Counted(tmp_path / "begun", {17: (faults.hang, 1)})
    with connected(processes(), counted) as workers:
        # TensorFlow is imported in the first run of a worker, which takes long, too.
        run(tmp_path / "first.zarr", inputs, tile=5, workers=workers)
        events = run(tmp_path / "h.zarr", inputs, tile=TILE, workers=workers)
    assert computed(events) == ALL
    assert objects(tmp_path / "h.zarr") == expected
    assert counted.begun()[17] == 2


@pytest.mark.slow
def test_a_store_that_errs_one_time_in_ten_costs_nothing_but_time(
    tmp_path: Path, run: Run, inputs: FrozenInputs, expected: dict[str, bytes]
) -> None:
    counted = Counted(tmp_path / "begun")
    flaky = FlakyDisk(tmp_path / "errors", 0.1)
    with connected(processes(), counted, flaky) as workers:
        events = run(tmp_path / "h.zarr", inputs, tile=TILE, workers=workers)
    assert computed(events) == ALL
    assert counted.begun() == dict.fromkeys(ALL, 1)
    # 361 tiles and as many reads as it takes to rebuild the problem.
    assert len(list((tmp_path / "errors").iterdir())) > 15
    assert objects(tmp_path / "h.zarr") == expected


@pytest.mark.slow
def test_a_disk_that_is_full_for_workers_is_one_clear_message(
    small_disk: Callable[[str], Path],
    tmp_path: Path,
    run: Run,
    inputs: FrozenInputs,
    expected: dict[str, bytes],
) -> None:
    disk = small_disk("size=4m")
    path = disk / "h.zarr"
    counted = Counted(tmp_path / "begun")

    def tell(event: Any) -> None:
        if isinstance(event, RunStarted):
            fill(disk, leave=60 * 4096)

    with connected(processes(attempts=2), counted) as workers:
        with pytest.raises(StoreError, match=r"Cannot write to .*h\.zarr: the disk is full"):
            run(path, inputs, [tell], tile=TILE, workers=workers)
        done = set(HessianStore(path).records())
        assert intact(path)
        assert counted.begun().total() <= len(done) + 3 * 2
        (disk / "ballast").unlink()
        events = run(path, inputs, workers=workers)
    assert computed(events) == sorted(set(ALL) - done)
    assert objects(path) == expected
