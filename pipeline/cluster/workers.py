"""The workers of a run: what they have, whether they fit, and their computing."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version

from distributed import Client

from hessian_tasks.source import ProblemSource
from hessian_tasks.spec import BlockRow
from pipeline.cluster.job import Job
from pipeline.cluster.schedule import Schedule, run_block_rows
from pipeline.errors import ClusterError, ConfigError, StoreError
from pipeline.profiles import ClusterProfile
from pipeline.records import BlockRecord
from pipeline.storage import Location
from pipeline.store import HessianStore

__all__ = ["Workers"]

PACKAGES = ("dask", "distributed", "hessian-pipeline", "keras", "numpy", "tensorflow", "zarr")


@dataclass(frozen=True)
class Workers:
    """Dask workers, by the client that they are reached with.

    Attributes:
        client: The client.
        profile: What was asked for.
    """

    client: Client
    profile: ClusterProfile

    @property
    def number(self) -> int:
        """How many there are, or will be when all have come."""
        return max(len(self._infos()), getattr(self.profile, "workers", 1))

    @property
    def num_threads(self) -> int:
        """Threads of the worker that has fewest."""
        return min(info["nthreads"] for info in self._infos())

    @property
    def memory(self) -> int | None:
        """Memory limit of the smallest worker in bytes, or None if there are no limits."""
        limits = [info["memory_limit"] for info in self._infos() if info["memory_limit"]]
        return min(limits) if limits else None

    def check(self, source: ProblemSource) -> None:
        """Find out before the first block row whether the workers can compute any.

        Raises:
            ConfigError: If the problem is an object of this process.
            ClusterError: If a worker lacks a package, or has another version than this process;
                names the worker, the package and both versions.
        """
        if source.live is not None:
            raise ConfigError(
                "Workers cannot be given a problem object of this process. Put the problem into a "
                "file, and give path/to/problem.py:name."
            )
        for package in PACKAGES:
            own = _version(package)
            # Asked by a function of Python's own, which a worker has that lacks everything else.
            answers = self.client.run(version, package, on_error="return")
            for worker, answer in answers.items():
                found = answer if isinstance(answer, str) else "no version"
                if found != own:
                    raise ClusterError(
                        f"Worker {worker} has {found} of {package}, but this process has {own}. "
                        "Install the same versions in the Pythons of both, and start again."
                    )

    def compute(
        self,
        job: tuple[HessianStore, ProblemSource, int],
        pending: Sequence[BlockRow],
        on_stored: Callable[[BlockRecord], None],
        stop: threading.Event,
    ) -> None:
        """Compute and store block rows; see :func:`~pipeline.cluster.schedule.run_block_rows`.

        Args:
            job: The store, where to build the problem from, and how many block rows fit into a
                worker's memory at once.
            pending: The block rows.
            on_stored: Called with the record of each.
            stop: Set to end the run.

        Raises:
            ClusterError: If a worker does not see the store.
            HessianError: As run_block_rows does.
        """
        store, source, num_threads = job
        location = store.location.resolve()
        for worker, obstacle in self.client.run(_look, location).items():
            if obstacle is not None:
                raise ClusterError(
                    f"Worker {worker} does not see {location}. {obstacle}Give a --store on a file "
                    "system, or an URL, that all workers share."
                )
        token = uuid.uuid4().hex[:8]
        schedule = Schedule(token, self.profile.attempts, self.profile.wait, on_stored, stop)
        run_block_rows(self.client, Job(token, location, source, num_threads), pending, schedule)

    def _infos(self) -> list[dict[str, int]]:
        return list(self.client.scheduler_info(n_workers=-1)["workers"].values())


def _look(location: Location) -> str | None:
    """What keeps this process from seeing a store, or None; Dask would log an error at length."""
    try:
        return None if location.exists() else ""
    except StoreError as error:
        return f"{error} "


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "no version"
