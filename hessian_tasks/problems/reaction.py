"""The reaction equation: u_t = ρ u (1 - u) on (0, 2π) × (0, 1), ρ = 5.

u(x, 0) = h(x) = exp(-(x - π)² / (2 (π/4)²)) and u(0, t) = u(2π, t). At each x this is the
logistic equation, so u = h e^(ρt) / (h e^(ρt) + 1 - h). From P. Rathore, W. Lei,
Z. Frangella, L. Lu and M. Udell, "Challenges in training PINNs", ICML 2024.
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
RHO = 5.0


def exact_solution(points: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Solution at points ``[N, 2]``, as ``[N, 1]``."""
    x, t = points[:, 0:1], points[:, 1:2]
    h = np.exp(-8 * (x / np.pi - 1) ** 2)
    grown = h * np.exp(RHO * t)
    return np.asarray(grown / (grown + 1 - h))


def _initial(x: Any) -> Any:
    return tf.exp(-tf.square(x[:, 0:1] - np.pi) / (2 * (np.pi / 4) ** 2))


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
                residual=lambda x, u: u.d("t") - RHO * u.value * (1 - u.value),
            ),
            ResidualTerm(
                "initial",
                points=uniform(num_boundary, [SPACE, START], rng),
                residual=lambda x, u: u.value - _initial(x),
            ),
            ResidualTerm(
                "periodic",
                points=uniform(num_boundary, [LEFT, TIME], rng),
                residual=lambda x, u: u.value - u.at(x + PERIOD).value,
            ),
        ],
        exact_solution=exact_solution,
    )
