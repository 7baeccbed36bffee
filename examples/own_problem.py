"""A problem of one's own: a damped oscillator, released at rest from u = 1.

    u'' + 2ζω u' + ω² u = 0  for 0 < t < 3,    u(0) = 1,  u'(0) = 0.

``hessian run examples/own_problem.py --option width=32`` computes its Hessian.
"""

import numpy as np

from hessian_tasks import Problem, ResidualTerm, mlp

ζ, ω = 0.1, 4.0


def oscillation(x, u):
    """Left-hand side of the equation; each ``d`` is a derivative of the network."""
    return u.d("tt") + 2 * ζ * ω * u.d("t") + ω**2 * u.value


def exact_solution(points):
    """What training is compared with."""
    t, damped = points, ω * np.sqrt(1 - ζ**2)
    return np.exp(-ζ * ω * t) * (np.cos(damped * t) + ζ * ω / damped * np.sin(damped * t))


def problem(width=16):
    """The arguments of this function are the command line's ``--option``."""
    return Problem(
        model=mlp(num_inputs=1, width=width, depth=2),
        coordinates="t",
        terms=[
            # The equation is larger than the conditions by ω², the weight evens that out.
            ResidualTerm("ode", np.linspace(0, 3, 200)[:, None], oscillation, weight=1 / ω**4),
            ResidualTerm("position", [[0.0]], lambda x, u: u.value - 1),
            ResidualTerm("velocity", [[0.0]], lambda x, u: u.d("t")),
        ],
        exact_solution=exact_solution,
    )
