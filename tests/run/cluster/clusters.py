"""Clusters on this machine, for tests: schedulers by hand, ssh, SLURM, and stand-ins of queues."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil
import pytest

from hessian_tasks.spec import BlockRow
from pipeline.settings.profiles import Address, ClusterProfile, Cuda, Queue, Ssh, Tls
from tests.helpers.runs import ROOT, WAIT, WORKER_MEMORY, processes, wait_for

SERVERS = Path(__file__).parent / "servers"
DASK = Path(sys.executable).with_name("dask")
# Of the session's small problem.
TILE = 2
NUM_BLOCK_ROWS = 19
# The scheduler's, for as many deaths as there are.
PATIENT = {"DASK_DISTRIBUTED__SCHEDULER__ALLOWED_FAILURES": "1000"}


def rows(number: int) -> list[BlockRow]:
    return [BlockRow(i, i, i + 1) for i in range(number)]


class Standing:
    """A scheduler and workers that are started by hand, each a process of its own.

    Attributes:
        file: Says where the scheduler is.
        scheduler: Its process.
    """

    def __init__(
        self,
        directory: Path,
        num_workers: int = 0,
        tls: Tls | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.file = directory / "scheduler.json"
        self.num_workers, self.tls, self.environment = num_workers, tls, environment or {}
        self.processes = ExitStack()

    def __enter__(self) -> Standing:
        where = ["--port", "0", "--no-show", "--scheduler-file", self.file]
        self.scheduler = self.start("scheduler", where, self.environment)
        wait_for(lambda: self.file.exists() and self.file.read_text().endswith("}"))
        for _ in range(self.num_workers):
            self.work()
        return self

    def __exit__(self, *_: object) -> None:
        self.processes.close()
        self.file.unlink(missing_ok=True)

    def start(
        self, kind: str, options: Sequence[object], environment: Mapping[str, str]
    ) -> subprocess.Popen[bytes]:
        protocol = "tcp" if self.tls is None else "tls"
        command = [DASK, kind, "--no-dashboard", "--host", f"{protocol}://127.0.0.1", *options]
        if self.tls is not None:
            command += ["--tls-ca-file", self.tls.ca, "--tls-cert", self.tls.cert]
            command += ["--tls-key", self.tls.key]
        process = subprocess.Popen(
            [*map(str, command)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            # The scheduler reads tasks, too, and so imports what tests give it.
            env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        )
        self.processes.callback(process.wait)
        self.processes.callback(process.terminate)
        return process

    def work(
        self, address: str | None = None, environment: Mapping[str, str] | None = None
    ) -> subprocess.Popen[bytes]:
        """Start a worker, with its nanny."""
        where = [address] if address else ["--scheduler-file", self.file]
        options = [*where, "--nthreads", "1", "--memory-limit", WORKER_MEMORY]
        return self.start("worker", options, environment or {})

    @property
    def profile(self) -> Address:
        return Address(kind="address", scheduler_file=self.file, tls=self.tls, wait=WAIT)

    @property
    def address(self) -> tuple[str, int]:
        """The scheduler's host and port."""
        _, _, where = json.loads(self.file.read_text())["address"].partition("://")
        host, _, port = where.partition(":")
        return host, int(port)


def make_certificate(directory: Path) -> Tls:
    """A certificate that is its own authority."""
    cert, key = directory / "cert.pem", directory / "key.pem"
    command = "openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=test"
    subprocess.run(
        [*command.split(), "-out", cert, "-keyout", key], check=True, capture_output=True
    )
    return Tls(ca=cert, cert=cert, key=key)


@contextmanager
def slurm_server() -> Iterator[None]:
    """SLURM on this machine."""
    if os.getuid() != 0:
        pytest.skip("SLURM on loopback is started by root")
    # Not pytest's directory, which the user of the authentication daemon cannot enter.
    directory = Path(subprocess.check_output(["mktemp", "-d"], text=True).strip())
    subprocess.run([SERVERS / "slurm.sh", "up", directory], check=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SLURM_CONF", str(directory / "slurm.conf"))
        yield
    subprocess.run([SERVERS / "slurm.sh", "down", directory], check=True)


@contextmanager
def ssh_server(directory: Path) -> Iterator[Ssh]:
    """An ssh server on this machine, and a profile with two workers that it starts."""
    if os.getuid() != 0:
        pytest.skip("an ssh server of its own is started by root")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [SERVERS / "ssh.sh", directory, str(port)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as server:
        assert server.stderr is not None
        try:
            assert any("listening" in line for line in server.stderr)
            keys = {"client_keys": [str(directory / "client")], "known_hosts": None}
            options = {"port": port, "username": "root", **keys}
            hosts = ["127.0.0.1", "127.0.0.1"]
            profile = {
                "kind": "ssh",
                "hosts": hosts,
                "memory": WORKER_MEMORY,
                "connect_options": options,
            }
            yield Ssh.model_validate(profile)
        finally:
            server.terminate()


def on_slurm(log_directory: Path, workers: int = 2) -> Queue:
    options = {"walltime": "00:10:00", "log_directory": str(log_directory)}
    profile = {
        "kind": "slurm",
        "workers": workers,
        "memory": WORKER_MEMORY,
        "options": options,
        "wait": WAIT,
    }
    return Queue.model_validate(profile)


@contextmanager
def queue_programs(directory: Path) -> Iterator[Path]:
    """The commands of PBS, LSF, SGE and HTCondor, of which this machine is the queue."""
    programs = directory / "queue"
    subprocess.run([SERVERS / "queue.sh", programs], check=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
        # Jobs start elsewhere, and have to find what tests give them.
        patch.setenv("PYTHONPATH", str(ROOT))
        yield programs
    wait_for(lambda: not queue_jobs(programs))


def queue_jobs(programs: Path) -> list[psutil.Process]:
    """Processes of the jobs that are not at their end."""
    numbers = [int(line) for line in (programs / "jobs").read_text().split()]
    found = []
    for process in psutil.process_iter():
        with suppress(ProcessLookupError):  # it has ended since
            if os.getsid(process.pid) in numbers:
                found.append(process)
    return found


def in_queue(kind: str, directory: Path, **keys: Any) -> Queue:
    options = {"local_directory": str(directory), "log_directory": str(directory / "logs")}
    if keys.get("encrypt"):
        options["shared_temp_directory"] = str(directory)
    if kind == "htcondor":
        options["disk"] = "1GB"
    profile = {"kind": kind, "memory": WORKER_MEMORY, "wait": WAIT, "options": options, **keys}
    return Queue.model_validate(profile)


@contextmanager
def profile_of(kind: str, directory: Path) -> Iterator[ClusterProfile]:
    """A profile of that kind, and what it needs on this machine."""
    with ExitStack() as stack:
        if kind == "processes":
            yield processes()
        elif kind == "cuda":
            patch = stack.enter_context(pytest.MonkeyPatch.context())
            patch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
            yield Cuda.model_validate({"kind": "cuda", "memory": WORKER_MEMORY})
        elif kind == "slurm":
            yield on_slurm(directory)
        elif kind == "ssh":
            yield stack.enter_context(ssh_server(directory))
        elif kind.startswith("address"):
            tls = make_certificate(directory) if kind == "address with TLS" else None
            yield stack.enter_context(Standing(directory, 1, tls)).profile
        else:
            stack.enter_context(queue_programs(directory))
            name, _, tls_too = kind.partition(" ")
            yield in_queue(name, directory, encrypt=bool(tls_too))
