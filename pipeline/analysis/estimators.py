"""Stochastic estimates of trace, diagonal and norm, from products with random vectors.

Each estimate says how large its standard error is, and how many products it took. None reads
entries of the matrix, so that what they are compared with in the tests, the exact values of stored
matrices, is a second source.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from pipeline.analysis._diagonals import DIAGONALS, DiagonalMethod
from pipeline.analysis._sampling import (
    TITLES,
    Array,
    Estimate,
    MultipliesVectors,
    Sampler,
    make_sampler,
)
from pipeline.analysis._traces import TRACES, TraceMethod
from pipeline.errors import ConfigError

__all__ = [
    "TITLES",
    "DiagonalMethod",
    "Estimate",
    "TraceMethod",
    "estimate_diagonal",
    "estimate_frobenius_norm",
    "estimate_trace",
]

# Fewer samples say too little about their own spread to stop by it.
MIN_SAMPLES = 10
# The first products of an estimate that goes on to a stated error.
FIRST_PRODUCTS = 60


def estimate_trace(
    operator: MultipliesVectors,
    method: TraceMethod = "xtrace",
    *,
    num_products: int = FIRST_PRODUCTS,
    error: float | None = None,
    seed: int = 0,
) -> Estimate:
    """The trace, ``Σ H_ii``.

    - ``hutchinson``: the mean of ``zᵀHz`` over random signs z, of variance
      ``2 (‖H‖_F² - Σ H_ii²)`` (M. Hutchinson, 1990).
    - ``hutch++``: exact on the range Q of ``H S`` for a random S, a third of the products each for
      S, Q and Hutchinson on the complement of Q; the variance falls as 1/m² for m products
      (R. Meyer, C. Musco, C. Musco, D. Woodruff, 2021). Its standard error is that of the last
      part, given Q.
    - ``xtrace``: the mean over i of Hutch++ with all test vectors but the i-th in Q, and the i-th
      on the complement, m/2 for m products (E. Epperly, J. Tropp, R. Webber, 2024), with test
      vectors normalised on the complement. The best of the three where eigenvalues decay, as
      those of networks do. Its standard error is an upper bound, see below.
    - ``xnystrace``: the same idea with Nyström's approximation, for positive semidefinite matrices
      alone; of m products all m give a sample and a direction. Its standard error is that of the
      jackknife, an upper bound as well. A matrix that is not known to be one, as a
      :class:`~pipeline.HessianOperator` knows, is refused, and so is one whose products show it;
      that an array is one, the caller says.

    All are unbiased for a fixed number of products.

    Args:
        operator: The matrix.
        method: See above.
        num_products: Products to take; with ``error``, at most.
        error: Go on, doubling the products, until the standard error is not above it.
        seed: Of the random vectors.

    Raises:
        ConfigError: If there are too few products for an error, the method is unknown, or it is
            ``xnystrace`` and the matrix not positive semidefinite.

    Example:
        >>> found = estimate_trace(np.diag([3.0, 2.0, 1.0] + [0.0] * 97), num_products=20)
        >>> round(found.value, 9), found.num_products
        (6.0, 20)
    """
    wanted = None if error is None else (lambda found: bool(found.standard_error <= error))
    _check(num_products, error)
    return _extend(make_sampler(TRACES, method, operator, seed), num_products, wanted)


def estimate_frobenius_norm(
    operator: MultipliesVectors,
    method: TraceMethod = "xtrace",
    *,
    num_products: int = 2 * FIRST_PRODUCTS,
    error: float | None = None,
    seed: int = 0,
) -> Estimate:
    """``‖H‖_F``, the root of the trace of H², of which each product takes two of H.

    The standard error is that of the trace, divided by twice the root: to first order the root
    of an estimate has that. H² is positive semidefinite for every symmetric H, so that
    ``xnystrace`` takes all of them. Arguments and errors raised are those of
    :func:`estimate_trace`.

    Example:
        >>> found = estimate_frobenius_norm(np.diag([3.0, 4.0] + [0.0] * 98), num_products=40)
        >>> round(found.value, 9), found.num_products
        (5.0, 40)
    """
    _check(num_products, error)
    estimator = make_sampler(TRACES, method, _Squared(operator), seed)

    def root(found: Estimate) -> Estimate:
        norm = math.sqrt(found.value)
        standard_error = found.standard_error / (2 * norm) if norm else 0.0
        return Estimate(norm, standard_error, 2 * found.num_products, method)

    def wanted(found: Estimate) -> bool:
        return error is not None and bool(root(found).standard_error <= error)

    return root(_extend(estimator, num_products // 2, None if error is None else wanted))


def estimate_diagonal(
    operator: MultipliesVectors,
    method: DiagonalMethod = "xdiag",
    *,
    num_products: int = FIRST_PRODUCTS,
    error: float | None = None,
    seed: int = 0,
) -> Estimate:
    """The diagonal ``[P]``.

    - ``hutchinson``: the mean of ``z ∘ H z`` over random signs z. Entry i has variance
      ``Σ_{j≠i} H_ij²`` for one sample (C. Bekas, E. Kokiopoulou, Y. Saad, 2007). Exact for a
      diagonal matrix, and in the memory of some vectors.
    - ``xdiag``: the mean over i of the diagonal that a basis Q of the images of all vectors but the
      i-th holds, and the i-th on what that leaves out, m/2 for m products (E. Epperly, J. Tropp,
      R. Webber, 2024). The better one where eigenvalues decay; it keeps 2 m vectors. Its standard
      error is an upper bound, as that of XTrace.

    Both are unbiased for a fixed number of products.

    Args:
        operator: The matrix.
        method: See above.
        num_products: Products to take; with ``error``, at most.
        error: Go on, doubling the products, until the root mean square of the standard errors is
            not above it.
        seed: Of the random vectors.

    Raises:
        ConfigError: If there are too few products for an error, or the method is unknown.

    Example:
        >>> low_rank = np.outer([1.0, 2.0, 3.0] * 10, [1.0, 2.0, 3.0] * 10)
        >>> found = estimate_diagonal(low_rank, num_products=12)
        >>> found.value[:3].round(9), found.num_products
        (array([1., 4., 9.]), 12)
    """
    _check(num_products, error)

    def wanted(found: Estimate) -> bool:
        return error is not None and float(np.sqrt(np.mean(found.standard_error**2))) <= error

    sampler = make_sampler(DIAGONALS, method, operator, seed)
    return _extend(sampler, num_products, None if error is None else wanted)


class _Squared:
    """H², for symmetric H."""

    def __init__(self, operator: MultipliesVectors) -> None:
        self.operator, self.shape = operator, operator.shape
        # ‖H E + E H‖_F over ‖H²‖_F is at most that of E over ‖H‖_F, times 2 ‖H‖_F / ‖H‖₂ ≤ 2 √P; a
        # few eigenvalues make up the norm, and the root is of their number.
        self.relative_error = 10 * getattr(operator, "relative_error", 0.0)

    def __matmul__(self, vectors: Array) -> Array:
        return self.operator @ (self.operator @ vectors)


def _extend(
    estimator: Sampler,
    num_products: int,
    enough: Callable[[Estimate], bool] | None,
) -> Estimate:
    if enough is None:
        return estimator.extend(num_products)
    total = min(num_products, estimator.products_for(MIN_SAMPLES))
    estimate = estimator.extend(total)
    while not enough(estimate) and total < num_products:
        total = min(2 * total, num_products)
        estimate = estimator.extend(total)
    return estimate


def _check(num_products: int, error: float | None) -> None:
    if num_products < 12:
        raise ConfigError(
            f"An estimate from {num_products} products says nothing of its error; expected at "
            "least 12."
        )
    if error is not None and not error > 0:
        raise ConfigError(f"The error to reach is {error}; expected a positive number.")
