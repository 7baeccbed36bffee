"""Burgers' equation: u_t + u u_x = ν u_xx on (-1, 1) × (0, 1), ν = 0.01/π.

u(x, 0) = -sin πx and u(-1, t) = u(1, t) = 0. A shock of width about ν forms at x = 0.
The solution is known as a quotient of two integrals (E. Hopf, 1950; J. D. Cole, 1951).
From M. Raissi, P. Perdikaris and G. E. Karniadakis, "Physics-informed neural networks",
J. Comput. Phys. 378 (2019), 686-707.
"""

from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from hessian_tasks.problem import Problem, ResidualTerm
from hessian_tasks.problems.networks import mlp
from hessian_tasks.problems.sampling import on_faces, uniform

__all__ = ["exact_solution", "problem"]

SPACE, TIME, START = (-1.0, 1.0), (0.0, 1.0), (0.0, 0.0)
NU = 0.01 / np.pi


def exact_solution(points: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Solution at points ``[N, 2]``, as ``[N, 1]``.

    The substitution u = -2ν φ_x / φ turns Burgers' equation into the heat equation for
    φ, whose solution is a Gaussian integral of φ(y, 0) = exp(-cos(πy) / 2πν):

        u = -∫ sin(πy) φ(y, 0) exp(-z²) dz / ∫ φ(y, 0) exp(-z²) dz,   y = x - z √(4νt).
    """
    x, t = points[:, 0:1], points[:, 1:2]
    # 100 nodes leave an error below 1e-14 up to t = 1; φ spans e^-50 to e^50, within float64.
    nodes, weights = np.polynomial.hermite.hermgauss(100)
    y = x - nodes * np.sqrt(4 * NU * t)
    density = weights * np.exp(-np.cos(np.pi * y) / (2 * np.pi * NU))
    mean = np.sum(density * np.sin(np.pi * y), axis=1) / np.sum(density, axis=1)
    return np.asarray(-mean[:, np.newaxis])


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
                residual=lambda x, u: u.d("t") + u.value * u.d("x") - NU * u.d("xx"),
            ),
            ResidualTerm(
                "initial",
                points=uniform(num_boundary, [SPACE, START], rng),
                residual=lambda x, u: u.value + tf.sin(np.pi * x[:, 0:1]),
            ),
            ResidualTerm(
                "boundary",
                points=on_faces(num_boundary, [SPACE, TIME], rng, axes=[0]),
                residual=lambda x, u: u.value,
            ),
        ],
        exact_solution=exact_solution,
    )
