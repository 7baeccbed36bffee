"""Poisson's equation on a square: Δu = f on [-1, 1]², u = 0 on the boundary.

f = -(π²/2) sin(π(x+1)/2) sin(π(y+1)/2), whose solution is
u = sin(π(x+1)/2) sin(π(y+1)/2). The problem that this software was started for.
"""

from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from hessian_tasks.problem import Problem, ResidualTerm
from hessian_tasks.problems.networks import mlp
from hessian_tasks.problems.sampling import on_faces, uniform

__all__ = ["exact_solution", "problem"]

SQUARE = [(-1.0, 1.0), (-1.0, 1.0)]


def exact_solution(points: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Solution at points ``[N, 2]``, as ``[N, 1]``."""
    waves: npt.NDArray[Any] = np.sin(np.pi * (points + 1) / 2)
    solution: npt.NDArray[Any] = waves[:, :1] * waves[:, 1:]
    return solution


def _source(x: Any) -> Any:
    waves = tf.sin(np.pi * (x + 1) / 2)
    return -(np.pi**2) / 2 * waves[:, 0:1] * waves[:, 1:2]


def problem(
    width: int = 50,
    depth: int = 3,
    num_interior: int = 1000,
    num_boundary: int = 1000,
    seed: int = 0,
    dtype: str = "float32",
) -> Problem:
    """Build the problem.

    Args:
        width: Units of each hidden layer.
        depth: Number of hidden layers.
        num_interior: Number of points inside the square.
        num_boundary: Number of points on its boundary.
        seed: Seed of the points and of the initial weights.
        dtype: Dtype of the network.
    """
    rng = np.random.default_rng(seed)
    return Problem(
        model=mlp(2, width=width, depth=depth, seed=seed, dtype=dtype),
        coordinates=("x", "y"),
        terms=[
            ResidualTerm(
                "pde",
                points=uniform(num_interior, SQUARE, rng),
                residual=lambda x, u: u.d("xx") + u.d("yy") - _source(x),
            ),
            ResidualTerm(
                "dirichlet",
                points=on_faces(num_boundary, SQUARE, rng),
                residual=lambda x, u: u.value,
            ),
        ],
        exact_solution=exact_solution,
    )
