"""From a profile to a scheduler and workers that are started for a run."""

from __future__ import annotations

import contextlib
import logging
import signal
import sys
from collections.abc import Callable, Iterator
from multiprocessing import resource_tracker
from typing import Any

from distributed import LocalCluster, Security, SSHCluster
from distributed.system import MEMORY_LIMIT

from pipeline.errors import ConfigError
from pipeline.run.cluster._cuda import find_gpus, gpu_cluster
from pipeline.run.cluster._extras import require
from pipeline.run.cluster._queues import start_queue
from pipeline.run.cluster.kubernetes import start_kubernetes
from pipeline.settings.profiles import (
    Cuda,
    Kubernetes,
    Listening,
    Processes,
    Queue,
    Ssh,
    StartedProfile,
)

__all__ = ["start"]

# Started workers tell of themselves on loopback alone, on any free port, since they do so without
# encryption; by default where they listen for the scheduler.
WORKER_DASHBOARD = "127.0.0.1:0"


def start(profile: StartedProfile) -> Any:
    """Start workers, at least the first, by Dask's class of clusters for the profile.

    Raises:
        ConfigError: If the profile is not one that can be started here; says what to install.
        ClusterError: If nobody answers who could start workers.
    """
    if isinstance(profile, Kubernetes):
        return start_kubernetes(profile)
    starters: dict[type, Callable[[Any, dict[str, Any]], Any]] = {
        Processes: _start_processes,
        Cuda: _start_cuda,
        Ssh: _start_ssh,
        Queue: start_queue,
    }
    assert isinstance(profile, Listening), profile
    common = {"interface": profile.interface, **_encryption(profile)}
    try:
        with _away_from_the_terminal():
            return starters[type(profile)](profile, common)
    except ConfigError:
        raise
    except (OSError, TypeError, ValueError, RuntimeError) as error:
        raise ConfigError(f"The profile's workers cannot be started: {error}") from error


@contextlib.contextmanager
def _away_from_the_terminal() -> Iterator[None]:
    """Within this, threads are made whose processes a Ctrl-C does not reach.

    The terminal sends it to every process of the run. Workers would each end with a traceback,
    while this process, which ends them, is still deciding. A thread inherits which signals are
    held back from whoever makes it, and so does a process, also one that Dask starts later.
    """
    # Python starts it with the first process, and no longer holds back the signal after that.
    resource_tracker.ensure_running()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _encryption(profile: Listening) -> dict[str, Any]:
    if not profile.encrypt:
        return {"protocol": "tcp://", "security": None}
    require("cryptography")
    # By ssh from files, which settings name.
    made = Security() if isinstance(profile, Ssh) else Security.temporary()
    return {"protocol": "tls://", "security": made}


def _start_processes(profile: Processes, common: dict[str, Any]) -> LocalCluster:
    return LocalCluster(
        n_workers=profile.first_workers,
        threads_per_worker=profile.threads,
        memory_limit=profile.memory or MEMORY_LIMIT // profile.most_workers,
        dashboard_address=profile.dashboard,
        worker_dashboard_address=WORKER_DASHBOARD,
        **common,
    )


def _start_cuda(profile: Cuda, common: dict[str, Any]) -> LocalCluster:
    gpus = find_gpus()
    options = {
        "threads_per_worker": profile.threads,
        "memory_limit": profile.memory or MEMORY_LIMIT // len(gpus),
        "dashboard_address": profile.dashboard,
        "worker_dashboard_address": WORKER_DASHBOARD,
    }
    return gpu_cluster(gpus, {**options, **common})


def _start_ssh(profile: Ssh, common: dict[str, Any]) -> Any:
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
            "protocol": common["protocol"],
            "dashboard_address": WORKER_DASHBOARD,
        },
        scheduler_options={
            "interface": profile.interface,
            "protocol": common["protocol"],
            "dashboard_address": profile.dashboard,
        },
        remote_python=profile.python or sys.executable,
        security=common["security"],
    )
