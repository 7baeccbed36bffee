"""The wave equation of a string: u_tt = 4 u_xx on (0, 1) × (0, 1).

u(x, 0) = sin πx + ½ sin βπx with β = 5, u_t(x, 0) = 0 and u(0, t) = u(1, t) = 0; the
solution is u = sin(πx) cos(2πt) + ½ sin(βπx) cos(2βπt). From P. Rathore, W. Lei,
Z. Frangella, L. Lu and M. Udell, "Challenges in training PINNs", ICML 2024.
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
BETA = 5.0


def exact_solution(points: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Solution at points ``[N, 2]``, as ``[N, 1]``."""
    x, t = np.pi * points[:, 0:1], np.pi * points[:, 1:2]
    return np.sin(x) * np.cos(2 * t) + np.sin(BETA * x) * np.cos(2 * BETA * t) / 2


def _initial(x: Any) -> Any:
    return tf.sin(np.pi * x[:, 0:1]) + tf.sin(BETA * np.pi * x[:, 0:1]) / 2


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
                residual=lambda x, u: u.d("tt") - 4 * u.d("xx"),
            ),
            ResidualTerm(
                "initial",
                points=uniform(num_boundary, [SPACE, START], rng),
                residual=lambda x, u: [u.value - _initial(x), u.d("t")],
            ),
            ResidualTerm(
                "boundary",
                points=on_faces(num_boundary, [SPACE, TIME], rng, axes=[0]),
                residual=lambda x, u: u.value,
            ),
        ],
        exact_solution=exact_solution,
    )
