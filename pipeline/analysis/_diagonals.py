"""Samplers of the diagonal: estimates that take more and more products with random vectors."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, TypeAlias

import numpy as np

from pipeline.analysis._sampling import (
    SHARED,
    Array,
    Estimate,
    MultipliesVectors,
    Range,
    Sampler,
    batches,
    signs,
)

__all__ = ["DIAGONALS", "DiagonalMethod"]

DiagonalMethod: TypeAlias = Literal["hutchinson", "xdiag"]

# Rows whose samples are in memory together.
ROWS = 4096


class HutchinsonDiagonal:
    """The mean of ``z ∘ H z``, in the memory of some vectors."""

    def __init__(self, operator: MultipliesVectors, rng: np.random.Generator) -> None:
        self.operator, self.rng = operator, rng
        self.count = 0
        self.mean, self.squares = np.zeros((2, operator.shape[0]))

    def products_for(self, num_samples: int) -> int:
        return num_samples

    def extend(self, total: int) -> Estimate:
        for batch in batches(total - self.count):
            drawn = signs(self.rng, self.operator.shape[0], batch)
            self._join(drawn * (self.operator @ drawn), batch)
        error = np.sqrt(self.squares / (self.count * (self.count - 1)))
        return Estimate(self.mean.copy(), error, self.count, "hutchinson")

    def _join(self, samples: Array, number: int) -> None:
        # Means and sums of squares of two groups are joined without cancellation (T. Chan,
        # G. Golub, R. LeVeque, 1979).
        count = self.count + number
        shift = samples.mean(axis=1) - self.mean
        self.squares += samples.var(axis=1) * number + shift**2 * (self.count * number / count)
        self.mean += shift * (number / count)
        self.count = count


class XDiag:
    # Of Q, a basis of Y = H S, the part Q QᵀH is known from Z = H Q, as H is symmetric: its
    # diagonal is that of Q Zᵀ. What is left out, (I - Q Qᵀ) H, is estimated by z ∘ (I - Q Qᵀ) H z.
    # Sample i has Q₍ᵢ₎ without vector i, for which Q₍ᵢ₎ Q₍ᵢ₎ᵀ = Q Qᵀ - qᵢ qᵢᵀ with qᵢ = Q sᵢ, and
    # that vector as z. qᵢ is orthogonal to the images of all others, and that of its own, Q rᵢ, is
    # in Q, so that what is left of it is qᵢ (sᵢᵀrᵢ). Together
    #     diag(Q Zᵀ) - qᵢ ∘ Z sᵢ + zᵢ ∘ qᵢ (sᵢᵀrᵢ).
    # All in O(k² P) operations; E. Epperly, J. Tropp, R. Webber (2024) have it for any matrix.
    def __init__(self, operator: MultipliesVectors, rng: np.random.Generator) -> None:
        self.range = Range(operator, rng, signs)
        self.num_params = operator.shape[0]

    def products_for(self, num_samples: int) -> int:
        return 2 * num_samples

    def extend(self, total: int) -> Estimate:
        number = min(total // 2, self.num_params)
        self.range.grow(number)
        basis, images = self.range.basis, self.range.basis_images
        captured = np.sum(basis * images, axis=1)
        if number == self.num_params:  # Q is a basis of everything.
            return Estimate(captured, np.zeros(self.num_params), 2 * number, "xdiag")
        dual = self.range.duals
        left = np.sum(dual * self.range.factor, axis=0)
        mean, error = np.empty((2, self.num_params))
        for start in range(0, self.num_params, ROWS):
            rows = slice(start, start + ROWS)
            lost = basis[rows] @ dual
            samples = lost * (self.range.vectors[rows] * left - images[rows] @ dual)
            mean[rows] = captured[rows] + samples.mean(axis=1)
            error[rows] = samples.std(axis=1, ddof=1) * (SHARED / np.sqrt(number))
        return Estimate(mean, error, 2 * number, "xdiag")


DIAGONALS: dict[str, Callable[..., Sampler]] = {"hutchinson": HutchinsonDiagonal, "xdiag": XDiag}
