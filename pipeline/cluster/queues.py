"""The queueing systems that dask-jobqueue knows."""

from __future__ import annotations

import importlib
import shutil
from typing import Any

from pipeline.errors import ConfigError
from pipeline.profiles import Queue

__all__ = ["check_programs", "job_options", "queue_class", "require"]

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


def check_programs(kind: str) -> None:
    """Find out whether jobs can be submitted from this machine.

    Raises:
        ConfigError: If not.
    """
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


def require(package: str) -> Any:
    """Import a package that not all installations have.

    Raises:
        ConfigError: Saying how to install it.
    """
    try:
        return importlib.import_module(package)
    except ImportError as error:
        raise ConfigError(
            f"This profile needs {package.replace('_', '-')}. Install it with: "
            "pip install 'hessian-pipeline[clusters]'"
        ) from error
