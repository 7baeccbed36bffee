"""Stochastic estimates of trace, diagonal and norm, from products with random vectors.

Each estimate says how large its standard error is, and how many products it took. None reads
entries of the matrix, so that what they are compared with in the tests, the exact values of stored
matrices, is a second source.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from pipeline.analysis._traces import (
    Estimate,
    MultipliesVectors,
    TraceMethod,
    TraceSampler,
    batches,
    make_sampler,
    signs,
)
from pipeline.errors import ConfigError

__all__ = [
    "Estimate",
    "TraceMethod",
    "estimate_diagonal",
    "estimate_frobenius_norm",
    "estimate_trace",
]

Array = npt.NDArray[np.float64]

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

    All are unbiased for a fixed number of products.

    Args:
        operator: The matrix.
        method: See above.
        num_products: Products to take; with ``error``, at most.
        error: Go on, doubling the products, until the standard error is not above it.
        seed: Of the random vectors.

    Raises:
        ConfigError: If there are too few products for an error, or the method is unknown.

    Example:
        >>> found = estimate_trace(np.diag([3.0, 2.0, 1.0] + [0.0] * 97), num_products=20)
        >>> round(found.value, 9), found.num_products
        (6.0, 20)
    """
    wanted = None if error is None else (lambda found: bool(found.standard_error <= error))
    _check(num_products, error)
    return _extend(make_sampler(method, operator, seed), num_products, wanted)


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
    of an estimate has that. Arguments and errors raised are those of :func:`estimate_trace`.

    Example:
        >>> found = estimate_frobenius_norm(np.diag([3.0, 4.0] + [0.0] * 98), num_products=40)
        >>> round(found.value, 9), found.num_products
        (5.0, 40)
    """
    _check(num_products, error)
    estimator = make_sampler(method, _Squared(operator), seed)

    def root(found: Estimate) -> Estimate:
        norm = math.sqrt(found.value)
        standard_error = found.standard_error / (2 * norm) if norm else 0.0
        return Estimate(norm, standard_error, 2 * found.num_products, method)

    def wanted(found: Estimate) -> bool:
        return error is not None and bool(root(found).standard_error <= error)

    return root(_extend(estimator, num_products // 2, None if error is None else wanted))


def estimate_diagonal(
    operator: MultipliesVectors,
    *,
    num_products: int = FIRST_PRODUCTS,
    error: float | None = None,
    seed: int = 0,
) -> Estimate:
    """The diagonal ``[P]``, the mean of ``z ∘ H z`` over random signs z.

    Entry i has variance ``Σ_{j≠i} H_ij²`` for one sample (C. Bekas, E. Kokiopoulou, Y. Saad, 2007).

    Args:
        operator: The matrix.
        num_products: Products to take; with ``error``, at most.
        error: Go on until the root mean square of the standard errors is not above it.
        seed: Of the random vectors.

    Raises:
        ConfigError: If there are too few products for an error.

    Example:
        >>> estimate_diagonal(np.diag([0.0, 1.0, 2.0, 3.0])).value  # exact for a diagonal matrix
        array([0., 1., 2., 3.])
    """
    _check(num_products, error)
    rng = np.random.default_rng(seed)
    count, mean, squares = 0, np.zeros(operator.shape[0]), np.zeros(operator.shape[0])
    for batch in batches(num_products):
        drawn = signs(rng, operator.shape[0], batch)
        samples = drawn * (operator @ drawn)
        # Means and sums of squares of two groups are joined without cancellation (T. Chan,
        # G. Golub, R. LeVeque, 1979).
        shift = samples.mean(axis=1) - mean
        squares += samples.var(axis=1) * batch + shift**2 * (count * batch / (count + batch))
        mean += shift * (batch / (count + batch))
        count += batch
        standard_error = np.sqrt(squares / (count * (count - 1)))
        rms = float(np.sqrt(np.mean(standard_error**2)))
        if error is not None and count >= MIN_SAMPLES and rms <= error:
            break
    return Estimate(mean, standard_error, count, "hutchinson")


class _Squared:
    """H², for symmetric H."""

    def __init__(self, operator: MultipliesVectors) -> None:
        self.operator, self.shape = operator, operator.shape

    def __matmul__(self, vectors: Array) -> Array:
        return self.operator @ (self.operator @ vectors)


def _extend(
    estimator: TraceSampler, num_products: int, enough: Callable[[Estimate], bool] | None
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
