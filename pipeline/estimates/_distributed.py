"""Sums of products over shards, on Dask workers.

For each product the vectors go to every worker, ``[P, K]`` in the model's dtype; a task is a share
of the shards and leaves its sum ``[P, K]`` on its worker; sums are added two by two where they are,
and one comes back. The frozen inputs go to the workers once, in the same way, so that
no file system has to be shared. What a lost worker had is computed again on another: its tasks
of that product, and nothing else.
"""

from __future__ import annotations

import threading
import uuid
from collections.abc import Sequence
from concurrent.futures import CancelledError
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from distributed import Client, Future, KilledWorker

from hessian_tasks.frozen import FrozenInputs
from hessian_tasks.shards import Shard
from hessian_tasks.spec import Matrix
from pipeline.errors import ClusterError, HessianError, StoppedError
from pipeline.estimates._products import Array, Product
from pipeline.run.cluster.ask import wait_for_worker
from pipeline.run.cluster.sending import SentSource
from pipeline.run.cluster.workers import Workers
from pipeline.store.shares import deal

__all__ = ["distributed_product"]

POLL_SECONDS = 0.2
SEND_SECONDS = 10.0
# Enough that workers which are faster take more of them.
TASKS_PER_THREAD = 2


@dataclass(frozen=True)
class _Job:
    """What a worker has to know to multiply.

    Attributes:
        token: Names the job.
        frozen: The inputs, without the problem.
        sent: Where to build the problem from.
        matrix: Which matrix.
        num_threads: Cores of the worker.
        num_gpus: GPUs that a worker uses of those that it sees; None for all.
    """

    token: str
    frozen: FrozenInputs
    sent: SentSource
    matrix: Matrix
    num_threads: int
    num_gpus: int | None


def distributed_product(
    workers: Workers,
    frozen: FrozenInputs,
    matrix: Matrix,
    shards: Sequence[Shard],
    stop: threading.Event | None = None,
) -> Product:
    """``V ↦ H V`` on workers.

    Args:
        workers: The workers.
        frozen: The inputs, which every worker must reproduce before its first product.
        matrix: Which matrix.
        shards: All shards.
        stop: Set to end a product.

    Returns:
        The function, which raises ClusterError if the workers are lost, StoppedError if it was
        stopped, and HessianError if a worker cannot rebuild the problem.

    Raises:
        ConfigError: If the problem is an object of this process that cannot be sent.
        ClusterError: If workers have other versions of packages.
    """
    sent = workers.check(frozen.source)
    job = _Job(
        uuid.uuid4().hex[:8],
        replace(frozen, source=sent.source),
        sent,
        matrix,
        workers.num_threads,
        workers.profile.gpus_of_worker,
    )
    return _Distributed(workers, job, shards, stop or threading.Event())


class _Distributed:
    def __init__(
        self, workers: Workers, job: _Job, shards: Sequence[Shard], stop: threading.Event
    ) -> None:
        self.client: Client = workers.client
        self.profile = workers.profile
        self.job = job
        self.stop = stop
        number = TASKS_PER_THREAD * workers.number * workers.num_threads
        self.shares = deal(shards, number)
        self.inputs: Future[_Job] | None = None

    def __call__(self, vectors: Array) -> Array:
        for _ in range(self.profile.attempts):
            try:
                return self.attempt(vectors.astype(self.job.frozen.dtype))
            except _LostDataError:
                # The only workers that had the inputs or the vectors died: they are sent again.
                self.inputs = None
        raise ClusterError(
            f"Workers were lost during {self.profile.attempts} attempts at one product: is memory "
            "short? A worker needs the vectors three times, and a batch of points."
        )

    def attempt(self, vectors: Array) -> Array:
        self.wait_for_workers()
        if self.inputs is None or self.inputs.status != "finished":
            self.inputs = self.send(self.job)
        sent = self.send(vectors)
        key = uuid.uuid4().hex[:8]
        parts = [
            self.client.submit(_work, self.inputs, share, sent, key=f"product-{key}-{i}")
            for i, share in enumerate(self.shares)
        ]
        open_tasks = list(parts)
        while len(parts) > 1:
            pairs = [parts[i : i + 2] for i in range(0, len(parts), 2)]
            parts = [
                pair[0] if len(pair) == 1 else self.client.submit(np.add, *pair, pure=False)
                for pair in pairs
            ]
            open_tasks += parts
        try:
            return self.result(parts[0])
        finally:
            if self.client.status == "running":
                self.client.cancel([*open_tasks, sent], force=True)

    def send(self, data: Any) -> Future[Any]:
        """Put something on every worker."""
        seconds = min(self.profile.wait, SEND_SECONDS)
        try:
            sent: Future[Any] = self.client.scatter(
                data, broadcast=True, hash=False, timeout=seconds
            )
        except OSError as error:  # Also if time is up: no worker is left, or one is on its way out.
            raise _LostDataError from error
        return sent

    def result(self, future: Future[Array]) -> Array:
        done = threading.Event()
        future.add_done_callback(lambda _: done.set())
        # If it is lost with its worker, Dask has it computed again.
        while future.status in ("pending", "lost"):
            if self.stop.is_set():
                raise StoppedError("The product was stopped.")
            self.wait_for_workers()
            done.wait(POLL_SECONDS)
            done.clear()
        try:
            return np.asarray(future.result())
        except HessianError:
            raise
        except (CancelledError, KilledWorker, OSError) as error:
            raise _LostDataError from error

    def wait_for_workers(self) -> None:
        """Wait out the absence of workers, but not for ever."""
        wait_for_worker(self.client, self.profile.wait, self.stop)


class _LostDataError(Exception):
    """What was sent to the workers is on none of them any more."""


# The job of this worker process, if it has one, by its token.
_ready: dict[str, Any] = {}
_lock = threading.Lock()


def _work(job: _Job, shards: Sequence[Shard], vectors: Array) -> Array:
    """A task: the sum of the products of some shards."""
    from hessian_tasks.process import configure_tensorflow

    with _lock:
        if job.token not in _ready:
            # TensorFlow is imported on a thread for tasks: the worker's event loop has to answer.
            configure_tensorflow(job.num_threads, job.num_gpus)
            from hessian_tasks.autodiff.products import ShardProducts
            from hessian_tasks.rebuild import rebuild

            frozen = replace(job.frozen, source=job.sent.receive())
            _ready.clear()
            _ready[job.token] = ShardProducts(rebuild(frozen), job.matrix)
        products = _ready[job.token]
    from pipeline.estimates._products import add_up

    return add_up(products, shards, vectors)
