"""Regression: a network fitted to noisy samples of a function by least squares.

y = sin πx + ½ sin 3πx + noise on [-1, 1], the noise normal; the loss is the mean squared
error. No derivatives: the Hessian of ordinary supervised learning.
"""

from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from hessian_tasks.problem import LossTerm, Problem
from hessian_tasks.problems.networks import mlp
from hessian_tasks.problems.sampling import uniform

__all__ = ["exact_solution", "problem"]

INTERVAL = [(-1.0, 1.0)]


def exact_solution(points: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """The function without noise at points ``[N, 1]``, as ``[N, 1]``."""
    return np.asarray(np.sin(np.pi * points) + np.sin(3 * np.pi * points) / 2)


def _squared_error(model: Any, x: Any, y: Any) -> Any:
    return tf.reduce_mean(tf.square(model(x) - y))


def problem(
    width: int = 50,
    depth: int = 3,
    num_samples: int = 200,
    noise: float = 0.1,
    seed: int = 0,
    dtype: str = "float32",
) -> Problem:
    """Build the problem.

    Args:
        width: Units of each hidden layer.
        depth: Number of hidden layers.
        num_samples: Number of samples.
        noise: Standard deviation of the noise.
        seed: Seed of the samples and of the initial weights.
        dtype: Dtype of the network.
    """
    rng = np.random.default_rng(seed)
    x = uniform(num_samples, INTERVAL, rng)
    y = exact_solution(x) + rng.normal(0.0, noise, x.shape)
    return Problem(
        model=mlp(1, width=width, depth=depth, seed=seed, dtype=dtype),
        coordinates=("x",),
        terms=[LossTerm("fit", loss=_squared_error, data={"x": x, "y": y})],
        exact_solution=exact_solution,
    )
