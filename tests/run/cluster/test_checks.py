"""What is found out of workers before the first block row."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import dask
import psutil
import pytest

from hessian_tasks.frozen import FrozenInputs
from hessian_tasks.source import ProblemSource
from hessian_tasks.spec import BlockRow
from pipeline.errors import (
    ClusterError,
    ConfigError,
    PlanError,
    ReproductionError,
    StoppedError,
)
from pipeline.run.cluster import _versions
from pipeline.run.cluster._job import Job
from pipeline.run.cluster._versions import check_versions, own_versions, worker_versions
from pipeline.run.cluster.ask import ask_workers
from pipeline.run.cluster.connect import connect
from pipeline.run.cluster.sending import send_source
from pipeline.run.cluster.workers import Workers
from pipeline.settings.profiles import Address, Queue, Tls
from pipeline.store.store import HessianStore
from pipeline.units import parse_bytes
from tests.helpers.runs import (
    WAIT,
    WORKER_MEMORY,
    Run,
    connected,
    objects,
    processes,
    wait_for,
)
from tests.run.cluster.clusters import (
    TILE,
    Standing,
    in_queue,
    queue_jobs,
    queue_programs,
)


def listening(processes: Iterable[psutil.Process]) -> list[str]:
    return [
        connection.laddr.ip
        for process in processes
        for connection in process.net_connections(kind="inet")
        if connection.status == psutil.CONN_LISTEN
    ]


def test_nothing_listens_on_a_public_interface(workers: Workers) -> None:
    found = listening([psutil.Process(), *psutil.Process().children(recursive=True)])
    assert len(found) >= 3
    assert set(found) == {"127.0.0.1"}


def test_nothing_in_a_queue_listens_on_a_public_interface(tmp_path: Path) -> None:
    with (
        queue_programs(tmp_path) as programs,
        connected(in_queue("pbs", tmp_path)),
    ):
        found = listening(queue_jobs(programs))
    assert len(found) >= 2
    assert set(found) == {"127.0.0.1"}


def test_the_dashboard_listens_where_it_is_told_to(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    profile = processes(workers=1, dashboard=f"127.0.0.1:{port}")
    with connected(profile) as workers:
        assert workers.dashboard is None  # without bokeh there are no pages for people
        monkeypatch.setattr("importlib.util.find_spec", lambda name: name)
        assert workers.dashboard == f"http://127.0.0.1:{port}/status"
        with urlopen(f"http://127.0.0.1:{port}/health") as answer:
            assert answer.read() == b"ok"


# A worker in whose Python one package is missing, or old.
STRANGER = """
import importlib.metadata as metadata, platform, sys
real = metadata.version
def version(package):
    if package != sys.argv[1]:
        return real(package)
    if sys.argv[2] == "missing":
        raise metadata.PackageNotFoundError(package)
    return sys.argv[2]
metadata.version = version
if sys.argv[1] == "Python":
    platform.python_version = lambda: sys.argv[2]
from distributed.cli.dask_worker import main
main(sys.argv[3:])
"""


@contextmanager
def stranger(file: str, package: str, version: str) -> Iterator[None]:
    options = ["--no-nanny", "--no-dashboard", "--scheduler-file", file, "--host", "127.0.0.1"]
    command = [sys.executable, "-c", STRANGER, package, version, *options]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as process:
        yield
        process.terminate()


@pytest.fixture(scope="module")
def scheduler(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """One without workers."""
    with Standing(tmp_path_factory.mktemp("scheduler")) as standing:
        yield str(standing.file)


def name_or_die(doomed: str, dask_worker: Any) -> str:
    if dask_worker.address == doomed:
        os.kill(os.getpid(), signal.SIGKILL)
    return str(dask_worker.address)


def test_a_worker_that_is_lost_before_it_answers_is_left_out() -> None:
    with connected(processes()) as workers:
        workers.client.wait_for_workers(2, timeout=WAIT)
        doomed, other = workers.client.scheduler_info(n_workers=-1)["workers"]
        assert ask_workers(workers.client, name_or_die, doomed) == {other: other}


@pytest.mark.parametrize(
    ("package", "version", "message"),
    [
        ("hessian-pipeline", "missing", r"no version of hessian-pipeline, but the client has 0\."),
        ("numpy", "1.0", r"Worker tcp://127.* has 1\.0 of numpy, but the client has \d"),
        ("Python", "3.8.1", r"has 3\.8 of Python, but the client has 3\.\d+\. Install"),
    ],
)
def test_workers_with_other_packages_are_refused(
    package: str, version: str, message: str, scheduler: str
) -> None:
    profile = Address(kind="address", scheduler_file=Path(scheduler), wait=WAIT)
    with (
        stranger(scheduler, package, version),
        connected(profile) as workers,
        pytest.raises(ClusterError, match=message),
    ):
        workers.check(ProblemSource("regression"))


def test_workers_are_not_asked_for_what_the_client_lacks(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(_versions, "PACKAGES", ("no-such-package", "numpy"))
    own = own_versions()
    with connected(processes(workers=1)) as workers:
        (found,) = worker_versions(workers.client, own).values()
    # The worker would have logged that it failed.
    assert "no-such-package" not in capfd.readouterr().err
    assert sorted(found) == ["Python", "numpy"]
    # Nor does it matter that a worker has it.
    check_versions("worker", {**found, "no-such-package": "1.0"}, own)


def test_workers_that_come_later_are_checked_too(scheduler: str, tmp_path: Path) -> None:
    # Before anything else, so that there need be no store.
    job = Job(
        "later", tmp_path, send_source(ProblemSource("regression")), 1, versions=own_versions()
    )
    profile = Address(kind="address", scheduler_file=Path(scheduler), wait=WAIT)
    with (
        stranger(scheduler, "zarr", "3.9.9"),
        connected(profile) as workers,
        pytest.raises(ClusterError, match=r"has 3\.9\.9 of zarr, but the client has 3"),
    ):
        workers.client.submit(job, BlockRow(0, 0, 5)).result()


def test_a_problem_that_differs_on_workers_is_refused_at_once(
    tmp_path: Path, workers: Workers, run: Run
) -> None:
    from pipeline.run.inputs import freeze_source

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

    small = processes(workers=1, memory="100MiB")
    with (
        connected(small) as workers,
        pytest.raises(PlanError, match="allowed 100 MiB"),
    ):
        run(tmp_path / "h.zarr", inputs, workers=workers)


@contextmanager
def one_that_restarts() -> Iterator[Workers]:
    """A worker that has just been killed, and is being started again, however long that takes."""
    with (
        # As if that were longer than Dask waits by itself before it ends the nanny, too.
        dask.config.set({"distributed.deploy.lost-worker-timeout": "0s"}),
        connected(processes(workers=1)) as workers,
    ):
        (worker,) = workers.client.run(os.getpid).values()
        os.kill(worker, signal.SIGKILL)
        wait_for(lambda: not workers.client.nthreads())
        yield workers


def test_a_restart_of_the_only_worker_is_waited_out() -> None:
    """Between connecting and planning, which is for what the worker has."""
    with one_that_restarts() as workers:
        assert workers.memory == parse_bytes(WORKER_MEMORY)
        assert workers.num_threads == 1


@pytest.mark.slow
def test_a_worker_that_was_restarted_computes_the_same_bytes(
    tmp_path: Path, run: Run, inputs: FrozenInputs, expected: dict[str, bytes]
) -> None:
    with one_that_restarts() as workers:
        run(tmp_path / "h.zarr", inputs, tile=TILE, workers=workers)
    assert objects(tmp_path / "h.zarr") == expected


def test_workers_that_do_not_come_back_are_not_waited_for_for_ever() -> None:
    stop = threading.Event()
    with connect(processes(workers=1), stop) as workers:
        workers.client.cluster.scale(0)
        wait_for(lambda: not workers.client.nthreads())
        threading.Timer(0.5, stop.set).start()
        with pytest.raises(StoppedError, match="stopped while it waited for workers"):
            _ = workers.num_threads
        gone = Workers(workers.client, processes(wait=0.5))
        with pytest.raises(ClusterError, match=r"no worker for 0\.5 s"):
            _ = gone.memory


def test_no_worker_and_no_scheduler_are_said(tmp_path: Path) -> None:
    nobody = Address(kind="address", address="tcp://127.0.0.1:1", wait=1)
    with (
        pytest.raises(ClusterError, match=r"tcp://127.0.0.1:1 cannot be reached"),
        connected(nobody),
    ):
        pass
    missing = Tls(ca=tmp_path / "ca.pem", cert=tmp_path / "c.pem", key=tmp_path / "k.pem")
    with (
        pytest.raises(ConfigError, match=r"tls.ca, .*ca.pem, does not exist"),
        connected(Address(kind="address", address="tls://h:1", tls=missing)),
    ):
        pass


def test_queue_without_its_programs_is_said(tmp_path: Path) -> None:
    profile = Queue.model_validate({"kind": "lsf", "memory": "1GiB"})
    with (
        pytest.raises(ConfigError, match="There is no bsub here"),
        connected(profile),
    ):
        pass


PROFILED = "distributed.worker.profile.enabled"


def test_workers_are_not_looked_at_while_they_compute(workers: Workers) -> None:
    assert set(workers.client.run(dask.config.get, PROFILED).values()) == {False}


@pytest.mark.parametrize("kind", ["pbs", "htcondor"])
def test_neither_are_those_in_a_queue_and_jobs_begin_as_told(kind: str, tmp_path: Path) -> None:
    profile = in_queue(kind, tmp_path)
    profile.options["job_script_prologue"] = ["export MARK=begun"]
    with queue_programs(tmp_path), connected(profile) as workers:
        assert set(workers.client.run(dask.config.get, PROFILED).values()) == {False}
        assert set(workers.client.run(os.getenv, "MARK").values()) == {"begun"}
