"""Runs on Dask workers: real processes, schedulers, certificates and queues, and their faults."""

from __future__ import annotations

import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil
import pytest

from hessian_tasks.frozen import FrozenInputs
from hessian_tasks.source import ProblemSource
from hessian_tasks.spec import BlockRow
from pipeline.cluster.connect import connect
from pipeline.cluster.schedule import Schedule, run_block_rows
from pipeline.cluster.workers import Workers
from pipeline.errors import (
    BlockRowError,
    ClusterError,
    ConfigError,
    ReproductionError,
    StoppedError,
    StoreError,
)
from pipeline.events import BlockRowStored, RunStarted
from pipeline.profiles import Address, ClusterProfile, Processes, Queue, Ssh, Tls
from pipeline.store import HessianStore

Run = Callable[..., list[Any]]
Snapshot = Callable[[Path], dict[str, bytes]]
Cli = Callable[..., tuple[int, str, str]]

SERVERS = Path(__file__).parent / "servers"
SLURM, SSH = SERVERS / "slurm.sh", SERVERS / "ssh.sh"
DASK = Path(sys.executable).with_name("dask")
TILE = 5
NUM_BLOCK_ROWS = 8


def processes(**keys: Any) -> Processes:
    return Processes.model_validate({"kind": "processes", "workers": 2, "memory": "4GiB", **keys})


def objects(path: Path, snapshot: Snapshot) -> dict[str, bytes]:
    """What was computed: tiles, not records with their times."""
    return {key: data for key, data in snapshot(path).items() if key.startswith("hessian/c/")}


def computed(events: list[Any]) -> list[int]:
    return sorted(e.record.row.index for e in events if isinstance(e, BlockRowStored))


def wait_for(condition: Callable[[], bool], seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.2)


@pytest.fixture(scope="module")
def expected(
    tmp_path_factory: pytest.TempPathFactory, run: Run, inputs: FrozenInputs, snapshot: Snapshot
) -> dict[str, bytes]:
    """The objects of a run in this process, one block row after the other."""
    path = tmp_path_factory.mktemp("expected") / "h.zarr"
    run(path, inputs, tile=TILE, executor="serial")
    return objects(path, snapshot)


@pytest.fixture(scope="module")
def workers() -> Iterator[Workers]:
    """Two processes."""
    with connect(processes(), threading.Event()) as found:
        yield found


# ---- everywhere the same ------------------------------------------------------------------------


@contextmanager
def standing_scheduler(
    directory: Path, tls: Tls | None = None, num_workers: int = 2
) -> Iterator[str]:
    """A scheduler and workers, started by hand."""
    file = directory / "scheduler.json"
    protocol = "tcp" if tls is None else "tls"
    options = ["--scheduler-file", str(file), "--host", f"{protocol}://127.0.0.1"]
    if tls is not None:
        options += ["--tls-ca-file", str(tls.ca), "--tls-cert", str(tls.cert)]
        options += ["--tls-key", str(tls.key)]
    scheduler = [DASK, "scheduler", "--port", "0", "--no-dashboard", "--no-show"]
    worker = [DASK, "worker", "--nthreads", "1", "--nworkers", num_workers, "--no-dashboard"]
    worker += ["--memory-limit", "4GiB"]
    with ExitStack() as stack:
        for command in (scheduler, worker)[: 1 + bool(num_workers)]:
            process = subprocess.Popen(
                [*map(str, command), *options], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
            )
            stack.callback(process.wait)
            stack.callback(process.terminate)
            if command is scheduler:
                wait_for(file.exists)
        yield str(file)


def make_certificate(directory: Path) -> Tls:
    """A certificate that is its own authority."""
    cert, key = directory / "cert.pem", directory / "key.pem"
    command = "openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=test"
    subprocess.run(
        [*command.split(), "-out", cert, "-keyout", key], check=True, capture_output=True
    )
    return Tls(ca=cert, cert=cert, key=key)


@pytest.fixture(scope="module")
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """SLURM on this machine."""
    if os.getuid() != 0:
        pytest.skip("SLURM on loopback is started by root")
    # Not pytest's directory, which the user of the authentication daemon cannot enter.
    directory = Path(subprocess.check_output(["mktemp", "-d"], text=True).strip())
    subprocess.run([SLURM, "up", directory], check=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SLURM_CONF", str(directory / "slurm.conf"))
        yield
    subprocess.run([SLURM, "down", directory], check=True)


@contextmanager
def ssh_server(directory: Path) -> Iterator[Ssh]:
    """An ssh server on this machine, and a profile with two workers that it starts."""
    if os.getuid() != 0:
        pytest.skip("an ssh server of its own is started by root")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [SSH, directory, str(port)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as server:
        assert server.stderr is not None
        try:
            assert any("listening" in line for line in server.stderr)
            keys = {"client_keys": [str(directory / "client")], "known_hosts": None}
            options = {"port": port, "username": "root", **keys}
            hosts = ["127.0.0.1", "127.0.0.1"]
            profile = {"kind": "ssh", "hosts": hosts, "memory": "4GiB", "connect_options": options}
            yield Ssh.model_validate(profile)
        finally:
            server.terminate()


def on_slurm(log_directory: Path, **options: Any) -> Queue:
    options = {"walltime": "00:10:00", "log_directory": str(log_directory), **options}
    profile = {"kind": "slurm", "workers": 2, "memory": "4GiB", "options": options, "wait": 60}
    return Queue.model_validate(profile)


@contextmanager
def profile_of(kind: str, directory: Path) -> Iterator[ClusterProfile]:
    if kind == "processes":
        yield processes()
    elif kind == "processes with TLS":
        yield processes(encrypt=True)
    elif kind == "slurm":
        yield on_slurm(directory)
    elif kind == "ssh":
        with ssh_server(directory) as profile:
            yield profile
    else:
        tls = make_certificate(directory) if kind == "address with TLS" else None
        with standing_scheduler(directory, tls) as file:
            yield Address(kind="address", scheduler_file=Path(file), tls=tls, wait=60)


@pytest.mark.parametrize(
    "kind", ["processes", "processes with TLS", "address", "address with TLS", "ssh", "slurm"]
)
def test_every_cluster_gives_the_same_bytes(
    kind: str,
    tmp_path: Path,
    request: pytest.FixtureRequest,
    run: Run,
    inputs: FrozenInputs,
    expected: dict[str, bytes],
    snapshot: Snapshot,
) -> None:
    if kind == "slurm":
        request.getfixturevalue("slurm")
    path = tmp_path / "h.zarr"
    with (
        profile_of(kind, tmp_path) as profile,
        connect(profile, threading.Event()) as workers,
    ):
        events = run(path, inputs, tile=TILE, workers=workers)
    assert computed(events) == list(range(NUM_BLOCK_ROWS))
    assert objects(path, snapshot) == expected


def test_the_command_runs_on_processes_and_resumes(
    tmp_path: Path, hessian: Cli, snapshot: Snapshot, expected: dict[str, bytes]
) -> None:
    store = tmp_path / "h.zarr"
    options = [f"-o{o}" for o in ("width=12", "depth=1", "num_samples=20", "dtype=float64")]
    where = ["--profile", "processes", "--set", "profiles.processes.memory=4GiB"]
    arguments = ["run", "regression", *options, "--tile", TILE, "--store", store, *where]
    code, output, errors = hessian(*arguments)
    assert (code, errors) == (0, "")
    assert "computed 8 of 8 block rows" in output
    assert objects(store, snapshot) == expected
    (store / "hessian" / "c" / "0" / "3").unlink()
    code, output, _ = hessian("run", "--store", store, *where)
    assert code == 0
    assert "computed 1 of 8 block rows" in output
    assert objects(store, snapshot) == expected


# ---- what is found out before the first block row -----------------------------------------------


def test_nothing_listens_on_a_public_interface(workers: Workers) -> None:
    family = [psutil.Process(), *psutil.Process().children(recursive=True)]
    listening = [
        connection.laddr.ip
        for process in family
        for connection in process.net_connections(kind="inet")
        if connection.status == psutil.CONN_LISTEN
    ]
    assert len(listening) >= 3
    assert set(listening) == {"127.0.0.1"}


# A worker in whose Python one package is missing, or old.
STRANGER = """
import importlib.metadata as metadata, sys
real = metadata.version
def version(package):
    if package != sys.argv[1]:
        return real(package)
    if sys.argv[2] == "missing":
        raise metadata.PackageNotFoundError(package)
    return sys.argv[2]
metadata.version = version
from distributed.cli.dask_worker import main
main(sys.argv[3:])
"""


@pytest.mark.parametrize(
    ("package", "version", "message"),
    [
        ("hessian-pipeline", "missing", r"has no version of hessian-pipeline, but this .* has 0\."),
        ("numpy", "1.0", r"Worker tcp://127.* has 1\.0 of numpy, but this process has \d"),
    ],
)
def test_workers_with_other_packages_are_refused(
    package: str, version: str, message: str, tmp_path: Path
) -> None:
    with standing_scheduler(tmp_path, num_workers=0) as file:
        options = ["--no-nanny", "--no-dashboard", "--scheduler-file", file]
        command = [sys.executable, "-c", STRANGER, package, version, *options]
        profile = Address(kind="address", scheduler_file=Path(file), wait=30)
        with (
            subprocess.Popen([*command, "--host", "127.0.0.1"], stderr=subprocess.DEVNULL) as one,
            ExitStack() as stack,
        ):
            stack.callback(one.terminate)
            workers = stack.enter_context(connect(profile, threading.Event()))
            with pytest.raises(ClusterError, match=message):
                workers.check(ProblemSource("regression"))


def test_live_problems_are_refused(
    tmp_path: Path, workers: Workers, run: Run, tiny_problem: Any
) -> None:
    from hessian_tasks.rebuild import freeze

    problem = tiny_problem()
    frozen = freeze(problem, ProblemSource("live object", live=problem))
    with pytest.raises(ConfigError, match="Put the problem into a file"):
        run(tmp_path / "h.zarr", frozen, workers=workers)
    assert not (tmp_path / "h.zarr").exists()


def test_a_problem_that_differs_on_workers_is_refused_at_once(
    tmp_path: Path, workers: Workers, run: Run
) -> None:
    from pipeline.inputs import freeze_source

    problem = tmp_path / "problem.py"
    text = (
        "import os, keras\nfrom hessian_tasks import Problem, ResidualTerm\n"
        "net = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])\n"
        f"factor = 1.0 if os.getpid() == {os.getpid()} else 2.0\n"
        "fit = ResidualTerm('fit', [[1.0], [3.0]], lambda x, u: factor * u.value - 1)\n"
        "problem = Problem(net, [fit], coordinates='x')\n"
    )
    problem.write_text(text)
    frozen = freeze_source(ProblemSource(str(problem)))
    with pytest.raises(ReproductionError, match="loss term 'fit' is"):
        run(tmp_path / "h.zarr", frozen, tile=1, workers=workers)
    assert HessianStore(tmp_path / "h.zarr").records() == {}


def test_memory_of_workers_bounds_the_plan(tmp_path: Path, run: Run, inputs: FrozenInputs) -> None:
    from pipeline.errors import PlanError

    small = processes(workers=1, memory="100MiB")
    with (
        connect(small, threading.Event()) as workers,
        pytest.raises(PlanError, match="allowed 100 MiB"),
    ):
        run(tmp_path / "h.zarr", inputs, workers=workers)


def test_no_worker_and_no_scheduler_are_said(tmp_path: Path) -> None:
    nobody = Address(kind="address", address="tcp://127.0.0.1:1", wait=1)
    with (
        pytest.raises(ClusterError, match=r"tcp://127.0.0.1:1 cannot be reached"),
        connect(nobody, threading.Event()),
    ):
        pass
    missing = Tls(ca=tmp_path / "ca.pem", cert=tmp_path / "c.pem", key=tmp_path / "k.pem")
    with (
        pytest.raises(ConfigError, match=r"tls.ca, .*ca.pem, does not exist"),
        connect(Address(kind="address", address="tls://h:1", tls=missing), threading.Event()),
    ):
        pass


def test_queue_without_its_programs_is_said(tmp_path: Path) -> None:
    profile = Queue.model_validate({"kind": "lsf", "memory": "1GiB"})
    with (
        pytest.raises(ConfigError, match="There is no bsub here"),
        connect(profile, threading.Event()),
    ):
        pass


# ---- faults -------------------------------------------------------------------------------------


def rows(number: int) -> list[BlockRow]:
    return [BlockRow(i, i, i + 1) for i in range(number)]


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


def test_a_whole_run_is_submitted_cancelled_and_resumed(
    slurm: None,
    tmp_path: Path,
    hessian: Cli,
    monkeypatch: pytest.MonkeyPatch,
    expected: dict[str, bytes],
    snapshot: Snapshot,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "run.yaml").write_text(
        "problem: regression\noptions: {width: 12, depth: 1, num_samples: 20, dtype: float64}\n"
        f"store: h.zarr\ntile: {TILE}\nprofile: slurm\nprofiles:\n  slurm:\n    kind: slurm\n"
        "    memory: 4GiB\n    options: {walltime: '00:10:00', log_directory: logs}\n"
    )
    (tmp_path / "logs").mkdir()
    store = tmp_path / "h.zarr"
    code, output, errors = hessian("submit", "--config", "run.yaml")
    assert (code, errors) == (0, "")
    assert "submitted as slurm job " in output
    assert "submitted as slurm job " in hessian("status", "h.zarr")[1]
    code, output, _ = hessian("cancel", "h.zarr")
    assert code == 0
    assert "resume with: hessian submit" in output
    wait_for(lambda: not subprocess.check_output(["squeue", "--noheader"]))
    code, _, errors = hessian("cancel", "h.zarr")
    assert code == 1
    assert "No job was submitted for h.zarr" in errors
    assert hessian("submit", "--config", "run.yaml")[0] == 0
    wait_for(lambda: store.exists() and not HessianStore(store).pending(), 120)
    assert objects(store, snapshot) == expected
