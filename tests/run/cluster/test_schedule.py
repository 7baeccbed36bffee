"""How often a block row is computed when it, or its worker, fails: tasks that do nothing else."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pipeline.errors import BlockRowError
from pipeline.run.cluster import _schedule as schedule_module
from pipeline.run.cluster import _watch as watch
from pipeline.run.cluster._schedule import Schedule, run_block_rows
from pipeline.run.cluster._watch import Watch
from pipeline.run.cluster.workers import Workers
from pipeline.store.tiling import split_rows
from tests.helpers.runs import WAIT, connected, processes, wait_for
from tests.run.cluster import faults
from tests.run.cluster.clusters import rows
from tests.run.cluster.faults import Counted

NUM_BLOCK_ROWS = 19
ALL = list(range(NUM_BLOCK_ROWS))


def schedule(done: list[Any], **keys: Any) -> Schedule:
    keys = {"attempts": 3, "wait": WAIT, "on_stored": done.append, **keys}
    return Schedule(uuid.uuid4().hex, stop=threading.Event(), **keys)


def compute(workers: Workers, task: Counted, **keys: Any) -> list[int]:
    """Have the tasks done; what was done, sorted."""
    done: list[Any] = []
    run_block_rows(workers.client, task, rows(NUM_BLOCK_ROWS), schedule(done, **keys))
    return sorted(done)


def test_the_largest_block_rows_come_first(tmp_path: Path) -> None:
    task = Counted(tmp_path / "begun", seconds=0.02)
    with connected(processes(workers=1)) as workers:
        compute(workers, task)
    assert task.order() == ALL
    sizes = [row.num_rows * (103 - row.start) for row in split_rows(103, 5)]
    assert sizes == sorted(sizes, reverse=True)


@pytest.mark.parametrize(
    "fault", [faults.kill, faults.hang, pytest.param(faults.stop, marks=pytest.mark.slow)]
)
def test_a_worker_lost_in_any_way_costs_what_it_was_computing(
    fault: faults.Fault, tmp_path: Path
) -> None:
    """Killed, in a task that never returns, suspended: at its first block row and later."""
    task = Counted(tmp_path / "begun", {0: (fault, 1), 4: (fault, 1)}, seconds=0.1)
    with connected(processes()) as workers:
        assert compute(workers, task, limit=10.0) == ALL
    begun = task.begun()
    assert min(begun[0], begun[4]) >= 2
    # Beside the two, one that each dead worker had computed but not yet passed on.
    assert begun.total() <= NUM_BLOCK_ROWS + 2 + 2


@pytest.mark.slow
def test_a_block_row_that_never_ends_is_set_aside(tmp_path: Path) -> None:
    task = Counted(tmp_path / "begun", {3: (faults.hang, 2)})
    with (
        connected(processes()) as workers,
        pytest.raises(BlockRowError, match=r"1 of 19 .*: block row 3 .*longer than 10 s"),
    ):
        compute(workers, task, limit=10.0, attempts=2)
    begun = task.begun()
    assert begun[3] == 2
    assert begun.total() <= NUM_BLOCK_ROWS + 1 + 2


class Turns:
    """Three block rows, of which each ends when it was seen twice.

    Attributes:
        task: In place of a job.
        seconds: What the watch's clock says: one more whenever it looks.
    """

    def __init__(self, directory: Path) -> None:
        self.seconds, self.current = 0.0, 0
        self.ends = [directory / f"end-{i}" for i in range(3)]
        waits = {i: (partial(wait_for, end.exists), 1) for i, end in enumerate(self.ends)}
        self.task = Counted(directory / "begun", waits)

    def watched(self, look: Callable[..., None]) -> Callable[..., None]:
        def look_in_turn(watch: Watch, keys: Any) -> None:
            if keys and self.current < len(self.ends):
                wait_for(lambda: self.is_computed(watch))
                self.seconds += 1
            look(watch, keys)
            if self.seconds == 2 * (self.current + 1):
                self.ends[self.current].touch()
                self.current += 1

        return look_in_turn

    def is_computed(self, watch: Watch) -> bool:
        """Whether the current block row has begun, and the scheduler knows that others ended."""
        given = {key for tasks in watch.client.processing().values() for key in tasks}
        begun = self.task.begun()[self.current] == 1
        return begun and not any(number < self.current for _, number in given)


def test_waiting_behind_another_block_row_does_not_count(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker is given three at once, and computes one after the other."""
    monkeypatch.setattr(schedule_module, "WATCH_SECONDS", 0.0)
    turns = Turns(tmp_path)
    monkeypatch.setattr(watch, "time", SimpleNamespace(monotonic=lambda: turns.seconds))
    done: list[Any] = []
    with connected(processes(workers=1)) as workers:
        monkeypatch.setattr(Watch, "look", turns.watched(Watch.look))
        run_block_rows(workers.client, turns.task, rows(3), schedule(done, limit=1.5))
    assert sorted(done) == [0, 1, 2]
    assert turns.task.begun() == {0: 1, 1: 1, 2: 1}
    assert turns.seconds == 6


@pytest.mark.slow
def test_an_idle_worker_copies_the_slowest_block_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watch, "SLOW_SECONDS", 5.0)
    task = Counted(tmp_path / "begun", {16: (faults.hang, 1)})
    with connected(processes()) as workers:
        assert compute(workers, task) == ALL
        # Its worker was restarted, and does not write any more.
        assert not any(workers.client.processing().values())
    assert task.begun() == {row: 1 + (row == 16) for row in ALL}


def test_a_block_row_that_kills_its_workers_is_set_aside(tmp_path: Path) -> None:
    done: list[Any] = []
    task = Counted(tmp_path / "begun", {2: (faults.kill, 3)}, seconds=0.3)
    with (
        connected(processes()) as workers,
        pytest.raises(BlockRowError, match=r"1 of 6 block rows .*: block row 2 .*workers died"),
    ):
        run_block_rows(workers.client, task, rows(6), schedule(done))
    assert sorted(done) == [0, 1, 3, 4, 5]
    begun = task.begun()
    assert begun[2] == 3
    # Others are only computed again if they were on a worker that died.
    assert begun.total() <= 6 + 2 + 3


@pytest.mark.parametrize("number", [4, pytest.param(8, marks=pytest.mark.slow)])
def test_workers_that_die_with_their_results_lose_none(number: int, tmp_path: Path) -> None:
    # About when the result arrives, for some before and for some after it.
    deaths = {i: (partial(faults.die_later, 0.016 * i / number), 1) for i in range(number)}
    done: list[Any] = []
    task = Counted(tmp_path / "begun", deaths)
    with connected(processes(attempts=100)) as workers:
        run_block_rows(workers.client, task, rows(number), schedule(done, attempts=100))
    assert sorted(done) == list(range(number))


def test_failures_that_pass_are_tried_again(tmp_path: Path, workers: Workers) -> None:
    task = Counted(tmp_path / "begun", dict.fromkeys(ALL, (faults.fail, 1)))
    assert compute(workers, task) == ALL
    assert task.begun() == dict.fromkeys(ALL, 2)


def test_failures_that_stay_are_set_aside(tmp_path: Path, workers: Workers) -> None:
    done: list[Any] = []
    task = Counted(tmp_path / "begun", {1: (faults.spoil, 2)})
    with pytest.raises(BlockRowError, match=r"block row 1 .* The block row holds NaN"):
        run_block_rows(workers.client, task, rows(4), schedule(done, attempts=2))
    assert sorted(done) == [0, 2, 3]
    assert task.begun() == {0: 1, 1: 2, 2: 1, 3: 1}


def test_few_futures_are_open_at_a_time() -> None:
    most = []

    def look(_: Any) -> None:
        most.append(len(workers.client.futures))

    many = schedule([], on_stored=look)
    with connected(processes()) as workers:
        run_block_rows(workers.client, lambda row: row.index, rows(500), many)
    assert len(most) == 500
    assert max(most) <= 2 + 2 + 1
