"""Inverse problems that NumPy fits too: a network that is linear in its weights, and k."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
import numpy as np
import scipy.optimize

from pipeline import Problem, ResidualTerm, RunOptions, compute_hessian

SIGMA = 0.05
PLACES = np.linspace(0, 1, 20)[:, None]
INSIDE = np.linspace(0, 1, 30)[:, None]


class Features:
    """A network that is linear in its weights: tanh of fixed features, and a trained last layer."""

    def __init__(self, width: int = 5, bias: bool = False) -> None:
        draw = np.random.default_rng(0)
        self.slopes, self.shifts = draw.normal(0, 2, (1, width)), draw.normal(0, 1, width)
        hidden = keras.layers.Dense(width, "tanh", name="fixed", trainable=False, dtype="float64")
        output = keras.layers.Dense(1, use_bias=bias, name="output", dtype="float64")
        self.model = keras.Sequential([keras.Input((1,), dtype="float64"), hidden, output])
        hidden.set_weights([self.slopes, self.shifts])

    def __call__(self, x: Any) -> Any:
        """φ(x), so that u = φ(x) w."""
        return np.tanh(x @ self.slopes + self.shifts)

    def slope(self, x: Any) -> Any:
        """φ'(x)."""
        return (1 - self(x) ** 2) * self.slopes


def store(problem: Problem, path: Path, engine: Any = "auto") -> Path:
    compute_hessian(problem, path, options=RunOptions(engine=engine))
    return path


def decay(x: Any, u: Any, k: Any) -> Any:
    """u' + k u = 0."""
    return u.d("x") + k * u.value


def inverse_problem(features: Features, y: Any, k: float) -> Problem:
    terms = [
        ResidualTerm("decay", INSIDE, decay, weight=3.0),
        ResidualTerm("fit", PLACES, lambda x, u, y: u.value - y, data={"y": y}),
    ]
    return Problem(features.model, terms, coordinates="x", parameters={"k": np.float64(k)})


class Refit:
    """The same least-squares problem in NumPy, ``½ ‖ρ(w, k)‖²`` with ρ in units of σ."""

    def __init__(self, features: Features) -> None:
        self.inside, self.slopes = features(INSIDE), features.slope(INSIDE)
        self.places = features(PLACES)
        # Of the mean squares w_t / N_t that of the data is 1 / N; the other counts relative to it.
        self.factor = np.sqrt(3.0 * len(PLACES) / len(INSIDE))

    def __call__(self, unknowns: Any, y: Any) -> Any:
        w, k = unknowns[:-1], unknowns[-1]
        physics = self.factor * (self.slopes @ w + k * (self.inside @ w))
        return np.concatenate([physics, self.places @ w - y[:, 0]])

    def jacobian(self, unknowns: Any) -> Any:
        w, k = unknowns[:-1], unknowns[-1]
        along = [self.factor * (self.slopes + k * self.inside), self.places]
        by_k = np.concatenate([self.factor * (self.inside @ w), np.zeros(len(PLACES))])
        return np.column_stack([np.concatenate(along), by_k])

    def solve(self, y: Any, start: Any, weights: Any = 1.0) -> Any:
        """The unknowns, with residuals that count as much as their weights; data come last."""
        weights = np.ones(len(self.inside) + len(self.places)) * weights
        return scipy.optimize.least_squares(
            lambda unknowns: weights * self(unknowns, y),
            start,
            lambda unknowns: weights[:, None] * self.jacobian(unknowns),
            xtol=1e-14, ftol=1e-14, gtol=1e-14,
        ).x  # fmt: skip

    def standard_error(self, unknowns: Any, y: Any) -> float:
        """Of k, with σ from the residuals of the data."""
        jacobian = self.jacobian(unknowns)
        inverse = np.linalg.inv(jacobian.T @ jacobian)
        effective = np.trace(self.places @ inverse[:-1, :-1] @ self.places.T)
        left = np.sum((self.places @ unknowns[:-1] - y[:, 0]) ** 2)
        return float(np.sqrt(left / (len(y) - effective) * inverse[-1, -1]))


FILE = """
import numpy as np
from hessian_tasks import Problem, ResidualTerm, mlp

def problem():
    x = np.linspace(0, 1, 12)[:, None]
    pde = ResidualTerm("pde", x, lambda x, u, nu: nu * u.d("xx") + 1)
    fit = ResidualTerm("fit", x, lambda x, u, y: u.value - y, data={"y": x * (1 - x)})
    network = mlp(1, width=4, depth=1, dtype="float64")
    return Problem(network, [pde, fit], coordinates="x", parameters={"nu": 0.5})
"""
