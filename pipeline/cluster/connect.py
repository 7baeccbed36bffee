"""From a profile to Dask workers: started here, or found at an address."""

from __future__ import annotations

import logging
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import dask
from distributed import Client, LocalCluster, Security, SSHCluster
from distributed.comm.core import CommClosedError

from pipeline.cluster.queues import check_programs, job_options, queue_class, require
from pipeline.cluster.workers import Workers
from pipeline.errors import ClusterError, ConfigError, StoppedError
from pipeline.profiles import Address, ClusterProfile, Processes, Queue, Ssh, StartedProfile

__all__ = ["connect"]

POLL_SECONDS = 0.1
CONNECT_SECONDS = 30.0
# Started schedulers tell of themselves on loopback alone, on any free port.
DASHBOARD = "127.0.0.1:0"


@contextmanager
def connect(profile: ClusterProfile, stop: threading.Event) -> Iterator[Workers]:
    """Start workers, or find them, and wait for the first; those that were started end again.

    Args:
        profile: Which workers.
        stop: Set to wait no longer.

    Raises:
        ConfigError: If the profile is not one that can be started here; says what to install.
        ClusterError: If nobody answers, no worker comes, or the scheduler is lost.
        StoppedError: If ``stop`` was set.
    """
    try:
        with dask.config.set(_settings(profile)), _client(profile) as client:
            _wait(client, profile, stop)
            yield Workers(client, profile)
    except CommClosedError as error:
        raise ClusterError(f"The connection to the scheduler was lost: {error}") from error


def _settings(profile: ClusterProfile) -> dict[str, Any]:
    return {
        # Only block rows that are being computed are on a worker, so that only these are
        # suspected if it dies.
        "distributed.scheduler.worker-saturation": 1.0,
        "distributed.scheduler.allowed-failures": profile.attempts - 1,
        "distributed.scheduler.work-stealing": False,
        # Silent for so long, a worker is taken for lost: while it computes, it still answers.
        "distributed.scheduler.worker-ttl": "2 minutes",
    }


@contextmanager
def _client(profile: ClusterProfile) -> Iterator[Client]:
    if isinstance(profile, Address):
        with _find(profile) as client:
            yield client
    else:
        assert isinstance(profile, StartedProfile), profile
        with _start(profile) as cluster, Client(cluster, set_as_default=False) as client:
            yield client


def _find(profile: Address) -> Client:
    security = _client_security(profile)
    try:
        return Client(
            profile.address,
            scheduler_file=profile.scheduler_file and str(profile.scheduler_file),
            security=security,
            timeout=min(profile.wait, CONNECT_SECONDS),
            set_as_default=False,
        )
    except (OSError, ValueError, TypeError) as error:
        where = profile.address or profile.scheduler_file
        raise ClusterError(f"The scheduler at {where} cannot be reached: {error}") from error


def _start(profile: StartedProfile) -> Any:
    starters: dict[type, Callable[[Any, Security | None], Any]] = {
        Processes: _start_processes,
        Ssh: _start_ssh,
        Queue: _start_queue,
    }
    if isinstance(profile, Queue):
        check_programs(profile.kind)
    security = _temporary_security() if profile.encrypt else None
    try:
        return starters[type(profile)](profile, security)
    except (OSError, TypeError, ValueError, RuntimeError) as error:
        raise ConfigError(f"The profile's workers cannot be started: {error}") from error


def _wait(client: Client, profile: ClusterProfile, stop: threading.Event) -> None:
    """Wait for the first worker."""
    deadline = time.monotonic() + profile.wait
    while not client.nthreads():
        if stop.wait(POLL_SECONDS):
            raise StoppedError("The run was stopped while it waited for workers.")
        if time.monotonic() > deadline:
            raise ClusterError(
                f"No worker came within {profile.wait:g} s. Look into the queue and the workers' "
                "logs; do the workers reach the network interface that the scheduler listens on?"
            )


def _start_processes(profile: Processes, security: Security | None) -> LocalCluster:
    return LocalCluster(
        n_workers=profile.workers,
        threads_per_worker=profile.threads,
        memory_limit=profile.memory or "auto",
        interface=profile.interface,
        protocol=_protocol(security),
        dashboard_address=DASHBOARD,
        security=security,
    )


def _start_ssh(profile: Ssh, security: Security | None) -> Any:
    require("asyncssh")
    # It repeats there what every process far away reports.
    logging.getLogger("distributed.deploy.ssh").setLevel(logging.WARNING)
    return SSHCluster(
        [profile.hosts[0], *profile.hosts],
        connect_options=profile.connect_options,
        worker_options={
            "n_workers": profile.workers,
            "nthreads": profile.threads,
            "memory_limit": profile.memory or "auto",
            "interface": profile.interface,
        },
        scheduler_options={"interface": profile.interface, "dashboard_address": DASHBOARD},
        remote_python=profile.python or sys.executable,
        security=security,
    )


def _start_queue(profile: Queue, security: Security | None) -> Any:
    given = {
        "interface": profile.interface,
        "protocol": _protocol(security),
        "security": security,
        "scheduler_options": {"dashboard_address": DASHBOARD},
        "n_workers": profile.workers,
    }
    return queue_class(profile.kind)(**given | job_options(profile))


def _protocol(security: Security | None) -> str:
    return "tcp://" if security is None else "tls://"


def _temporary_security() -> Security:
    require("cryptography")
    security: Security = Security.temporary()
    return security


def _client_security(profile: Address) -> Security | None:
    if profile.tls is None:
        return None
    files = {"ca": profile.tls.ca, "cert": profile.tls.cert, "key": profile.tls.key}
    for name, path in files.items():
        if not path.is_file():
            raise ConfigError(f"The file of tls.{name}, {path}, does not exist.")
    return Security(
        tls_ca_file=str(profile.tls.ca),
        tls_client_cert=str(profile.tls.cert),
        tls_client_key=str(profile.tls.key),
        require_encryption=True,
    )
