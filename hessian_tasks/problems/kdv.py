"""The Korteweg-de Vries equation: u_t + 6 u u_x + u_xxx = 0 on (-5, 5) × (0, 1).

One soliton of speed 4 that starts at x = -2: u = 2 sech²(ξ), ξ = x + 2 - 4t. Initial values
and u at both ends are taken from it, and so is u_x at the right end: an equation of third
order needs three conditions on an interval, two of them where waves run out.
"""

from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from hessian_tasks.problem import Problem, ResidualTerm
from hessian_tasks.problems.networks import mlp
from hessian_tasks.problems.sampling import on_faces, uniform

__all__ = ["exact_solution", "problem"]

SPACE, TIME, START = (-5.0, 5.0), (0.0, 1.0), (0.0, 0.0)
RIGHT = (5.0, 5.0)


def exact_solution(points: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Solution at points ``[N, 2]``, as ``[N, 1]``."""
    return np.asarray(2 / np.cosh(points[:, 0:1] + 2 - 4 * points[:, 1:2]) ** 2)


def _soliton(x: Any) -> Any:
    return 2 / tf.square(tf.cosh(_phase(x)))


def _slope(x: Any) -> Any:
    return -2 * tf.tanh(_phase(x)) * _soliton(x)


def _phase(x: Any) -> Any:
    return x[:, 0:1] + 2 - 4 * x[:, 1:2]


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
                residual=lambda x, u: u.d("t") + 6 * u.value * u.d("x") + u.d("xxx"),
            ),
            ResidualTerm(
                "initial",
                points=uniform(num_boundary, [SPACE, START], rng),
                residual=lambda x, u: u.value - _soliton(x),
            ),
            ResidualTerm(
                "boundary",
                points=on_faces(num_boundary, [SPACE, TIME], rng, axes=[0]),
                residual=lambda x, u: u.value - _soliton(x),
            ),
            ResidualTerm(
                "slope",
                points=uniform(num_boundary, [RIGHT, TIME], rng),
                residual=lambda x, u: u.d("x") - _slope(x),
            ),
        ],
        exact_solution=exact_solution,
    )
