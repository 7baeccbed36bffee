"""A simply supported plate: Δ²u = f on [-1, 1]², u = Δu = 0 on the boundary.

f = (π⁴/4) cos(πx/2) cos(πy/2), whose solution is u = cos(πx/2) cos(πy/2). On a straight
edge u = 0 leaves of Δu the second normal derivative, the bending moment.
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
    return np.asarray(np.prod(np.cos(np.pi * points / 2), axis=1, keepdims=True))


def _load(x: Any) -> Any:
    waves = tf.cos(np.pi * x / 2)
    return np.pi**4 / 4 * waves[:, 0:1] * waves[:, 1:2]


def _bilaplacian(u: Any) -> Any:
    return u.d("xxxx") + 2 * u.d("xxyy") + u.d("yyyy")


def problem(
    width: int = 50,
    depth: int = 3,
    num_interior: int = 1000,
    num_boundary: int = 200,
    seed: int = 0,
    dtype: str = "float32",
) -> Problem:
    """Build the problem.

    Args:
        width: Units of each hidden layer.
        depth: Number of hidden layers.
        num_interior: Number of points inside the square.
        num_boundary: Number of boundary points of each condition.
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
                residual=lambda x, u: _bilaplacian(u) - _load(x),
            ),
            ResidualTerm(
                "deflection",
                points=on_faces(num_boundary, SQUARE, rng),
                residual=lambda x, u: u.value,
            ),
            ResidualTerm(
                "moment",
                points=on_faces(num_boundary, SQUARE, rng),
                residual=lambda x, u: u.d("xx") + u.d("yy"),
            ),
        ],
        exact_solution=exact_solution,
    )
