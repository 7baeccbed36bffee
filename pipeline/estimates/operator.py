"""The matrix of a problem as an operator that computes every product from the points."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import numpy as np

from hessian_tasks.autodiff.products import ShardProducts, cut_points
from hessian_tasks.errors import ModelError
from hessian_tasks.frozen import FrozenInputs
from hessian_tasks.networks.models import get_theta
from hessian_tasks.problem import Problem, ResidualTerm
from hessian_tasks.process import configure_tensorflow
from hessian_tasks.rebuild import rebuild
from hessian_tasks.shards import MAX_BATCH
from hessian_tasks.spec import GAUSS_NEWTON, HESSIAN, Matrix
from pipeline.analysis.operator import HessianOperator
from pipeline.estimates._errors import MeasuredError
from pipeline.estimates._products import Array, Product, threaded_product

if TYPE_CHECKING:
    from pipeline.estimates.journal import Journal
    from pipeline.run.cluster.workers import Workers

__all__ = ["SHARDS_PER_THREAD", "is_semidefinite", "operator_of"]

# Of each term: more do not make products better balanced than this.
SHARDS_PER_THREAD = 2


def operator_of(
    frozen: FrozenInputs,
    *,
    matrix: Matrix = HESSIAN,
    term: str | None = None,
    workers: Workers | None = None,
    num_threads: int | None = None,
    max_batch: int = MAX_BATCH,
    stop: threading.Event | None = None,
    journal: Journal | None = None,
) -> HessianOperator:
    """The Hessian, or the Gauss-Newton matrix, as products alone.

    Memory: some sums ``[P, K]`` in float64 for K vectors, and a batch of points, for each
    thread. Its ``relative_error`` and ``norm`` are measured, see
    :class:`~pipeline.estimates._errors.MeasuredError`.

    Args:
        frozen: The inputs; :func:`~pipeline.run.inputs.freeze_source` makes them.
        matrix: Which matrix.
        term: A loss term's matrix instead of the total's.
        workers: Dask workers that compute, instead of threads of this process.
        num_threads: Threads of this process; all cores by default.
        max_batch: Points computed at once.
        stop: Set to end a product.
        journal: Keeps the products, and has those of an interrupted estimate.

    Raises:
        ReproductionError: If the problem cannot be rebuilt from the inputs.
        ProblemError: If there is no such term, or the Gauss-Newton matrix does not exist.
        ConfigError: If the problem is an object of this process that cannot be sent to workers.

    Example:
        >>> from hessian_tasks.source import ProblemSource
        >>> from pipeline.run.inputs import freeze_source
        >>> options = {"width": 4, "depth": 1, "dtype": "float64"}
        >>> operator = operator_of(freeze_source(ProblemSource("poisson", options)))
        >>> operator.shape, (operator @ np.ones(17)).shape
        ((17, 17), (17,))
    """
    num_threads = configure_tensorflow(num_threads)
    problem = rebuild(frozen)
    products = ShardProducts(problem, matrix)
    total_threads = num_threads if workers is None else workers.number * workers.num_threads
    shards = cut_points(
        problem, max_batch=max_batch, num_shards=SHARDS_PER_THREAD * total_threads, term=term
    )
    if workers is None:
        product = threaded_product(products, shards, num_threads, stop)
    else:
        from pipeline.estimates._distributed import distributed_product

        product = distributed_product(workers, frozen, matrix, shards, stop)
    if frozen.source.live is not None:
        product = _of_the_same_weights(product, problem, frozen)
    if journal is not None:
        product = journal.recording(product)
    relative_error, norm = MeasuredError(problem, products, shards)(product)
    return HessianOperator(
        product,
        frozen.layout,
        relative_error=relative_error,
        norm=norm,
        semidefinite=is_semidefinite(frozen, matrix, term),
        title=matrix.title + (f" of term {term}" if term else ""),
    )


def is_semidefinite(frozen: FrozenInputs, matrix: Matrix, term: str | None = None) -> bool:
    """Whether a matrix has no negative eigenvalue by how it is made, whatever θ is.

    ``2 w / (N C) JᵀJ`` has none where w is not negative. That of a loss which is kept has none
    where ``ℓ''`` has none, which is only found out up to rounding, and is not counted here.

    Args:
        frozen: The inputs.
        matrix: Which matrix.
        term: A loss term's matrix instead of the total's.

    Example:
        >>> from hessian_tasks.source import ProblemSource
        >>> from pipeline.run.inputs import freeze_source
        >>> frozen = freeze_source(ProblemSource("poisson", {"width": 4, "depth": 1}))
        >>> is_semidefinite(frozen, GAUSS_NEWTON), is_semidefinite(frozen, HESSIAN)
        (True, False)
    """
    terms = [found for found in frozen.terms if term in (None, found.name)]
    squares = all(found.kind == ResidualTerm.kind and found.weight >= 0 for found in terms)
    return matrix == GAUSS_NEWTON and squares


def _of_the_same_weights(product: Product, problem: Problem, frozen: FrozenInputs) -> Product:
    # The network may be the user's own, who goes on training it.
    def checked(vectors: Array) -> Array:
        if not np.array_equal(get_theta(problem.model), frozen.theta):
            raise ModelError(
                "The network's weights have changed since this operator was made. Make it again, "
                "or set them back."
            )
        return product(vectors)

    return checked
