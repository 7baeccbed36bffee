"""Eigenpairs inside the spectrum, by a polynomial that hides the others.

For a polynomial p that is near 1 in an interval and near 0 on the rest of the spectrum, p(H) has
the eigenvectors of H, and those of the interval are its dominant ones: subspace iteration finds
them (Y. Saad, Numerical Methods for Large Eigenvalue Problems, 2011, chapter 5). A product with
p(H) is as many products with H as p has degrees, and the degree grows as the spectrum over the
interval.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from pipeline.analysis.eigenpairs import Eigenpairs, tolerance_of
from pipeline.analysis.operator import HessianOperator

__all__ = ["BandFilter", "filtered_eigenpairs"]

Array: TypeAlias = npt.NDArray[Any]

# How much wider an interval is than the standard deviation of what rounds its edges off, at first.
# Where many eigenvalues lie close outside, the edges have to be sharper.
SHARPNESS = 4.0
# Beyond, other ways or more memory are the better choice.
MAX_DEGREE = 1000
# Eigenvectors of an interval are magnified by at least a half, nearly.
WANTED_GAIN = 0.25
# The first vectors tell how many are needed: those of the interval, as many around it, and some.
FIRST_VECTORS, AROUND, SPARE = 32, 2.5, 16
MAX_VECTORS = 1024
MAX_ITERATIONS = 20
# By how much gains may still change once all of the interval has been found.
SETTLED = 0.05


@dataclass(frozen=True)
class BandFilter:
    """A polynomial near 1 in an interval, near 0 elsewhere in the spectrum, and 1/2 at the edges.

    It is the Chebyshev series of the interval's indicator with D. Jackson's damping, which keeps it
    within [0, 1] (L. Lin, Y. Saad, C. Yang, "Approximating spectral densities of large matrices",
    SIAM Review 58, 2016). In the angle arccos, to which the spectrum is mapped, that
    convolves the indicator with a bump of standard deviation π/degree.

    Attributes:
        interval: Its ends.
        bounds: An interval that holds the whole spectrum.
        coefficients: Of the Chebyshev polynomials, the degree of the last one being that of p.

    Example:
        >>> band = BandFilter.of((0.0, 0.2), (-1.0, 1.0))
        >>> band.degree, band(np.array([-0.5, 0.0, 0.1, 0.2, 0.9])).round(2).tolist()
        (63, [0.0, 0.5, 0.98, 0.5, 0.0])
    """

    interval: tuple[float, float]
    bounds: tuple[float, float]
    coefficients: Array

    @classmethod
    def of(
        cls,
        interval: tuple[float, float],
        bounds: tuple[float, float],
        sharpness: float = SHARPNESS,
    ) -> BandFilter:
        """The filter of an interval that overlaps the spectrum.

        Args:
            interval: Its ends.
            bounds: Those of the spectrum.
            sharpness: Width of the interval over that of its edges, both as angles.
        """
        low, high = bounds
        edges = np.clip((2 * np.array(interval) - low - high) / (high - low), -1.0, 1.0)
        far, near = np.arccos(edges)
        degree = int(np.ceil(sharpness * np.pi / (far - near)))
        orders = np.arange(1, degree + 1)
        series = 2 / np.pi * (np.sin(orders * far) - np.sin(orders * near)) / orders
        angle = np.pi / (degree + 2)
        damping = (1 - orders / (degree + 2)) * np.cos(orders * angle)
        damping += np.sin(orders * angle) / (degree + 2) / np.tan(angle)
        coefficients = np.concatenate([[(far - near) / np.pi], damping * series])
        return cls(interval, bounds, coefficients)

    @property
    def degree(self) -> int:
        """Degree of p: products with H for one with p(H)."""
        return len(self.coefficients) - 1

    def __call__(self, values: Array) -> Array:
        """``p(λ)``."""
        low, high = self.bounds
        mapped = (2 * np.asarray(values) - low - high) / (high - low)
        return np.asarray(np.polynomial.chebyshev.chebval(mapped, self.coefficients))

    def times(self, operator: HessianOperator, vectors: Array) -> Array:
        """``p(H) V``, by the recurrence ``T_{k+1} = 2 t T_k - T_{k-1}``."""
        centre, half = sum(self.bounds) / 2, (self.bounds[1] - self.bounds[0]) / 2
        last, now = vectors, (operator @ vectors - centre * vectors) / half
        total = self.coefficients[0] * last + self.coefficients[1] * now
        for coefficient in self.coefficients[2:]:
            last, now = now, 2 / half * (operator @ now - centre * now) - last
            total += coefficient * now
        return np.asarray(total)


def filtered_eigenpairs(
    operator: HessianOperator,
    interval: tuple[float, float],
    bounds: tuple[float, float],
    *,
    tolerance: float | None = None,
    seed: int = 0,
) -> Eigenpairs | None:
    """The eigenpairs in an interval, wherever it lies.

    An iteration multiplies an orthonormal basis V by p(H). The eigenvectors of ``Vᵀ p(H) V`` that
    are magnified most span those of the interval; within them H is diagonalised, and residuals say
    how far that has come. That V has room for others as well shows that none is missing.

    Memory: four times ``[P, 2.5 K]`` in float64 for K eigenvalues.

    Args:
        operator: The matrix.
        interval: The eigenvalues are in ``(low, high]``.
        bounds: An interval that holds the whole spectrum.
        tolerance: Largest residual to accept, by default as for
            :func:`~pipeline.analysis.eigenpairs.extreme_eigenpairs`.
        seed: Of the random first vectors.

    Returns:
        The eigenpairs; None if the interval is too narrow for a polynomial of degree 1000, or if it
        and its surroundings have more than 1024 eigenvalues.

    Example:
        >>> from hessian_tasks.parameters import ParameterLayout
        >>> diagonal = np.linspace(-1.0, 1.0, 401)[:, None]
        >>> layout = ParameterLayout.of([("a/kernel", (401,))])
        >>> operator = HessianOperator(lambda v: diagonal * v, layout, relative_error=0.0)
        >>> found = filtered_eigenpairs(operator, (0.082, 0.102), (-1.0, 1.0), tolerance=1e-9)
        >>> bool(found.converged.all()), found.values.round(9).tolist()
        (True, [0.085, 0.09, 0.095, 0.1])
    """
    if tolerance is None:
        tolerance = tolerance_of(operator, float(np.abs(bounds).max()))
    sharpness = SHARPNESS
    while (band := BandFilter.of(interval, bounds, sharpness)).degree <= MAX_DEGREE:
        search = _Search(operator, band, np.random.default_rng(seed))
        for _ in range(MAX_ITERATIONS):
            search.iterate()
            if search.vectors.shape[1] > MAX_VECTORS:
                break
            if search.settled and (found := search.pairs(tolerance)).converged.all():
                return found
        else:
            return search.pairs(tolerance)
        sharpness *= 2
    return None


class _Search:
    """The vectors that are to span the eigenvectors of the interval, and what p does to them."""

    def __init__(
        self, operator: HessianOperator, band: BandFilter, rng: np.random.Generator
    ) -> None:
        self.operator, self.band, self.rng = operator, band, rng
        self.vectors = self._random(FIRST_VECTORS)
        self.gains = np.zeros(0)
        self.magnified = np.zeros((len(self.vectors), 0))
        self.settled = False
        self.num_passes = 0

    def _random(self, number: int) -> Array:
        return self.rng.standard_normal((self.operator.shape[0], number))

    def iterate(self) -> None:
        """Multiply by p(H), and see whether there is room for the eigenvectors of the interval."""
        basis = np.linalg.qr(self.vectors)[0]
        product = self.band.times(self.operator, basis)
        self.num_passes += self.band.degree
        gains, turned = np.linalg.eigh(_symmetric(basis.T @ product))
        before, self.gains = self.gains, gains[::-1]
        magnified = gains > WANTED_GAIN
        self.magnified = product @ turned[:, magnified]
        others = len(gains) - int(magnified.sum())
        self.settled = others >= SPARE and _close(self.gains[: len(before)], before)
        number = len(gains)
        if not len(before):
            # vᵀ p(H) v is on average the trace of p(H) over P, and that the number of eigenvalues.
            number = max(number, int(AROUND * gains.mean() * len(basis)) + SPARE)
        elif others < SPARE:
            number *= 2
        more = self._random(number - len(gains)) * np.linalg.norm(product) / len(basis)
        self.vectors = np.hstack([product, more])

    def pairs(self, tolerance: float) -> Eigenpairs:
        """The eigenpairs of H among what p(H) magnifies that lie in the interval."""
        basis = np.linalg.qr(self.magnified)[0]
        product = np.asarray(self.operator @ basis, np.float64)
        self.num_passes += 1
        values, turned = np.linalg.eigh(_symmetric(basis.T @ product))
        vectors = basis @ turned
        residuals = np.linalg.norm(product @ turned - vectors * values, axis=0)
        found = Eigenpairs(values, vectors, residuals, tolerance, self.num_passes)
        low, high = self.band.interval
        return found.only((values > low) & (values <= high))


def _close(gains: Array, before: Array) -> bool:
    """Whether an iteration has changed little; the first one finds next to nothing."""
    return len(before) > 0 and bool(np.abs(gains - before).max() <= SETTLED)


def _symmetric(matrix: Array) -> Array:
    return np.asarray((matrix + matrix.T) / 2)
