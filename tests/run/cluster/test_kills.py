"""Kills and cuts at random moments: the same bytes, and no block row computed in vain.

What a kill may cost is what was being computed, and one result more of each worker that it had not
passed on.
"""

from __future__ import annotations

import random
import shutil
import signal
import subprocess
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import psutil
import pytest

from hessian_tasks.frozen import FrozenInputs
from pipeline.errors import ClusterError
from pipeline.run.cluster import connect as connect_module
from pipeline.run.events import BlockRowStored
from pipeline.settings.profiles import Address
from pipeline.store.store import HessianStore
from tests.helpers.runs import WAIT, Run, computed, connected, intact, objects, run_and_kill
from tests.run.cluster.clusters import NUM_BLOCK_ROWS, PATIENT, TILE, Standing
from tests.run.cluster.faults import Counted, Proxy, at_random_moments

pytestmark = pytest.mark.slow
ALL = list(range(NUM_BLOCK_ROWS))


class Killer:
    """Ends one of two workers, again and again, whenever one has begun a block row since.

    Attributes:
        killed: How many it has ended.
    """

    def __init__(self, standing: Standing, number: signal.Signals, counted: Counted) -> None:
        self.standing, self.number, self.counted = standing, number, counted
        self.jobs = [standing.work(), standing.work()]
        self.killed = self.begun = 0
        self.rng = random.Random(3)

    def __call__(self, most: int) -> None:
        begun = self.counted.begun().total()
        if self.killed < most and begun > self.begun:
            self.begun = begun
            self.jobs.append(self.standing.work())
            end_family(self.jobs.pop(self.rng.randrange(2)), self.number)
            self.killed += 1


def end_family(job: subprocess.Popen[bytes], number: signal.Signals) -> None:
    """Signal a job's first process; with SIGKILL, as when a machine is lost, its worker too."""
    children = psutil.Process(job.pid).children(recursive=True)
    job.send_signal(number)
    for child in children if number == signal.SIGKILL else []:
        child.kill()
    job.wait()


@pytest.mark.parametrize(
    ("number", "num_kills"),
    [
        pytest.param(signal.SIGKILL, 50, id="SIGKILL"),
        pytest.param(signal.SIGTERM, 20, id="SIGTERM"),
    ],
)
def test_killed_workers_cost_what_they_were_computing(
    number: signal.Signals,
    num_kills: int,
    tmp_path: Path,
    run: Run,
    inputs: FrozenInputs,
    expected: dict[str, bytes],
) -> None:
    """Whole jobs, the nanny included: SIGKILL of a machine, or SIGTERM of the queue."""
    counted = Counted(tmp_path / "begun", seconds=0.5)
    path, runs = tmp_path / "h.zarr", 0
    with Standing(tmp_path, environment=PATIENT) as standing:
        killer = Killer(standing, number, counted)
        with connected(standing.profile, counted) as workers:
            while killer.killed < num_kills:
                with at_random_moments(lambda: killer(num_kills), 0.2, 2.0):
                    assert computed(run(path, inputs, tile=TILE, workers=workers)) == ALL
                assert objects(path) == expected
                shutil.rmtree(path)
                runs += 1
    assert runs * NUM_BLOCK_ROWS <= counted.begun().total()
    assert counted.begun().total() <= runs * NUM_BLOCK_ROWS + 2 * num_kills


def test_lost_connections_are_made_again(
    tmp_path: Path, run: Run, inputs: FrozenInputs, expected: dict[str, bytes]
) -> None:
    """Of the client, all the time; of the workers once, which then end, and are replaced."""
    counted = Counted(tmp_path / "begun", seconds=0.5)
    path = tmp_path / "h.zarr"
    cuts: list[int] = []
    with Standing(tmp_path, environment=PATIENT) as standing, ExitStack() as stack:
        here, there = (stack.enter_context(Proxy(standing.address)) for _ in range(2))

        def work() -> None:
            standing.work(there.address)
            standing.work(there.address)

        def cut() -> None:
            if counted.begun():
                cuts.append(here.cut())
            if len(cuts) == 2:
                there.cut()
                work()

        work()
        profile = Address(kind="address", address=here.address, wait=WAIT, attempts=100)
        workers = stack.enter_context(connected(profile, counted))
        stack.enter_context(at_random_moments(cut, 0.5, 2.0))
        assert computed(run(path, inputs, tile=TILE, workers=workers)) == ALL
    assert objects(path) == expected
    assert sum(map(bool, cuts)) >= 3
    # A cut takes with it the futures that are open, of which two are computed.
    assert counted.begun().total() <= NUM_BLOCK_ROWS + 4 * len(cuts)


def test_killed_clients_leave_a_store_that_resumes(
    tmp_path: Path, run: Run, inputs: FrozenInputs, expected: dict[str, bytes]
) -> None:
    """Twenty of them."""
    counted = Counted(tmp_path / "begun")
    path, rng, kills, runs = tmp_path / "h.zarr", random.Random(5), 0, 0
    with Standing(tmp_path, 2) as standing, connected(standing.profile, counted) as workers:
        while kills < 20:
            killed = run_and_kill(path, inputs, rng, standing.file)
            kills += killed
            assert intact(path)
            if not killed or kills == 20:
                runs += 1
                run(path, inputs, workers=workers)
                assert objects(path) == expected
                shutil.rmtree(path)
    # Of each killed client's futures, at most two a worker, some were computed once more.
    assert counted.begun().total() <= runs * NUM_BLOCK_ROWS + 4 * kills


def test_killed_schedulers_leave_a_store_that_resumes(
    tmp_path: Path,
    run: Run,
    inputs: FrozenInputs,
    expected: dict[str, bytes],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Ten of them; workers end with their scheduler, so that each has its own."""
    counted = Counted(tmp_path / "begun", seconds=0.1)
    path, rng, runs, here = tmp_path / "h.zarr", random.Random(9), 0, 0
    # For so long a client looks for a scheduler that it has lost; 30 s are of no use here.
    monkeypatch.setattr(connect_module, "CONNECT_SECONDS", 10.0)
    for kills in range(1, 11):
        with Standing(tmp_path, 2) as standing:
            kill = after_block_rows(rng.randint(1, 6), standing.scheduler.kill)
            with pytest.raises(ClusterError), connected(standing.profile, counted) as lost:
                run(path, inputs, [kill], tile=TILE, workers=lost)
        assert intact(path)
        if kills == 10 or len(HessianStore(path).records()) > NUM_BLOCK_ROWS - 8:
            here += len(computed(run(path, inputs)))
            runs += 1
            assert objects(path) == expected
            shutil.rmtree(path)
    assert counted.begun().total() <= runs * NUM_BLOCK_ROWS - here + 4 * kills


def after_block_rows(number: int, act: Callable[[], object]) -> Callable[[Any], None]:
    """A callback that does something once so many block rows are stored."""
    left = [number]

    def count(event: Any) -> None:
        left[0] -= isinstance(event, BlockRowStored)
        if not left[0]:
            act()

    return count
