"""Workers that come when there are block rows, and go when there are none."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import dask
import pytest

from hessian_tasks.source import ProblemSource
from hessian_tasks.spec import BlockRow
from pipeline.run.cluster import _watch as watch_module
from pipeline.run.cluster import workers as workers_module
from pipeline.run.cluster.workers import Workers
from pipeline.settings.profiles import ScaledProfile
from pipeline.store.places import locate
from tests.helpers.runs import connected, processes, wait_for
from tests.run.cluster.clusters import in_queue, queue_jobs, queue_programs, rows


@dataclass(frozen=True)
class Wait:
    """In place of a job: the first block row waits for one file, the others for another.

    Attributes:
        alone: Is there when no other worker is needed any more.
        all: Is there when all workers have come.
    """

    alone: Path
    all: Path

    def __call__(self, row: BlockRow) -> int:
        wait_for((self.all if row.index else self.alone).exists)
        return row.index


def compute(workers: Workers, num_block_rows: int, on_stored: Callable[[Any], None]) -> None:
    store: Any = SimpleNamespace(location=locate(Path()))
    plan: Any = SimpleNamespace(num_threads=1, projected_seconds=1.0, num_block_rows=num_block_rows)
    source = ProblemSource("regression")
    workers.compute((store, source, plan), rows(num_block_rows), on_stored, threading.Event())


@pytest.mark.parametrize(
    ("minimum", "maximum", "num_block_rows", "most"),
    # No more workers than there are block rows.
    [(0, 3, 9, 3), pytest.param(0, 16, 3, 3, marks=pytest.mark.slow)],
)
def test_workers_come_and_go(
    minimum: int,
    maximum: int,
    num_block_rows: int,
    most: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    wait, seen, stored = Wait(tmp_path / "alone", tmp_path / "all"), [], []
    monkeypatch.setattr(workers_module, "Job", lambda *_: wait)
    # The first block row waits for the others, and is not to be copied.
    monkeypatch.setattr(watch_module, "SLOW_SECONDS", 1000.0)
    profile = processes(adapt={"minimum": minimum, "maximum": maximum}, memory="1GiB")
    with connected(profile) as workers:
        assert workers.number == maximum
        assert len(workers.client.nthreads()) == 1

        def watch() -> None:
            # The first block row ends when its worker is the only one that is left.
            while len(stored) < num_block_rows - 1 or seen[-1] > 1:
                time.sleep(0.1)
                seen.append(len(workers.client.nthreads()))
                if seen[-1] == most:
                    wait.all.touch()
            wait.alone.touch()

        thread = threading.Thread(target=watch)
        thread.start()
        compute(workers, num_block_rows, stored.append)
        thread.join()
    assert sorted(stored) == list(range(num_block_rows))
    assert max(seen) == most


def test_a_lost_job_is_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers_module, "Job", lambda *_: Wait(tmp_path, tmp_path))
    with (
        # A worker that its nanny starts again is back by then; here there is none.
        dask.config.set({"distributed.deploy.lost-worker-timeout": "1s"}),
        queue_programs(tmp_path) as programs,
        connected(in_queue("sge", tmp_path)) as workers,
    ):
        killed = queue_jobs(programs)

        def kill(index: Any) -> None:
            while killed:
                killed.pop().kill()

        compute(workers, 4, kill)
        assert len((programs / "jobs").read_text().split()) == 2


@pytest.mark.parametrize(
    ("keys", "bounds", "first"),
    [
        ({"workers": 4}, (4, 4), 4),
        ({"adapt": {"maximum": 3}}, (0, 3), 1),
        ({"workers": 9, "adapt": {"minimum": 2, "maximum": 3}}, (2, 3), 2),
    ],
)
def test_bounds(keys: dict[str, Any], bounds: tuple[int, int], first: int) -> None:
    profile: ScaledProfile = processes(**keys)
    assert (profile.bounds, profile.first_workers, profile.most_workers) == (
        bounds,
        first,
        bounds[1],
    )
