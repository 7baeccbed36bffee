"""Samplers of the trace: estimates that take more and more products with random vectors."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, Literal, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

from pipeline.errors import ConfigError

__all__ = [
    "Estimate",
    "MultipliesVectors",
    "TraceMethod",
    "TraceSampler",
    "batches",
    "make_sampler",
    "signs",
]

Array = npt.NDArray[np.float64]
TraceMethod: TypeAlias = Literal["hutchinson", "hutch++", "xtrace"]

BATCH = 10


class MultipliesVectors(Protocol):
    """A symmetric matrix ``[P, P]`` that is known by its products, or is an array."""

    @property
    def shape(self) -> tuple[int, int]:
        """``(P, P)``."""
        ...

    def __matmul__(self, vectors: Array) -> Array:
        """Products with the columns of ``vectors`` ``[P, K]``."""
        ...


@dataclass(frozen=True)
class Estimate:
    """An estimate with its uncertainty.

    Attributes:
        value: The estimate; a number, or for a diagonal ``[P]``.
        standard_error: Standard deviation of ``value``, estimated from the spread of the samples
            behind it, of the same shape. About 95 % of estimates are within two of the truth.
        num_products: Products with single vectors that were taken.
        method: How it was estimated.
    """

    value: Any
    standard_error: Any
    num_products: int
    method: str

    def to_json(self) -> dict[str, Any]:
        """The estimate as JSON data; of a diagonal, see the store."""
        return {
            "value": float(self.value),
            "standard_error": float(self.standard_error),
            "num_products": self.num_products,
            "method": self.method,
        }


class TraceSampler(Protocol):
    """An estimate of the trace that takes more and more products."""

    def products_for(self, num_samples: int) -> int:
        """Products that give so many samples to take the spread of."""
        ...

    def extend(self, total: int) -> Estimate:
        """The estimate from ``total`` products, those of earlier calls among them."""
        ...


def make_sampler(method: str, operator: MultipliesVectors, seed: int) -> TraceSampler:
    """The sampler of that method.

    Raises:
        ConfigError: If there is no such method.
    """
    methods: dict[str, Callable[..., TraceSampler]] = {
        "hutchinson": Hutchinson, "hutch++": HutchPlusPlus, "xtrace": XTrace
    }  # fmt: skip
    if method not in methods:
        raise ConfigError(f"There is no method {method!r}; the methods are {', '.join(methods)}.")
    return methods[method](operator, np.random.default_rng(seed))


class Hutchinson:
    def __init__(self, operator: MultipliesVectors, rng: np.random.Generator) -> None:
        self.operator, self.rng = operator, rng
        self.samples: list[float] = []

    def products_for(self, num_samples: int) -> int:
        return num_samples

    def extend(self, total: int) -> Estimate:
        for batch in batches(total - len(self.samples)):
            drawn = signs(self.rng, self.operator.shape[0], batch)
            self.samples += np.sum(drawn * (self.operator @ drawn), axis=0).tolist()
        return _mean(self.samples, len(self.samples), "hutchinson")


class _Range:
    """An orthonormal basis Q of ``H S``, which grows with the number of random vectors S.

    Attributes:
        vectors: S, Gaussian, ``[P, k]``.
        images: H S.
        basis: Q; its new columns are orthogonal to the earlier ones.
        factor: R with ``H S = Q R``, upper triangular.
        basis_images: H Q.
    """

    def __init__(self, operator: MultipliesVectors, rng: np.random.Generator) -> None:
        self.operator, self.rng = operator, rng
        empty = np.empty((operator.shape[0], 0))
        self.vectors = self.images = self.basis = self.basis_images = empty
        self.factor = np.empty((0, 0))

    def grow(self, number: int) -> None:
        """Have ``number`` vectors; two products for each new one."""
        for batch in batches(number - self.vectors.shape[1]):
            vectors = self.rng.standard_normal((self.operator.shape[0], batch))
            images = self.operator @ vectors
            above = self.basis.T @ images
            rest = images - self.basis @ above
            basis = self._orthonormal(rest)
            below = np.zeros((batch, self.basis.shape[1]))
            corner = np.triu(basis.T @ rest)
            self.factor = np.block([[self.factor, above], [below, corner]])
            self.vectors = np.hstack([self.vectors, vectors])
            self.images = np.hstack([self.images, images])
            self.basis = np.hstack([self.basis, basis])
            self.basis_images = np.hstack([self.basis_images, self.operator @ basis])

    def _orthonormal(self, rest: Array) -> Array:
        """A basis of ``rest`` that is orthogonal to Q, filled up at random where H has no more."""
        basis, corner = np.linalg.qr(rest)
        # What of these is rounding may well lie in Q.
        rounding = 10 * np.finfo(np.float64).eps * max(_largest(self.factor), _largest(corner))
        spent = np.abs(np.diag(corner)) <= rounding
        basis[:, spent] = self.rng.standard_normal((len(basis), int(spent.sum())))
        for _ in range(2):  # Twice is enough.
            basis, _ = np.linalg.qr(basis - self.basis @ (self.basis.T @ basis))
        return basis


def _largest(factor: Array) -> float:
    return float(np.abs(factor).max(initial=0.0))


class HutchPlusPlus:
    def __init__(self, operator: MultipliesVectors, rng: np.random.Generator) -> None:
        self.operator, self.rng = operator, rng
        self.range = _Range(operator, rng)
        self.signs = self.images = np.empty((operator.shape[0], 0))

    def products_for(self, num_samples: int) -> int:
        return 3 * num_samples

    def extend(self, total: int) -> Estimate:
        number = min(total // 3, self.operator.shape[0])
        self.range.grow(number)
        num_samples = total - 2 * number
        for batch in batches(num_samples - self.signs.shape[1]):
            drawn = signs(self.rng, self.operator.shape[0], batch)
            self.signs = np.hstack([self.signs, drawn])
            self.images = np.hstack([self.images, self.operator @ drawn])
        basis, basis_images = self.range.basis, self.range.basis_images
        # With v = z - Q Qᵀz, vᵀHv from products that are there already.
        weights = basis.T @ self.signs
        rest = self.signs - basis @ weights
        samples = np.sum(rest * (self.images - basis_images @ weights), axis=0)
        exact = float(np.sum(basis * basis_images))
        return _mean((exact + samples).tolist(), 2 * number + num_samples, "hutch++")


class XTrace:
    # Sample i, as a function of all vectors, has mean tr H given the others: in the decomposition
    # of its variance by subsets of vectors, only those with i occur. What the subsets {i} add to
    # the variance of the mean of k samples, their spread over √k sees; of pairs {i, j}, which
    # samples i and j both contain, it sees no less than half (B. Efron, C. Stein, 1981, have the
    # decomposition). Where larger subsets add little, as in all matrices that were tried, the
    # variance is thus at most twice that of independent samples; there it was 1.03 to 2.04 times.
    SHARED = math.sqrt(2)

    def __init__(self, operator: MultipliesVectors, rng: np.random.Generator) -> None:
        self.range = _Range(operator, rng)
        self.num_params = operator.shape[0]

    def products_for(self, num_samples: int) -> int:
        return 2 * num_samples

    def extend(self, total: int) -> Estimate:
        number = min(total // 2, self.num_params)
        self.range.grow(number)
        basis, images = self.range.basis, self.range.basis_images
        if number == self.num_params:  # Q is a basis of everything.
            exact = float(np.sum(basis * images))
            return Estimate(exact, 0.0, 2 * number, "xtrace")
        # Without its i-th vector, the range is what of Q is orthogonal to Q s_i, where s_i is
        # column i of R⁻ᵀ, normalised: it is orthogonal to all columns of R but the i-th.
        dual = np.linalg.inv(_regular(self.range.factor)).T
        dual /= np.linalg.norm(dual, axis=0)
        inner = basis.T @ images
        captured = np.trace(inner) - np.sum(dual * (inner @ dual), axis=0)
        # v_i, the i-th vector's part on the complement of that range, and H v_i.
        weights = basis.T @ self.range.vectors
        weights -= dual * np.sum(dual * weights, axis=0)
        rest = self.range.vectors - basis @ weights
        rest_images = self.range.images - images @ weights
        # v_i is Gaussian on a space of P - k + 1 dimensions: only its direction is random there.
        scale = (self.num_params - number + 1) / np.sum(rest**2, axis=0)
        samples = captured + scale * np.sum(rest * rest_images, axis=0)
        mean = _mean(samples.tolist(), 2 * number, "xtrace")
        return replace(mean, standard_error=self.SHARED * mean.standard_error)


def _regular(factor: Array) -> Array:
    """R with noise on its diagonal where H has a lower rank than R has columns.

    The vectors that are too many then span nothing of H, and count as any others.
    """
    size = np.abs(np.diag(factor))
    least = np.finfo(np.float64).eps * (size.max() or 1.0)
    regular: Array = factor + np.diag(np.where(size < least, least, 0.0))
    return regular


def _mean(samples: list[float], num_products: int, method: str) -> Estimate:
    standard_error = float(np.std(samples, ddof=1)) / math.sqrt(len(samples))
    return Estimate(float(np.mean(samples)), standard_error, num_products, method)


def signs(rng: np.random.Generator, size: int, number: int) -> Array:
    """Random vectors of ±1, one a column."""
    return rng.choice([-1.0, 1.0], (size, number))


def batches(number: int) -> Iterator[int]:
    """Vectors to multiply at once."""
    for start in range(0, number, BATCH):
        yield min(BATCH, number - start)
