"""What schedulers and workers have to be told, of block rows that take seconds to hours each."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pipeline.settings.profiles import ClusterProfile, Cuda, Processes

__all__ = ["WORKER_SETTINGS", "as_environment", "cluster_settings"]

# Of workers alone. Dask looks at what a worker's threads do a hundred times a second, and holds
# them up for it.
WORKER_SETTINGS = {"distributed.worker.profile.enabled": False}
# Of workers whose nannies are part of this process, and start them again however long it takes.
# After 15 s without the worker Dask would end the nanny, and start no other.
NANNY_SETTINGS = {"distributed.deploy.lost-worker-timeout": "365 days"}


def cluster_settings(profile: ClusterProfile) -> dict[str, Any]:
    """Dask's settings of a scheduler that is started for a run, and of its workers."""
    return {
        # Only block rows that are being computed are on a worker, so that only these are
        # suspected if it dies.
        "distributed.scheduler.worker-saturation": 1.0,
        "distributed.scheduler.allowed-failures": profile.attempts - 1,
        # Silent for so long, a worker is taken for lost: while it computes, it still answers.
        "distributed.scheduler.worker-ttl": "2 minutes",
        # A worker for every block row that is open: Dask divides the time that they will take by
        # this, and then asks for no more threads than there are block rows.
        "distributed.adaptive.target-duration": "1ms",
        **(NANNY_SETTINGS if isinstance(profile, Processes | Cuda) else {}),
        **WORKER_SETTINGS,
    }


def as_environment(settings: Mapping[str, Any]) -> dict[str, str]:
    """Settings as variables, for processes that do not inherit them.

    Example:
        >>> as_environment({"distributed.scheduler.worker-ttl": "2 minutes"})
        {'DASK_DISTRIBUTED__SCHEDULER__WORKER_TTL': '2 minutes'}
    """
    return {
        f"DASK_{key.upper().replace('.', '__').replace('-', '_')}": str(value)
        for key, value in settings.items()
    }
