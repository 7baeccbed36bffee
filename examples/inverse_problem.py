"""An inverse problem: a conductivity as a network, a reaction rate as a number, from measured data.

``hessian train examples/inverse_problem.py --out inverse.npz`` finds all three, and
``hessian run examples/inverse_problem.py --weights inverse.npz --store inverse.zarr`` computes one
Hessian of all of them: blocks between the networks, and between these and the rate.
"""

import numpy as np

from hessian_tasks import Problem, ResidualTerm, mlp


def true_u(x):
    """The temperature that is measured."""
    return np.sin(np.pi * x)


def true_k(x):
    """The conductivity that is looked for."""
    return 1 + x / 2


def source(x):
    """Heat that makes them a solution of -(k u')' + 2 u = f."""
    slope, bend = np.pi * np.cos(np.pi * x), -(np.pi**2) * np.sin(np.pi * x)
    return -(slope / 2 + true_k(x) * bend) + 2 * true_u(x)


def heat(x, u, k, rate, f):
    """Residual; parameters, data and the second network's jet come by their names."""
    return -(k.d("x") * u.d("x") + k.value * u.d("xx")) + rate * u.value - f


def problem(width=12, noise=0.01):
    """The arguments of this function are the command line's ``--option``."""
    inside = np.linspace(0, 1, 60)[:, None]
    places = np.linspace(0, 1, 25)[:, None]
    errors = np.random.default_rng(3).normal(size=places.shape)
    measured = true_u(places) + noise * errors
    return Problem(
        model={"u": mlp(1, width=width, depth=2), "k": mlp(1, width=6, depth=1)},
        parameters={"rate": 1.0},
        coordinates="x",
        terms=[
            ResidualTerm("heat", inside, heat, weight=0.1, data={"f": source(inside)}),
            ResidualTerm("data", places, lambda x, u, y: u.value - y, data={"y": measured}),
            # k at one end is known: data of u alone leave k and the rate too free.
            ResidualTerm("end", [[0.0]], lambda x, u, k: k.value - 1.0),
        ],
    )
