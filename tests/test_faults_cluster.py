"""Faults at random moments on a cluster: the same bytes, and no block row computed in vain."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest

from hessian_tasks.frozen import FrozenInputs
from pipeline.cluster import watch
from pipeline.cluster.connect import connect
from pipeline.cluster.schedule import Schedule, run_block_rows
from pipeline.cluster.workers import Workers
from pipeline.errors import BlockRowError, ClusterError, StoreError
from pipeline.events import BlockRowStored, RunStarted
from pipeline.plan import split_rows
from pipeline.profiles import Address, Processes
from pipeline.records import damaged_objects
from pipeline.store import HessianStore
from tests import faults
from tests.faults import Counted, FlakyDisk, Proxy

Run = Callable[..., list[Any]]
Snapshot = Callable[[Path], dict[str, bytes]]

DASK = Path(sys.executable).with_name("dask")
TILE = 2
NUM_BLOCK_ROWS = 19


def objects(path: Path, snapshot: Snapshot) -> dict[str, bytes]:
    """What was computed: tiles, not records with their times."""
    return {key: data for key, data in snapshot(path).items() if key.startswith("hessian/c/")}


def stored(events: list[Any]) -> list[int]:
    return sorted(e.record.row.index for e in events if isinstance(e, BlockRowStored))


@pytest.fixture(scope="module")
def expected(
    tmp_path_factory: pytest.TempPathFactory, run: Run, inputs: FrozenInputs, snapshot: Snapshot
) -> dict[str, bytes]:
    """The objects of an undisturbed run in this process."""
    path = tmp_path_factory.mktemp("expected") / "h.zarr"
    run(path, inputs, tile=TILE, executor="serial")
    return objects(path, snapshot)


@contextmanager
def two_processes(**keys: Any) -> Iterator[Workers]:
    profile = {"kind": "processes", "workers": 2, "memory": "4GiB", **keys}
    with connect(Processes.model_validate(profile), threading.Event()) as workers:
        yield workers


class Standing:
    """A scheduler and workers, each a process of its own."""

    def __init__(self, directory: Path, environment: dict[str, str] | None = None) -> None:
        self.file = directory / "scheduler.json"
        settings = {"ALLOWED_FAILURES": "1000", "WORKER_SATURATION": "1.0"}
        settings = {f"DASK_DISTRIBUTED__SCHEDULER__{k}": v for k, v in settings.items()}
        # The scheduler reads tasks, too, and so imports what tests give it.
        settings["PYTHONPATH"] = str(Path(__file__).parents[1])
        self.environment = {**os.environ, **settings, **(environment or {})}
        self.processes = ExitStack()

    def __enter__(self) -> Standing:
        self.scheduler = self.start("scheduler", "--port", "0", "--scheduler-file", self.file)
        wait_for(lambda: self.file.exists() and self.file.read_text().endswith("}"))
        return self

    def __exit__(self, *_: object) -> None:
        self.processes.close()
        self.file.unlink(missing_ok=True)

    def start(self, kind: str, *options: object) -> subprocess.Popen[bytes]:
        command = [DASK, kind, "--no-dashboard", "--host", "tcp://127.0.0.1", *options]
        process = subprocess.Popen(
            [*map(str, command)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env=self.environment,
        )
        self.processes.callback(process.wait)
        self.processes.callback(process.terminate)
        return process

    def work(self, address: str | None = None) -> subprocess.Popen[bytes]:
        """Start a worker, with its nanny."""
        where = [address] if address else ["--scheduler-file", self.file]
        return self.start("worker", *where, "--nthreads", "1", "--memory-limit", "4GiB")

    @property
    def profile(self) -> Address:
        return Address(kind="address", scheduler_file=self.file, wait=60, attempts=10)


def wait_for(condition: Callable[[], bool], seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


@contextmanager
def at_random_moments(act: Callable[[], object], shortest: float, longest: float) -> Iterator[None]:
    """Do something again and again, as long as this is entered."""
    over, rng = threading.Event(), random.Random(11)

    def repeat() -> None:
        while not over.wait(rng.uniform(shortest, longest)):
            act()

    thread = threading.Thread(target=repeat)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


# ---- what happens to one block row --------------------------------------------------------------


def compute(workers: Workers, task: Counted, **keys: Any) -> list[int]:
    """Have tasks done that do nothing but count, and fail; what was done, sorted."""
    done: list[Any] = []
    keys = {"attempts": 3, "wait": 60.0, "on_stored": done.append, **keys}
    schedule = Schedule(uuid.uuid4().hex, stop=threading.Event(), **keys)
    run_block_rows(workers.client, task, split_rows(NUM_BLOCK_ROWS, 1), schedule)
    return sorted(done)


def test_the_largest_block_rows_come_first(tmp_path: Path) -> None:
    task = Counted(tmp_path / "begun", seconds=0.02)
    with two_processes(workers=1) as workers:
        compute(workers, task)
    assert task.order() == list(range(NUM_BLOCK_ROWS))
    sizes = [row.num_rows * (103 - row.start) for row in split_rows(103, 5)]
    assert sizes == sorted(sizes, reverse=True)


@pytest.mark.parametrize("fault", [faults.kill, faults.hang, faults.stop])
def test_a_worker_lost_in_any_way_costs_what_it_was_computing(
    fault: faults.Fault, tmp_path: Path
) -> None:
    """Killed, in a task that never returns, suspended: at its first block row and later."""
    task = Counted(tmp_path / "begun", {0: (fault, 1), 4: (fault, 1)})
    with two_processes() as workers:
        assert compute(workers, task, limit=2.0) == list(range(NUM_BLOCK_ROWS))
    begun = task.begun()
    assert min(begun[0], begun[4]) >= 2
    # Beside the two, one that each dead worker had computed but not yet passed on.
    assert begun.total() <= NUM_BLOCK_ROWS + 2 + 2


def test_a_block_row_that_never_ends_is_set_aside(tmp_path: Path) -> None:
    task = Counted(tmp_path / "begun", {3: (faults.hang, 2)})
    with (
        two_processes() as workers,
        pytest.raises(BlockRowError, match=r"1 of 19 .*: block row 3 .*longer than 2 s"),
    ):
        compute(workers, task, limit=2.0, attempts=2)
    begun = task.begun()
    assert begun[3] == 2
    assert begun.total() <= NUM_BLOCK_ROWS + 1 + 2


def test_an_idle_worker_copies_the_slowest_block_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watch, "SLOW_SECONDS", 1.0)
    task = Counted(tmp_path / "begun", {16: (faults.pause, 1)})
    with two_processes() as workers:
        since = time.monotonic()
        assert compute(workers, task) == list(range(NUM_BLOCK_ROWS))
        assert time.monotonic() - since < 20  # it pauses for 30
        # Its worker was restarted, and does not write any more.
        assert not any(workers.client.processing().values())
    assert task.begun() == {row: 1 + (row == 16) for row in range(NUM_BLOCK_ROWS)}


@pytest.mark.slow
@pytest.mark.parametrize("fault", [faults.kill, faults.gobble, faults.hang, faults.stop])
def test_a_lost_worker_changes_no_byte(
    fault: faults.Fault,
    tmp_path: Path,
    run: Run,
    inputs: FrozenInputs,
    expected: dict[str, bytes],
    snapshot: Snapshot,
) -> None:
    """As above, and out of memory, with real block rows."""
    counted = Counted(tmp_path / "begun", {0: (fault, 1), 4: (fault, 1)})
    with two_processes(memory="2GiB", limit=30) as workers:
        workers.client.register_plugin(counted)
        events = run(tmp_path / "h.zarr", inputs, tile=TILE, workers=workers)
    assert stored(events) == list(range(NUM_BLOCK_ROWS))
    assert objects(tmp_path / "h.zarr", snapshot) == expected
    begun = counted.begun()
    assert min(begun[0], begun[4]) >= 2
    assert begun.total() <= NUM_BLOCK_ROWS + 2 + 2


@pytest.mark.slow
def test_a_block_row_that_eats_all_memory_is_set_aside(
    tmp_path: Path, run: Run, inputs: FrozenInputs, expected: dict[str, bytes], snapshot: Snapshot
) -> None:
    counted = Counted(tmp_path / "begun", {3: (faults.gobble, 2)})
    path = tmp_path / "h.zarr"
    with two_processes(memory="2GiB", attempts=2) as workers:
        workers.client.register_plugin(counted)
        with pytest.raises(BlockRowError, match=r"1 of 19 .*: block row 3 .*is memory short"):
            run(path, inputs, tile=TILE, workers=workers)
        assert sorted(HessianStore(path).records()) == [i for i in range(19) if i != 3]
        assert stored(run(path, inputs, workers=workers)) == [3]
    assert counted.begun()[3] == 3
    assert objects(path, snapshot) == expected


# ---- what happens at random moments -------------------------------------------------------------


@pytest.mark.slow
def test_a_store_that_errs_one_time_in_ten_costs_nothing_but_time(
    tmp_path: Path, run: Run, inputs: FrozenInputs, expected: dict[str, bytes], snapshot: Snapshot
) -> None:
    counted = Counted(tmp_path / "begun")
    flaky = FlakyDisk(tmp_path / "errors", 0.1)
    with two_processes() as workers:
        workers.client.register_plugin(counted)
        workers.client.register_plugin(flaky)
        events = run(tmp_path / "h.zarr", inputs, tile=TILE, workers=workers)
    assert stored(events) == list(range(NUM_BLOCK_ROWS))
    assert counted.begun() == dict.fromkeys(range(NUM_BLOCK_ROWS), 1)
    # 361 tiles and as many reads as it takes to rebuild the problem.
    assert len(list((tmp_path / "errors").iterdir())) > 15
    assert objects(tmp_path / "h.zarr", snapshot) == expected


@pytest.mark.slow
def test_lost_connections_are_made_again(tmp_path: Path) -> None:
    """Of the client, all the time; of the workers once, which then end, and are replaced."""
    task = Counted(tmp_path / "begun", seconds=0.5)
    cuts: list[int] = []
    with Standing(tmp_path) as standing, ExitStack() as stack:
        here, there = (stack.enter_context(Proxy(address_of(standing.file))) for _ in range(2))

        def work() -> None:
            standing.work(there.address)
            standing.work(there.address)

        def cut() -> None:
            cuts.append(here.cut())
            if len(cuts) == 2:
                there.cut()
                work()

        work()
        profile = Address(kind="address", address=here.address, wait=60)
        workers = stack.enter_context(connect(profile, threading.Event()))
        stack.enter_context(at_random_moments(cut, 0.5, 2.0))
        assert compute(workers, task, attempts=100) == list(range(NUM_BLOCK_ROWS))
    assert sum(map(bool, cuts)) >= 3
    # A cut takes with it the futures that are open, of which two are computed.
    assert task.begun().total() <= NUM_BLOCK_ROWS + 4 * len(cuts)


def address_of(scheduler_file: Path) -> tuple[str, int]:
    _, _, where = json.loads(scheduler_file.read_text())["address"].partition("://")
    host, _, port = where.partition(":")
    return host, int(port)


@pytest.mark.slow
@pytest.mark.parametrize("num_kills", [50])
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_killed_workers_cost_what_they_were_computing(
    number: signal.Signals, num_kills: int, tmp_path: Path
) -> None:
    """Whole jobs, the nanny included: SIGKILL of a machine, or SIGTERM of the queue."""
    task = Counted(tmp_path / "begun", seconds=0.2)
    rng, killed, runs = random.Random(3), 0, 0
    with Standing(tmp_path) as standing:
        jobs = [standing.work(), standing.work()]

        def replace() -> None:
            nonlocal killed
            if killed < num_kills:
                jobs.append(standing.work())
                end_family(jobs.pop(rng.randrange(2)), number)
                killed += 1

        with connect(standing.profile, threading.Event()) as workers:
            while killed < num_kills:
                runs += 1
                with at_random_moments(replace, 0.2, 2.0):
                    assert compute(workers, task) == list(range(NUM_BLOCK_ROWS))
    # Each was computing one, and may have had one more whose result it had not passed on.
    assert runs * NUM_BLOCK_ROWS <= task.begun().total() <= runs * NUM_BLOCK_ROWS + 2 * killed


def end_family(job: subprocess.Popen[bytes], number: signal.Signals) -> None:
    """Signal a job's first process; with SIGKILL, as when a machine is lost, its worker too."""
    children = psutil.Process(job.pid).children(recursive=True)
    job.send_signal(number)
    for child in children if number == signal.SIGKILL else []:
        child.kill()
    job.wait()


DRIVER = """
import sys, threading
from pathlib import Path
from hessian_tasks.process import configure_tensorflow
configure_tensorflow(2)
from hessian_tasks.source import ProblemSource
from pipeline.cluster.connect import connect
from pipeline.cluster.schedule import Schedule, run_block_rows
from pipeline.inputs import freeze_source
from pipeline.plan import split_rows
from pipeline.profiles import Address
from pipeline.run import RunOptions, execute

def tell(event):
    print(type(event).__name__, flush=True)

if __name__ == "__main__":
    profile = Address(kind="address", scheduler_file=Path(sys.argv[2]), wait=60)
    inputs = freeze_source(ProblemSource("regression", {options}))
    with connect(profile, threading.Event()) as workers:
        options = RunOptions(tile=2, allowed_bytes=2**34)
        execute(sys.argv[1], inputs, options, [tell], workers=workers)
"""


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("num_kills", [20])
def test_killed_clients_leave_a_store_that_resumes(
    num_kills: int,
    tmp_path: Path,
    run: Run,
    inputs: FrozenInputs,
    expected: dict[str, bytes],
    snapshot: Snapshot,
) -> None:
    counted = Counted(tmp_path / "begun")
    path, rng, kills, runs = tmp_path / "h.zarr", random.Random(5), 0, 0
    with Standing(tmp_path) as standing:
        standing.work()
        standing.work()
        with connect(standing.profile, threading.Event()) as workers:
            workers.client.register_plugin(counted)
            while kills < num_kills:
                done = start_and_kill_client(path, standing.file, dict(inputs.source.options), rng)
                kills += not done
                assert damaged_objects(path, HessianStore(path).records().values()) == {}
                if done or kills == num_kills:
                    runs += 1
                    run(path, inputs, workers=workers)
                    assert objects(path, snapshot) == expected
                    shutil.rmtree(path)
    # Of each killed client's futures, at most two a worker, some were computed once more.
    assert counted.begun().total() <= runs * NUM_BLOCK_ROWS + 4 * kills


def start_and_kill_client(
    path: Path, scheduler: Path, options: dict[str, Any], rng: random.Random
) -> bool:
    """Start a client, and kill it a random while after a random event; whether it was faster."""
    driver = DRIVER.replace("{options}", repr(options))
    command = [sys.executable, "-c", driver, str(path), str(scheduler)]
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stdout is not None
        for _ in range(rng.randint(1, 6)):
            process.stdout.readline()
        try:
            process.wait(rng.uniform(0.0, 0.2))
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
        returncode = process.wait()
    assert returncode in (0, -signal.SIGKILL)
    return returncode == 0


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_killed_schedulers_leave_a_store_that_resumes(
    tmp_path: Path, run: Run, inputs: FrozenInputs, expected: dict[str, bytes], snapshot: Snapshot
) -> None:
    """Ten of them; workers end with their scheduler, so that each has its own."""
    path, rng, kills = tmp_path / "h.zarr", random.Random(9), 0
    num_stored: list[int] = []
    while kills < 10:
        with Standing(tmp_path) as standing:
            standing.work()
            standing.work()
            last = rng.randint(1, 6)

            def kill(event: Any, standing: Standing = standing, last: int = last) -> None:
                num_stored.append(isinstance(event, BlockRowStored))
                if sum(num_stored[-last:]) == last:
                    standing.scheduler.kill()

            with pytest.raises(ClusterError), connect(standing.profile, threading.Event()) as lost:
                run(path, inputs, [kill], tile=TILE, workers=lost)
        kills += 1
        records = HessianStore(path).records()
        assert damaged_objects(path, records.values()) == {}
        if len(records) > NUM_BLOCK_ROWS - 6:
            run(path, inputs)
            assert objects(path, snapshot) == expected
            shutil.rmtree(path)


# ---- disks --------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_disk_that_is_full_for_workers_is_one_clear_message(
    small_disk: Callable[[str], Path],
    tmp_path: Path,
    run: Run,
    inputs: FrozenInputs,
    expected: dict[str, bytes],
    snapshot: Snapshot,
) -> None:
    disk = small_disk("size=4m")
    path = disk / "h.zarr"
    counted = Counted(tmp_path / "begun")

    def fill(event: Any) -> None:
        if isinstance(event, RunStarted):
            free = shutil.disk_usage(disk).free
            (disk / "ballast").write_bytes(bytes(free - 60 * 4096))

    with two_processes(attempts=2) as workers:
        workers.client.register_plugin(counted)
        with pytest.raises(StoreError, match=r"Cannot write to .*h\.zarr: the disk is full"):
            run(path, inputs, [fill], tile=TILE, workers=workers)
        done = set(HessianStore(path).records())
        assert damaged_objects(path, HessianStore(path).records().values()) == {}
        assert counted.begun().total() <= len(done) + 3 * 2
        (disk / "ballast").unlink()
        events = run(path, inputs, workers=workers)
    assert stored(events) == sorted(set(range(NUM_BLOCK_ROWS)) - done)
    assert objects(path, snapshot) == expected
