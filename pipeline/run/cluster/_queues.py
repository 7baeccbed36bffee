"""The queueing systems that dask-jobqueue knows."""

from __future__ import annotations

import shutil
from typing import Any

import dask

from pipeline.errors import ConfigError
from pipeline.run.cluster._certificates import certificate_directory
from pipeline.run.cluster._extras import require
from pipeline.run.cluster._refused import noting, watch
from pipeline.run.cluster._settings import WORKER_SETTINGS, as_environment
from pipeline.settings.profiles import Queue

__all__ = ["job_options", "queue_class", "start_queue"]

# On loopback alone, on any free port; workers listen with theirs on all interfaces by default.
WORKER_DASHBOARD = ["--dashboard-address", "127.0.0.1:0"]

CLASSES = {
    "slurm": "SLURMCluster",
    "pbs": "PBSCluster",
    "lsf": "LSFCluster",
    "sge": "SGECluster",
    "htcondor": "HTCondorCluster",
}


def queue_class(kind: str) -> Any:
    """dask-jobqueue's class of clusters of a queueing system.

    Raises:
        ConfigError: If dask-jobqueue is not installed.
    """
    return getattr(require("dask_jobqueue"), CLASSES[kind])


def start_queue(profile: Queue, common: dict[str, Any]) -> Any:
    """Start a scheduler in this process, and submit a job for each worker.

    Args:
        profile: Which queue, and the resources.
        common: How scheduler and workers are connected.

    Raises:
        ConfigError: If jobs cannot be submitted from this machine.
    """
    _check_programs(profile.kind)
    options = job_options(profile)
    options["worker_extra_args"] = [*WORKER_DASHBOARD, *options.get("worker_extra_args", [])]
    options["job_script_prologue"] = [*_exports(), *_prologue(profile)]
    given = {
        **common,
        "scheduler_options": {"dashboard_address": profile.dashboard},
        "n_workers": profile.first_workers,
    }
    if profile.encrypt:
        given["shared_temp_directory"] = str(certificate_directory())
    made, refused = queue_class(profile.kind), list[str]()
    cluster = made(job_cls=noting(made.job_cls, refused), **given | options)
    watch(cluster, refused, profile.first_workers)
    return cluster


def _exports() -> list[str]:
    # Jobs have the environment of the queue, not the settings of this process.
    return [f"export {name}={value}" for name, value in as_environment(WORKER_SETTINGS).items()]


def _prologue(profile: Queue) -> list[str]:
    """The lines that jobs begin with otherwise: the profile's, or those of dask-jobqueue's file."""
    configured = dask.config.get(f"jobqueue.{profile.kind}.job-script-prologue", None)
    given: list[str] = profile.options.get("job_script_prologue", configured)
    return given or []


def _check_programs(kind: str) -> None:
    program = queue_class(kind).job_cls.submit_command.split()[0]
    if shutil.which(program) is None:
        raise ConfigError(
            f"There is no {program} here. Start the run on a machine from which jobs of {kind} are "
            "submitted."
        )


def job_options(profile: Queue) -> dict[str, Any]:
    """What every job is given: the resources of one worker, and the profile's options."""
    given = {
        "cores": profile.threads,
        "processes": 1,
        "memory": f"{int(profile.memory)}B" if profile.memory else None,
    }
    return given | profile.options
