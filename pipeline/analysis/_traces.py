"""Samplers of the trace: estimates that take more and more products with random vectors."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Literal, TypeAlias

import numpy as np

from pipeline.analysis._nystrom import XNysTrace
from pipeline.analysis._sampling import (
    SHARED,
    Estimate,
    MultipliesVectors,
    Range,
    Sampler,
    batches,
    gaussian,
    mean_of,
    signs,
)

__all__ = ["TRACES", "TraceMethod"]

TraceMethod: TypeAlias = Literal["hutchinson", "hutch++", "xtrace", "xnystrace"]


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
        return mean_of(np.array(self.samples), len(self.samples), "hutchinson")


class HutchPlusPlus:
    def __init__(self, operator: MultipliesVectors, rng: np.random.Generator) -> None:
        self.operator, self.rng = operator, rng
        self.range = Range(operator, rng, gaussian)
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
        return mean_of(exact + samples, 2 * number + num_samples, "hutch++")


class XTrace:
    def __init__(self, operator: MultipliesVectors, rng: np.random.Generator) -> None:
        self.range = Range(operator, rng, gaussian)
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
        # Without its i-th vector, the range is what of Q is orthogonal to Q s_i.
        dual = self.range.duals
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
        mean = mean_of(samples, 2 * number, "xtrace")
        return replace(mean, standard_error=SHARED * mean.standard_error)


TRACES: dict[str, Callable[..., Sampler]] = {
    "hutchinson": Hutchinson, "hutch++": HutchPlusPlus, "xtrace": XTrace, "xnystrace": XNysTrace
}  # fmt: skip
