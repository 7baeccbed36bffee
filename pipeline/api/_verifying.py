"""Verifying a store against the loss that it came from."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from hessian_tasks.problem import Problem
from hessian_tasks.source import ProblemSource
from pipeline.api._given import source_of, workers_of
from pipeline.api._opening import rebuild_problem
from pipeline.errors import StoreError
from pipeline.store.places import Place
from pipeline.store.store import HessianStore

if TYPE_CHECKING:
    from pipeline.run.cluster.given import AnyClient
    from pipeline.run.cluster.workers import Workers
    from pipeline.run.verify import Certificate

__all__ = ["verify_hessian"]


def verify_hessian(
    store: Place,
    problem: Problem | ProblemSource | str | Path | None = None,
    num_vectors: int = 3,
    *,
    client: AnyClient | None = None,
    memory: int | None = None,
) -> Certificate:
    """Verify a store and record the certificate in it.

    Args:
        store: Path or URL of the store, such as ``s3://bucket/path/h.zarr``.
        problem: The problem, if the store was made from a live object or its file has moved; a
            source, if its function needs options.
        num_vectors: Number of random vectors to multiply with.
        client: Whose workers multiply, as in :func:`compute_hessian`; the store is read here.
        memory: Bytes that this process may have; by default half of what is free.

    Returns:
        The certificate; look at its ``passed``.

    Raises:
        ReproductionError: If the problem is not the one that the store was made from.
        StoreError: If the store cannot be read or the certificate not be written.
        DoesNotFitError: If block rows, or the problem, do not fit into memory; nothing is recorded.

    Example:
        >>> import tempfile
        >>> from pipeline import compute_hessian, load_problem
        >>> small = load_problem("regression", width=2, depth=1, num_samples=5)
        >>> with tempfile.TemporaryDirectory() as directory:
        ...     _ = compute_hessian(small, f"{directory}/h.zarr")
        ...     found = verify_hessian(f"{directory}/h.zarr", small)
        >>> found.passed, len(found.product_errors)
        (True, 3)
    """
    opened = HessianStore(store)
    records = opened.records()
    with workers_of(client) as workers:
        if workers is None:
            certificate = _certify_here(opened, problem, num_vectors, memory)
        else:
            certificate = _certify_there(opened, problem, num_vectors, workers)
    with opened.location.locked():
        now = HessianStore(opened.location, warn=False)
        if now.template != opened.template or now.records() != records:
            raise StoreError(
                f"{opened.location} was changed while it was verified, and is left as it is. "
                "Verify it again."
            )
        now.set_certificate(certificate.to_json())
    return certificate


def _certify_here(
    store: HessianStore,
    problem: Problem | ProblemSource | str | Path | None,
    num_vectors: int,
    memory: int | None,
) -> Certificate:
    from pipeline.run.budget import Budget
    from pipeline.run.products import jacobian_products, matrix_products
    from pipeline.run.verify import certify, reading_bytes

    budget, reading = Budget.of(memory), reading_bytes(store)
    budget.check("block rows that are read", reading)
    rebuilt = rebuild_problem(store, problem)
    budget.check("block rows that are read", reading)
    products, images = matrix_products(store, rebuilt), jacobian_products(store, rebuilt)
    return certify(store, products, num_vectors, images)


def _certify_there(
    store: HessianStore,
    problem: Problem | ProblemSource | str | Path | None,
    num_vectors: int,
    workers: Workers,
) -> Certificate:
    from pipeline.run.cluster.products import products_on
    from pipeline.run.inputs import stored_inputs
    from pipeline.run.verify import certify

    frozen = stored_inputs(store, None if problem is None else source_of(problem))
    with products_on(workers, store, frozen.source) as (products, images):
        return certify(store, products, num_vectors, images)
