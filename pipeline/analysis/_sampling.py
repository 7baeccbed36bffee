"""What estimates from random vectors have in common: samples, their spread, and ranges."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

from pipeline.errors import ConfigError

__all__ = [
    "SHARED",
    "TITLES",
    "Array",
    "Estimate",
    "MultipliesVectors",
    "Range",
    "Sampler",
    "batches",
    "gaussian",
    "make_sampler",
    "mean_of",
    "signs",
]

Array: TypeAlias = npt.NDArray[np.float64]
Draw: TypeAlias = Callable[[np.random.Generator, int, int], Array]

# The names of methods in a sentence.
TITLES = {
    "hutchinson": "Hutchinson", "hutch++": "Hutch++", "xtrace": "XTrace",
    "xnystrace": "XNysTrace", "xdiag": "XDiag",
}  # fmt: skip
BATCH = 10
# Samples of which each leaves out one vector of a set and has the others in common understate
# the error of their mean; by this factor at most.
# Sample i, as a function of all vectors, has mean tr H given the others: in the decomposition
# of its variance by subsets of vectors, only those with i occur. What the subsets {i} add to
# the variance of the mean of k samples, their spread over √k sees; of pairs {i, j}, which
# samples i and j both contain, it sees no less than half (B. Efron, C. Stein, 1981, have the
# decomposition). Where larger subsets add little, as in all matrices that were tried, the
# variance is thus at most twice that of independent samples; there it was 1.03 to 2.04 times.
SHARED = math.sqrt(2)


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

    @property
    def title(self) -> str:
        """The method's name in a sentence."""
        return TITLES[self.method]

    def to_json(self) -> dict[str, Any]:
        """The estimate as JSON data; of a diagonal, see the store."""
        return {
            "value": float(self.value),
            "standard_error": float(self.standard_error),
            "num_products": self.num_products,
            "method": self.method,
        }


class Range:
    """An orthonormal basis Q of ``H S``, which grows with the number of random vectors S.

    Attributes:
        vectors: S ``[P, k]``, as they are drawn.
        images: H S.
        basis: Q; its new columns are orthogonal to the earlier ones.
        factor: R with ``H S = Q R``, upper triangular.
        basis_images: H Q.
    """

    def __init__(self, operator: MultipliesVectors, rng: np.random.Generator, draw: Draw) -> None:
        self.operator, self.rng, self._draw = operator, rng, draw
        empty = np.empty((operator.shape[0], 0))
        self.vectors = self.images = self.basis = self.basis_images = empty
        self.factor = np.empty((0, 0))

    def grow(self, number: int) -> None:
        """Have ``number`` vectors; two products for each new one."""
        for batch in batches(number - self.vectors.shape[1]):
            vectors = self._draw(self.rng, self.operator.shape[0], batch)
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

    @property
    def duals(self) -> Array:
        """Unit vectors s_i ``[k, k]``, one a column: the range without S_i is that without Q s_i.

        s_i is column i of R⁻ᵀ, normalised, and thus orthogonal to all columns of R but the i-th.
        """
        found = np.linalg.inv(_regular(self.factor)).T
        return np.asarray(found / np.linalg.norm(found, axis=0))

    def _orthonormal(self, rest: Array) -> Array:
        """A basis of ``rest`` that is orthogonal to Q, filled up at random where H has no more."""
        largest = max(_largest(self.factor), float(np.linalg.norm(rest, axis=0).max()))
        # What of these is rounding may well lie in Q.
        rounding = 10 * np.finfo(np.float64).eps * largest
        basis = np.empty((len(rest), 0))
        for column in rest.T:
            left = column - basis @ (basis.T @ column)
            if np.linalg.norm(left) <= rounding:
                left = self.rng.standard_normal(len(rest))
                left -= basis @ (basis.T @ left)
            basis = np.column_stack([basis, left / np.linalg.norm(left)])
        for _ in range(2):  # Twice is enough.
            basis, _ = np.linalg.qr(basis - self.basis @ (self.basis.T @ basis))
        return basis


def _largest(factor: Array) -> float:
    return float(np.abs(factor).max(initial=0.0))


def _regular(factor: Array) -> Array:
    """R with noise on its diagonal where H has a lower rank than R has columns.

    The vectors that are too many then span nothing of H, and count as any others.
    """
    size = np.abs(np.diag(factor))
    least = np.finfo(np.float64).eps * (size.max() or 1.0)
    regular: Array = factor + np.diag(np.where(size < least, least, 0.0))
    return regular


def mean_of(samples: Array, num_products: int, method: str) -> Estimate:
    """Their mean, with the error that independent samples have."""
    standard_error = float(np.std(samples, ddof=1)) / math.sqrt(len(samples))
    return Estimate(float(np.mean(samples)), standard_error, num_products, method)


def gaussian(rng: np.random.Generator, size: int, number: int) -> Array:
    """Random vectors of independent normal entries, one a column."""
    return rng.standard_normal((size, number))


def signs(rng: np.random.Generator, size: int, number: int) -> Array:
    """Random vectors of ±1, one a column."""
    return rng.choice([-1.0, 1.0], (size, number))


def batches(number: int) -> Iterator[int]:
    """Vectors to multiply at once."""
    for start in range(0, number, BATCH):
        yield min(BATCH, number - start)


class Sampler(Protocol):
    """An estimate that takes more and more products."""

    def products_for(self, num_samples: int) -> int:
        """Products that give so many samples to take the spread of."""
        ...

    def extend(self, total: int) -> Estimate:
        """The estimate from ``total`` products, those of earlier calls among them."""
        ...


def make_sampler(
    methods: Mapping[str, Callable[..., Sampler]],
    method: str,
    operator: MultipliesVectors,
    seed: int,
) -> Sampler:
    """The sampler of one of the methods.

    Raises:
        ConfigError: If it is none of them.
    """
    if method not in methods:
        raise ConfigError(f"There is no method {method!r}; the methods are {', '.join(methods)}.")
    return methods[method](operator, np.random.default_rng(seed))
