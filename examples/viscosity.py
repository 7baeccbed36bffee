"""Burgers' equation with an unknown viscosity: ν = 0.01 from 40 noisy data of u.

``hessian train examples/viscosity.py --levenberg-marquardt 150 --out trained.npz`` fits the network
and ν, ``hessian run examples/viscosity.py --weights trained.npz --with-ggn`` computes the Hessian
and the Gauss-Newton matrix, and ``hessian uncertainty runs/viscosity.zarr --matrix ggn`` says how
well ν is known.
"""

import numpy as np
import tensorflow as tf

from hessian_tasks import Problem, ResidualTerm, mlp

CORNERS = [-1.0, 0.0], [1.0, 1.0]
TRUE_NU = 0.01


def true_u(points):
    """Hopf and Cole's solution for u(x, 0) = -sin πx, a quotient of two Gaussian integrals."""
    x, t = points[:, 0:1], points[:, 1:2]
    nodes, weights = np.polynomial.hermite.hermgauss(100)
    y = x - nodes * np.sqrt(4 * TRUE_NU * t)
    density = weights * np.exp(-np.cos(np.pi * y) / (2 * np.pi * TRUE_NU))
    return -np.sum(density * np.sin(np.pi * y), axis=1, keepdims=True) / np.sum(
        density, axis=1, keepdims=True
    )


def burgers(x, u, nu):
    """u_t + u u_x - ν u_xx, with the parameter by its name."""
    return u.d("t") + u.value * u.d("x") - nu * u.d("xx")


def problem(width=12, noise=0.01, seed=0):
    """The arguments of this function are the command line's ``--option``."""
    rng = np.random.default_rng(seed)
    inside = rng.uniform(*CORNERS, size=(1000, 2))
    start = np.column_stack([np.linspace(-1, 1, 100), np.zeros(100)])
    ends = np.array([[x, t] for x in (-1, 1) for t in np.linspace(0, 1, 25)])
    places = rng.uniform(*CORNERS, size=(40, 2))
    measured = true_u(places) + noise * rng.normal(size=(40, 1))
    return Problem(
        model=mlp(2, width=width, depth=3, seed=seed, dtype="float64"),
        parameters={"nu": 0.05},
        coordinates=("x", "t"),
        terms=[
            ResidualTerm("pde", inside, burgers),
            ResidualTerm("start", start, lambda x, u: u.value + tf.sin(np.pi * x[:, 0:1])),
            ResidualTerm("ends", ends, lambda x, u: u.value),
            ResidualTerm("measured", places, lambda x, u, y: u.value - y, data={"y": measured}),
        ],
    )
