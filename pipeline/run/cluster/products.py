"""Products that verify a store, from its problem alone, on workers.

A task is one vector and one matrix: it multiplies as :mod:`~pipeline.run.products` does in this
process, along another path than the engine's.
"""

from __future__ import annotations

import threading
import uuid
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import CancelledError
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
from distributed import Client, KilledWorker, get_worker

from hessian_tasks.process import configure_tensorflow
from hessian_tasks.source import ProblemSource
from pipeline.errors import ClusterError, HessianError
from pipeline.run.cluster._versions import check_versions, own_versions
from pipeline.run.cluster.sending import SentSource, carried
from pipeline.run.cluster.workers import Workers
from pipeline.run.verify import JacobianProduct, Product
from pipeline.store.places import Location
from pipeline.store.store import HessianStore

__all__ = ["products_on"]

Array: TypeAlias = npt.NDArray[Any]


@dataclass(frozen=True)
class _Job:
    """What a worker has to know to multiply.

    Attributes:
        token: Names the job.
        store: Where the store is, the same for all workers.
        sent: Where to build the problem from.
        num_threads: Cores of a worker.
        versions: Those of the client's packages.
    """

    token: str
    store: Location
    sent: SentSource
    num_threads: int
    versions: Mapping[str, str]

    def multiply(self, name: str, vector: Array) -> Array:
        """``H v`` of one array, on a worker."""
        product: Array = self.ready().matrices[name](vector[None])
        return np.asarray(product[0])

    def map(self, vector: Array) -> dict[str, Array]:
        """``J v`` by term, on a worker."""
        images = self.ready().jacobians
        assert images is not None
        return {term: image[0] for term, image in images(vector[None]).items()}

    def ready(self) -> _Ready:
        with _lock:
            if not _ready or _ready[0].token != self.token:
                _ready[:] = [_prepare(self)]
            return _ready[0]


@dataclass(frozen=True)
class _Ready:
    """A job whose products are compiled."""

    token: str
    matrices: dict[str, Product]
    jacobians: JacobianProduct | None


# The job of this process, if it has one.
_ready: list[_Ready] = []
_lock = threading.Lock()


def _prepare(job: _Job) -> _Ready:
    check_versions(get_worker().address, own_versions(), job.versions)
    configure_tensorflow(job.num_threads)
    from hessian_tasks.rebuild import rebuild
    from pipeline.run.inputs import stored_inputs
    from pipeline.run.products import jacobian_products, matrix_products

    store = HessianStore(job.store, warn=False)  # the client does
    problem = rebuild(stored_inputs(store, job.sent.receive()))
    return _Ready(job.token, matrix_products(store, problem), jacobian_products(store, problem))


def _forget(token: str) -> None:
    with _lock:
        if _ready and _ready[0].token == token:
            _ready.clear()


@contextmanager
def products_on(
    workers: Workers, store: HessianStore, source: ProblemSource
) -> Iterator[tuple[dict[str, Product], JacobianProduct | None]]:
    """Products with each of a store's matrices, by array, and with its Jacobians, if it has any.

    Workers keep what is compiled for them until this is left.

    Raises:
        ConfigError: If the problem is an object of this process that cannot be sent.
        ClusterError: If workers have other versions of packages, or do not see the store.
    """
    client, sent = workers.client, workers.check(source)
    location, token = workers.check_sees(store), uuid.uuid4().hex[:8]
    with carried(client, sent) as there:
        job = _Job(token, location, there, workers.num_threads, own_versions())
        matrices: dict[str, Product] = {
            name: partial(_multiply, client, job, name) for name in store.all_arrays
        }
        images = partial(_map, client, job) if store.jacobians else None
        try:
            yield matrices, images
        finally:
            workers.clean_up(_forget, token)


def _multiply(client: Client, job: _Job, name: str, vectors: Array) -> Array:
    return np.stack(_each(client, partial(job.multiply, name), vectors))


def _map(client: Client, job: _Job, vectors: Array) -> dict[str, Array]:
    images = _each(client, job.map, vectors)
    return {term: np.stack([image[term] for image in images]) for term in images[0]}


def _each(client: Client, function: Callable[[Array], Any], vectors: Array) -> list[Any]:
    futures = client.map(function, list(vectors), pure=False)
    try:
        return list(client.gather(futures))
    except HessianError:
        raise
    except (CancelledError, KilledWorker, OSError) as error:
        raise ClusterError(
            f"The workers that multiplied were lost ({type(error).__name__}): is memory short? "
            "Nothing was certified; verify again."
        ) from error
    finally:
        if client.status == "running":
            client.cancel(futures, force=True)
