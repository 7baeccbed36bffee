"""The problem that all peers get: one set of weights, one set of points, in one file.

A peer knows nothing of this project but this file. Theta, P numbers, is ordered as in ours:
kernel, bias, kernel, bias, …, each in C order, kernels as ``[inputs, outputs]``.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
Indices = npt.NDArray[np.int64]

# Streams of the network that the residuals need: u, u_x, u_y and the Laplacian at interior
# points, u at those of the boundary.
INTERIOR_STREAMS, BOUNDARY_STREAMS = 4, 1


@dataclass(frozen=True)
class Case:
    """Weights and points of a Poisson PINN, in the dtype in which it is differentiated.

    Attributes:
        theta: All weights ``[P]``.
        shapes: Shapes of kernels and biases, in order.
        interior: Points ``[N, 2]`` of the residual u_xx + u_yy - f.
        source: f there, ``[N, 1]``.
        boundary: Points ``[M, 2]`` of the residual u.
    """

    theta: Array
    shapes: list[tuple[int, ...]]
    interior: Array
    source: Array
    boundary: Array

    @property
    def num_params(self) -> int:
        return len(self.theta)

    @property
    def width(self) -> int:
        return self.shapes[0][1]

    @property
    def dtype(self) -> str:
        return str(self.theta.dtype)

    @property
    def sizes(self) -> list[int]:
        return [int(np.prod(shape)) for shape in self.shapes]

    @property
    def useful_flop(self) -> float:
        """N·S·P², a convention: N·S rank-one updates of one triangle, two FLOP a multiply-add."""
        streams = INTERIOR_STREAMS * len(self.interior) + BOUNDARY_STREAMS * len(self.boundary)
        return float(streams) * self.num_params**2

    def split(self) -> list[Array]:
        """Kernels and biases as arrays."""
        parts = np.split(self.theta, np.cumsum(self.sizes)[:-1])
        return [part.reshape(shape) for part, shape in zip(parts, self.shapes, strict=True)]

    def save(self, path: Path) -> None:
        weights = {f"weight_{number}": array for number, array in enumerate(self.split())}
        np.savez(
            path, interior=self.interior, source=self.source, boundary=self.boundary, **weights
        )


def load_case(path: Path) -> Case:
    """Read what :meth:`Case.save` wrote."""
    with np.load(path) as file:
        weights = [file[f"weight_{number}"] for number in range(len(file.files) - 3)]
        return Case(
            theta=np.concatenate([weight.reshape(-1) for weight in weights]),
            shapes=[weight.shape for weight in weights],
            interior=file["interior"],
            source=file["source"],
            boundary=file["boundary"],
        )


def spread(num_params: int, count: int) -> Indices:
    """``count`` different rows, spread evenly over all layers."""
    return np.linspace(0, num_params - 1, min(count, num_params)).astype(np.int64)
