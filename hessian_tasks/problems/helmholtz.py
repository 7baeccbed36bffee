"""Helmholtz' equation on a square: Δu + k² u = q on [-1, 1]², u = 0 on the boundary, k = 1.

q is chosen such that u = sin(a₁πx) sin(a₂πy) with a₁ = 1 and a₂ = 4. From S. Wang, Y. Teng
and P. Perdikaris, "Understanding and mitigating gradient flow pathologies in
physics-informed neural networks", SIAM J. Sci. Comput. 43 (2021), A3055-A3081.
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
A1, A2, K = 1.0, 4.0, 1.0


def exact_solution(points: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Solution at points ``[N, 2]``, as ``[N, 1]``."""
    waves = np.sin(np.pi * np.array([A1, A2]) * points)
    return np.asarray(np.prod(waves, axis=1, keepdims=True))


def _source(x: Any) -> Any:
    wave = tf.sin(A1 * np.pi * x[:, 0:1]) * tf.sin(A2 * np.pi * x[:, 1:2])
    return (K**2 - np.pi**2 * (A1**2 + A2**2)) * wave


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
                residual=lambda x, u: u.d("xx") + u.d("yy") + K**2 * u.value - _source(x),
            ),
            ResidualTerm(
                "dirichlet",
                points=on_faces(num_boundary, SQUARE, rng),
                residual=lambda x, u: u.value,
            ),
        ],
        exact_solution=exact_solution,
    )
