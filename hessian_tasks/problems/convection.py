"""The convection equation on a circle: u_t + β u_x = 0 on (0, 2π) × (0, 1), β = 40.

u(x, 0) = sin x and u(0, t) = u(2π, t); the solution is u = sin(x - βt). The standard hard
case of A. S. Krishnapriyan et al., "Characterizing possible failure modes in
physics-informed neural networks", NeurIPS 2021, in the setting of P. Rathore et al.,
"Challenges in training PINNs", ICML 2024.
"""

from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from hessian_tasks.problem import Problem, ResidualTerm
from hessian_tasks.problems.networks import mlp
from hessian_tasks.problems.sampling import uniform

__all__ = ["exact_solution", "problem"]

PERIOD = [2 * np.pi, 0.0]
SPACE, TIME = (0.0, 2 * np.pi), (0.0, 1.0)
LEFT, START = (0.0, 0.0), (0.0, 0.0)
BETA = 40.0


def exact_solution(points: npt.NDArray[Any], beta: float = BETA) -> npt.NDArray[Any]:
    """Solution at points ``[N, 2]``, as ``[N, 1]``."""
    return np.asarray(np.sin(points[:, 0:1] - beta * points[:, 1:2]))


def problem(
    width: int = 50,
    depth: int = 3,
    num_interior: int = 1000,
    num_boundary: int = 200,
    seed: int = 0,
    dtype: str = "float32",
    beta: float = BETA,
) -> Problem:
    """Build the problem.

    Args:
        width: Units of each hidden layer.
        depth: Number of hidden layers.
        num_interior: Number of points in space and time.
        num_boundary: Number of points of each initial and boundary condition.
        seed: Seed of the points and of the initial weights.
        dtype: Dtype of the network.
        beta: The speed β.
    """
    rng = np.random.default_rng(seed)
    return Problem(
        model=mlp(2, width=width, depth=depth, seed=seed, dtype=dtype),
        coordinates=("x", "t"),
        terms=[
            ResidualTerm(
                "pde",
                points=uniform(num_interior, [SPACE, TIME], rng),
                residual=lambda x, u: u.d("t") + beta * u.d("x"),
            ),
            ResidualTerm(
                "initial",
                points=uniform(num_boundary, [SPACE, START], rng),
                residual=lambda x, u: u.value - tf.sin(x[:, 0:1]),
            ),
            ResidualTerm(
                "periodic",
                points=uniform(num_boundary, [LEFT, TIME], rng),
                residual=lambda x, u: u.value - u.at(x + PERIOD).value,
            ),
        ],
        exact_solution=lambda points: exact_solution(points, beta),
    )
