"""The heat equation on an interval: u_t = α u_xx on (0, 1) × (0, 1), α = 0.4.

u(x, 0) = sin πx and u(0, t) = u(1, t) = 0; the solution is u = sin(πx) exp(-απ²t).
"""

from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from hessian_tasks.problem import Problem, ResidualTerm
from hessian_tasks.problems.networks import mlp
from hessian_tasks.problems.sampling import on_faces, uniform

__all__ = ["exact_solution", "problem"]

SPACE, TIME, START = (0.0, 1.0), (0.0, 1.0), (0.0, 0.0)
ALPHA = 0.4


def exact_solution(points: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Solution at points ``[N, 2]``, as ``[N, 1]``."""
    x, t = points[:, 0:1], points[:, 1:2]
    return np.sin(np.pi * x) * np.exp(-ALPHA * np.pi**2 * t)


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
        num_interior: Number of points in space and time.
        num_boundary: Number of points of each initial and boundary condition.
        seed: Seed of the points and of the initial weights.
        dtype: Dtype of the network.
    """
    rng = np.random.default_rng(seed)
    return Problem(
        model=mlp(2, width=width, depth=depth, seed=seed, dtype=dtype),
        coordinates=("x", "t"),
        terms=[
            ResidualTerm(
                "pde",
                points=uniform(num_interior, [SPACE, TIME], rng),
                residual=lambda x, u: u.d("t") - ALPHA * u.d("xx"),
            ),
            ResidualTerm(
                "initial",
                points=uniform(num_boundary, [SPACE, START], rng),
                residual=lambda x, u: u.value - tf.sin(np.pi * x[:, 0:1]),
            ),
            ResidualTerm(
                "boundary",
                points=on_faces(num_boundary, [SPACE, TIME], rng, axes=[0]),
                residual=lambda x, u: u.value,
            ),
        ],
        exact_solution=exact_solution,
    )
