"""Where eigenvectors live: their weight in each layer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from hessian_tasks.parameters import ParameterLayout

__all__ = ["Participation", "participation"]

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
