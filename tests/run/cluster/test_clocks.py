"""Clocks that jump during a run: forward by an hour, back by seconds, and forth again.

Of the time of day alone, as when a machine's clock is set; each process is a real one.
"""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest

from pipeline.store.store import HessianStore
from tests.helpers.runs import HESSIAN, ROOT, objects
from tests.run.cluster.clusters import NUM_BLOCK_ROWS, PATIENT, SERVERS, TILE, Standing
from tests.run.cluster.faults import Counted, at_random_moments

pytestmark = pytest.mark.slow
TTL = "DASK_DISTRIBUTED__SCHEDULER__WORKER_TTL"
PROBLEM = ["regression", "-owidth=12", "-odepth=1", "-onum_samples=20", "-odtype=float64"]


class Clock:
    """The time of day of the processes that have its environment.

    Attributes:
        environment: Theirs.
    """

    def __init__(self, library: Path, file: Path) -> None:
        self.file = file
        self.environment = {"LD_PRELOAD": str(library), "CLOCK_OFFSET": str(file)}
        self._plan = self._endless(random.Random(file.name))
        file.write_bytes(bytes(8))

    def jump(self) -> None:
        # In place: processes have the file in their memory.
        with self.file.open("r+b") as file:
            file.write(next(self._plan).to_bytes(8, sys.byteorder))

    def _endless(self, rng: random.Random) -> Iterator[int]:
        """What is to be added to the machine's time, in nanoseconds."""
        offset = 0
        while True:
            offset += 3600 * 10**9
            yield offset
            yield offset - rng.randrange(10 * 10**9, 20 * 10**9)


class Clocks:
    """The clocks of a test.

    Attributes:
        jumps: How often one of them has jumped.
    """

    def __init__(self, directory: Path) -> None:
        self.directory, self.rng = directory, random.Random(17)
        self.all: list[Clock] = []
        self.jumps = 0
        subprocess.run([SERVERS / "clock.sh", directory / "clock.so"], check=True)

    def new(self) -> Mapping[str, str]:
        """The environment of processes with a clock of their own."""
        clock = Clock(self.directory / "clock.so", self.directory / f"clock-{len(self.all)}")
        self.all.append(clock)
        return clock.environment

    def jump(self) -> None:
        self.rng.choice(self.all).jump()
        self.jumps += 1


Where = Callable[[Path, Clocks], AbstractContextManager[tuple[list[str], Mapping[str, str]]]]


@contextmanager
def one_machine(_: Path, clocks: Clocks) -> Iterator[tuple[list[str], Mapping[str, str]]]:
    """Flags of the command, and its environment: all processes have the same clock."""
    flags = ["--profile", "processes", "--set", "profiles.processes.workers=2"]
    yield [*flags, "--set", "profiles.processes.memory=4GiB"], clocks.new()


@contextmanager
def four_machines(
    directory: Path, clocks: Clocks, scheduler: Mapping[str, str] = MappingProxyType({})
) -> Iterator[tuple[list[str], Mapping[str, str]]]:
    """Likewise: the scheduler, two workers and the client have a clock each."""
    with Standing(directory, environment={**scheduler, **clocks.new()}) as standing:
        for _ in range(2):
            standing.work(environment={**counting(directory), **clocks.new()})
        profile = f"profiles.there={{kind: address, scheduler_file: {standing.file}}}"
        yield ["--profile", "there", "--set", profile], clocks.new()


def hasty_scheduler(directory: Path, clocks: Clocks) -> Any:
    """Likewise: workers that are silent for 5 seconds by its clock are taken for lost."""
    return four_machines(directory, clocks, {**PATIENT, TTL: "2s"})


def counting(directory: Path) -> dict[str, str]:
    return {
        "BEGUN": str(directory / "begun"),
        "DASK_DISTRIBUTED__WORKER__PRELOAD": str(SERVERS / "counting.py"),
        "PYTHONPATH": str(ROOT),
    }


@pytest.mark.parametrize(
    ("where", "period"),
    # The seconds after which a scheduler looks again for workers that are silent.
    [(one_machine, 120), (four_machines, 300), (hasty_scheduler, 2)],
)
def test_clocks_that_jump_change_no_byte(
    where: Where, period: int, tmp_path: Path, expected: dict[str, bytes]
) -> None:
    counted, clocks, store = Counted(tmp_path / "begun"), Clocks(tmp_path), tmp_path / "h.zarr"
    command = [HESSIAN, "run", *PROBLEM, "--tile", TILE, "--store", store]
    with (
        where(tmp_path, clocks) as (flags, environment),
        at_random_moments(clocks.jump, 0.5, 4.0),
    ):
        since = time.monotonic()
        done = subprocess.run(
            [*map(str, command), *flags],
            env={**os.environ, **counting(tmp_path), **environment},
            capture_output=True,
            text=True,
            check=False,
        )
        elapsed = time.monotonic() - since
    assert done.returncode == 0, done.stderr
    assert objects(store) == expected
    for record in HessianStore(store).records().values():
        assert 0 <= record.compute_seconds < elapsed
        assert 0 <= record.store_seconds < elapsed
    begun = counted.begun()
    assert clocks.jumps >= 4
    assert sorted(begun) == list(range(NUM_BLOCK_ROWS))
    # If the clock has just jumped, both workers seem to be silent, each with a block row and a
    # result that it has not passed on. The last record of all may be held back so long that a copy
    # of its block row is made.
    taken_for_lost = 2 * min(clocks.jumps, elapsed // period)
    assert begun.total() <= NUM_BLOCK_ROWS + 2 * taken_for_lost + 1
