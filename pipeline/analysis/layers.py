"""What belongs to each layer: the weight of eigenvectors, and of an estimated diagonal."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from hessian_tasks.parameters import ParameterLayout

__all__ = ["LayerMeans", "Participation", "error_of_sum", "layer_means", "participation"]

Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Participation:
    """The share of each layer in some directions.

    Attributes:
        layers: Names of the L layers.
        weights: ``Σ v_i²`` over a layer's parameters, ``[m, L]``; every row adds up to 1.
        sizes: Share of each layer in all parameters, ``[L]``: the weight that a random direction
            has there on average.
        ratios: Participation ratio ``(Σ v²)² / Σ v⁴``, ``[m]``: the number of parameters that
            carry the direction, from 1 to P; a random direction has about P/3.
    """

    layers: list[str]
    weights: Array
    sizes: Array
    ratios: Array

    def to_json(self) -> dict[str, Any]:
        """As JSON data."""
        return {
            "layers": self.layers,
            "weights": self.weights.tolist(),
            "sizes": self.sizes.tolist(),
            "participation_ratios": self.ratios.tolist(),
        }


def participation(vectors: npt.NDArray[Any], layout: ParameterLayout) -> Participation:
    """The weight of directions in each layer, kernel and bias together.

    Args:
        vectors: ``[P, m]``, a direction a column, of any length but 0.
        layout: Which parameter each row is.

    Example:
        >>> layout = ParameterLayout.of([("a/kernel", (3,)), ("a/bias", (1,)), ("b/kernel", (1,))])
        >>> found = participation(np.array([[1.0], [1.0], [1.0], [1.0], [0.0]]), layout)
        >>> found.layers, found.weights.tolist(), found.ratios.tolist()
        (['a', 'b'], [[1.0, 0.0]], [4.0])
    """
    squares = np.asarray(vectors, np.float64) ** 2
    squares = squares / squares.sum(axis=0)
    layers = layout.layers()
    member = layout.labels()["layer"][:, np.newaxis] == np.arange(len(layers))
    return Participation(
        layers=layers,
        weights=squares.T @ member,
        sizes=member.mean(axis=0),
        ratios=1 / np.sum(squares**2, axis=0),
    )


@dataclass(frozen=True)
class LayerMeans:
    """The mean of an estimated diagonal over each layer: the curvature along one parameter.

    Attributes:
        layers: Names of the L layers.
        sizes: How many parameters each has, ``[L]``.
        means: The means, ``[L]``.
        standard_errors: Bounds on their standard errors, ``[L]``.
    """

    layers: list[str]
    sizes: npt.NDArray[np.intp]
    means: Array
    standard_errors: Array

    def to_json(self) -> dict[str, Any]:
        """As JSON data."""
        return {
            "layers": self.layers,
            "parameters": self.sizes.tolist(),
            "means": self.means.tolist(),
            "standard_errors": self.standard_errors.tolist(),
        }


def layer_means(diagonal: Array, errors: Array, layout: ParameterLayout) -> LayerMeans:
    """The mean of an estimated diagonal over each layer, kernel and bias together.

    Args:
        diagonal: The estimate ``[P]``.
        errors: Its standard errors ``[P]``.
        layout: Which parameter each entry is.

    Example:
        >>> layout = ParameterLayout.of([("a/kernel", (3,)), ("a/bias", (1,)), ("b/kernel", (1,))])
        >>> found = layer_means(np.array([1.0, 2.0, 3.0, 6.0, 5.0]), np.full(5, 0.5), layout)
        >>> found.layers, found.means.tolist(), found.standard_errors.round(3).tolist()
        (['a', 'b'], [3.0, 5.0], [0.354, 0.707])
    """
    layers, codes = layout.layers(), layout.labels()["layer"]
    sizes = np.bincount(codes, minlength=len(layers))
    sums = [error_of_sum(errors[codes == k]) for k in range(len(layers))]
    means = np.bincount(codes, diagonal, len(layers)) / sizes
    return LayerMeans(layers, sizes, means, np.array(sums) / sizes)


def error_of_sum(errors: Array) -> float:
    """Bound on the standard error of a sum of entries of an estimated diagonal, ``√(2 Σ e²)``.

    Entries that are estimated from the same products err together. Of a random sign vector z,
    z ∘ A z has ``Σ_j A_ij²`` without j = i as the variance of entry i, and ``A_ij A_ji`` as the
    covariance of entries i and j, whose sum over pairs is at most that of ``A_ij²``. So the
    variance of a sum is at most twice the sum of variances. A is the matrix, or for XDiag what its
    basis leaves of it.
    """
    return float(np.sqrt(2 * np.sum(errors**2)))
