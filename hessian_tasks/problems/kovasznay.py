"""Flow behind a grid: the steady Navier-Stokes equations at Re = 40.

    u u_x + v u_y + p_x = Δu / Re,   u v_x + v v_y + p_y = Δv / Re,   u_x + v_y = 0

on (-½, 1) × (-½, 3/2), velocities given on the boundary and the pressure where the fluid
leaves, at x = 1. With λ = Re/2 - √(Re²/4 + 4π²) the solution is u = 1 - e^(λx) cos 2πy,
v = λ/2π e^(λx) sin 2πy, p = (1 - e^(2λx)) / 2. From L. I. G. Kovasznay, "Laminar flow behind
a two-dimensional grid", Proc. Camb. Phil. Soc. 44 (1948), 58-62.
"""

from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from hessian_tasks.problem import Problem, ResidualTerm
from hessian_tasks.problems.networks import mlp
from hessian_tasks.problems.sampling import on_faces, uniform

__all__ = ["exact_solution", "problem"]

BOX = [(-0.5, 1.0), (-0.5, 1.5)]
OUTFLOW = [(1.0, 1.0), (-0.5, 1.5)]
RE = 40.0
LAMBDA = RE / 2 - np.sqrt(RE**2 / 4 + 4 * np.pi**2)


def exact_solution(points: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Both velocities and the pressure at points ``[N, 2]``, as ``[N, 3]``."""
    decay, angle = np.exp(LAMBDA * points[:, 0]), 2 * np.pi * points[:, 1]
    u = 1 - decay * np.cos(angle)
    v = LAMBDA / (2 * np.pi) * decay * np.sin(angle)
    return np.stack([u, v, (1 - decay**2) / 2], axis=1)


def _navier_stokes(x: Any, flow: Any) -> list[Any]:
    u, v, p = flow[0], flow[1], flow[2]

    def force(w: Any) -> Any:
        inertia = u.value * w.d("x") + v.value * w.d("y")
        return inertia - (w.d("xx") + w.d("yy")) / RE

    return [force(u) + p.d("x"), force(v) + p.d("y"), u.d("x") + v.d("y")]


def _velocity(x: Any) -> Any:
    decay, angle = tf.exp(LAMBDA * x[:, 0:1]), 2 * np.pi * x[:, 1:2]
    swirl = LAMBDA / (2 * np.pi) * decay * tf.sin(angle)
    return tf.concat([1 - decay * tf.cos(angle), swirl], axis=1)


def _pressure(x: Any) -> Any:
    return (1 - tf.exp(2 * LAMBDA * x[:, 0:1])) / 2


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
        num_interior: Number of points inside the box.
        num_boundary: Number of points of each boundary condition.
        seed: Seed of the points and of the initial weights.
        dtype: Dtype of the network.
    """
    rng = np.random.default_rng(seed)
    return Problem(
        model=mlp(2, 3, width=width, depth=depth, seed=seed, dtype=dtype),
        coordinates=("x", "y"),
        terms=[
            ResidualTerm(
                "pde",
                points=uniform(num_interior, BOX, rng),
                residual=_navier_stokes,
            ),
            ResidualTerm(
                "velocity",
                points=on_faces(num_boundary, BOX, rng),
                residual=lambda x, flow: flow.value[:, 0:2] - _velocity(x),
            ),
            ResidualTerm(
                "pressure",
                points=uniform(num_boundary, OUTFLOW, rng),
                residual=lambda x, flow: flow[2].value - _pressure(x),
            ),
        ],
        exact_solution=exact_solution,
    )
