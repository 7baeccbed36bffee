"""Jobs that a queue refuses, noted where they are submitted.

dask-jobqueue submits jobs in the background. Where the queue refuses one it logs tracebacks and
goes on waiting for its worker, so nobody is told why none comes.
"""

from __future__ import annotations

from typing import Any
from weakref import WeakKeyDictionary

from distributed.core import Status

__all__ = ["noting", "watch", "why_refused"]

# What was refused to clusters, and how many jobs they began with.
_watched: WeakKeyDictionary[Any, tuple[list[str], int]] = WeakKeyDictionary()


def noting(job_cls: Any, refused: list[str]) -> Any:
    """A class of jobs that notes why one is refused, and is then a job that does not begin.

    Args:
        job_cls: dask-jobqueue's class of the jobs of a queue.
        refused: Where the reasons are put, one for each job.
    """

    class Noting(job_cls):  # type: ignore[misc]
        async def start(self) -> None:
            try:
                await super().start()
            except (OSError, RuntimeError, ValueError) as error:
                program = self.submit_command.split()[0]
                refused.append(f"{program} refuses the job: {_reason(error)}")
                self.status = Status.running  # as Dask asserts; what never comes is not missed

        @classmethod
        async def _close_job(cls, job_id: str | None, cancel_command: str) -> None:
            if job_id is not None:
                await super()._close_job(job_id, cancel_command)

    return Noting


def watch(cluster: Any, refused: list[str], num_jobs: int) -> None:
    """Remember where the reasons of a cluster are, and how many jobs it began with."""
    _watched[cluster] = refused, num_jobs


def why_refused(cluster: Any) -> str | None:
    """Why a cluster's queue has refused all jobs, or None while one may still begin."""
    refused, num_jobs = _watched.get(cluster, ([], 0)) if cluster is not None else ([], 0)
    return refused[-1] if refused and len(refused) >= num_jobs else None


def _reason(error: Exception) -> str:
    r"""What the queue's program has said, of dask-jobqueue's account of its call.

    Example:
        >>> _reason(RuntimeError("Exit code: 1\nstdout:\n\nstderr:\nno such partition\n"))
        'no such partition'
    """
    said = str(error).rpartition("stderr:\n")[2].strip() or str(error)
    return " ".join(said.split())
