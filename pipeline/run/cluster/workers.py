"""The workers of a run: what they have, whether they fit, and their computing."""

from __future__ import annotations

import importlib.util
import math
import threading
import uuid
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from distributed import Client

from hessian_tasks.source import ProblemSource
from hessian_tasks.spec import BlockRow
from pipeline.errors import ClusterError, StoreError
from pipeline.run.cluster._gpus import visible_uuids
from pipeline.run.cluster._job import Job, forget
from pipeline.run.cluster._schedule import Schedule, run_block_rows
from pipeline.run.cluster._versions import check_versions, own_versions, worker_versions
from pipeline.run.cluster.ask import ask_workers, wait_for_worker
from pipeline.run.cluster.sending import SentSource, carried, send_source
from pipeline.run.plan import Plan
from pipeline.settings.profiles import ClusterProfile, Listening, ScaledProfile
from pipeline.store.places import Location
from pipeline.store.records import BlockRecord
from pipeline.store.store import HessianStore

__all__ = ["Workers"]


@dataclass(frozen=True)
class Workers:
    """Dask workers, by the client that they are reached with.

    Attributes:
        client: The client.
        profile: What was asked for.
        stop: Set to wait for workers no longer.
        is_own: Whether they are there for us alone, and may be restarted.
    """

    client: Client
    profile: ClusterProfile
    stop: threading.Event = field(default_factory=threading.Event)
    is_own: bool = True

    @property
    def number(self) -> int:
        """How many there are, or will be when all have come."""
        return max(len(self._infos()), self.profile.most_workers)

    @property
    def num_threads(self) -> int:
        """Threads of the worker that has fewest."""
        return min(int(info["nthreads"]) for info in self._infos())

    @property
    def dashboard(self) -> str | None:
        """Link to the scheduler's dashboard, if it has one."""
        if isinstance(self.profile, Listening) and importlib.util.find_spec("bokeh") is None:
            return None  # the scheduler serves pages for machines alone
        link: str | None = self.client.dashboard_link
        return link

    @property
    def memory(self) -> int | None:
        """What the smallest worker may have in bytes, or None if there are no limits.

        That is its limit without the results of other tasks that it keeps.
        """
        limits = [
            info["memory_limit"] - info.get("metrics", {}).get("managed_bytes", 0)
            for info in self._infos()
            if info["memory_limit"]
        ]
        return max(1, min(limits)) if limits else None

    def check(self, source: ProblemSource) -> SentSource:
        """Find out before the first block row whether the workers can compute any.

        Returns:
            The source as it is sent.

        Raises:
            ConfigError: If the problem is an object of this process that cannot be sent.
            ClusterError: If a worker lacks a package, or has another version than this process, or
                two workers would share a GPU; names them.
        """
        sent = send_source(source)
        own = own_versions()
        for worker, found in worker_versions(self.client, own).items():
            check_versions(worker, found, own)
        self._check_gpus()
        return sent

    def _check_gpus(self) -> None:
        owners: dict[str, str] = {}
        for worker, gpus in ask_workers(self.client, visible_uuids).items():
            for gpu in gpus[: self.profile.gpus_of_worker]:
                other = owners.setdefault(gpu, worker)
                if other != worker:
                    raise ClusterError(
                        f"Workers {other} and {worker} would both compute on {gpu}. Give every "
                        "worker a GPU of its own: --profile cuda on one machine, "
                        'job_extra_directives: ["--gres=gpu:1"] or the like in a queue, or '
                        "another CUDA_VISIBLE_DEVICES for each."
                    )

    def check_sees(self, store: HessianStore) -> Location:
        """Where a store is for all workers.

        Raises:
            ClusterError: If a worker does not see it.
        """
        location = store.location.resolve()
        for worker, obstacle in ask_workers(self.client, _look, location).items():
            if obstacle is not None:
                raise ClusterError(
                    f"Worker {worker} does not see {location}. {obstacle}Give a --store on a file "
                    "system, or an URL, that all workers share."
                )
        return location

    def compute(
        self,
        job: tuple[HessianStore, ProblemSource, Plan],
        pending: Sequence[BlockRow],
        on_stored: Callable[[BlockRecord], None],
        stop: threading.Event,
    ) -> None:
        """Compute and store block rows; see :func:`~pipeline.run.cluster._schedule.run_block_rows`.

        Args:
            job: The store, where to build the problem from, and the plan for each worker.
            pending: The block rows.
            on_stored: Called with the record of each.
            stop: Set to end the run.

        Raises:
            ClusterError: If a worker does not see the store.
            HessianError: As run_block_rows does.
        """
        store, source, plan = job
        location = self.check_sees(store)
        token = uuid.uuid4().hex[:8]
        # The first block row has about twice the entries of the average one.
        expected = 2 * plan.projected_seconds * self.number * plan.num_threads / plan.num_block_rows
        schedule = Schedule(
            token,
            self.profile.attempts,
            self.profile.wait,
            on_stored,
            stop,
            expected_threads=self._scale(len(pending)),
            limit=self.profile.limit,
            expected=expected,
            may_restart=self.is_own,
        )
        threads, gpus = plan.num_threads, self.profile.gpus_of_worker
        with carried(self.client, send_source(source)) as sent:
            task = Job(token, location, sent, threads, gpus, own_versions())
            try:
                run_block_rows(self.client, task, pending, schedule)
            finally:
                self.clean_up(forget, token)

    def clean_up(self, forget: Callable[[str], None], token: str) -> None:
        """Have workers that stay give back what a job needed, as far as they answer."""
        if not self.is_own and self.client.status == "running":
            with suppress(OSError):
                ask_workers(self.client, forget, token)

    def _scale(self, num_block_rows: int) -> int:
        """Have workers come and go as needed; returns the threads that they may come to have.

        Lost ones are replaced, and no more are asked for than there are block rows.
        """
        if not isinstance(self.profile, ScaledProfile):
            return 0
        threads = self.profile.threads
        useful = math.ceil(num_block_rows / threads)
        minimum, maximum = (min(bound, useful) for bound in self.profile.bounds)
        if maximum:
            cluster: Any = self.client.cluster
            cluster.adapt(minimum=minimum, maximum=maximum)
        return maximum * threads

    def _infos(self) -> list[dict[str, Any]]:
        """What the scheduler knows of each worker; waits while there is none.

        Raises:
            ClusterError: If none comes.
            StoppedError: If :attr:`stop` was set.
        """
        while not (infos := self._known()):
            wait_for_worker(self.client, self.profile.wait, self.stop)
        return infos

    def _known(self) -> list[dict[str, Any]]:
        scheduler = self.client.scheduler
        assert scheduler is not None
        # Not what the client has noted, which may be older than the workers.
        return list(self.client.sync(scheduler.identity, n_workers=-1)["workers"].values())


def _look(location: Location) -> str | None:
    """What keeps this process from seeing a store, or None; Dask would log an error at length."""
    try:
        return None if location.exists() else ""
    except StoreError as error:
        return f"{error} "
