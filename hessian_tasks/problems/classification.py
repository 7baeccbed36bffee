"""Classification: points on the arms of a spiral, told apart by softmax cross-entropy.

The loss is the mean of -log softmax(network(x))[label]. Its Hessian never has full rank:
the same bias added to every output changes nothing.
"""

from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from hessian_tasks.problem import LossTerm, Problem
from hessian_tasks.problems.networks import mlp
from hessian_tasks.problems.sampling import check_number

__all__ = ["problem", "spirals"]


def spirals(
    num_samples: int, num_classes: int, rng: np.random.Generator
) -> dict[str, npt.NDArray[Any]]:
    """Draw points from the arms of a spiral in the unit disc.

    Args:
        num_samples: Number of points N, split evenly between the arms, in turn.
        num_classes: Number of arms.
        rng: Source of randomness.

    Returns:
        ``points`` ``[N, 2]``, float64, and ``labels`` ``[N]``, int64.

    Raises:
        ValueError: If the number of points is not positive, or too large.
    """
    check_number(num_samples)
    labels = np.arange(num_samples, dtype=np.int64) % num_classes
    radius = np.sqrt(rng.uniform(0.01, 1.0, num_samples))
    jitter = rng.normal(0.0, 0.15, num_samples)
    angle = 2 * np.pi * labels / num_classes + 4 * radius + jitter
    points = radius[:, np.newaxis] * np.stack([np.cos(angle), np.sin(angle)], axis=1)
    return {"points": points, "labels": labels}


def _cross_entropy(model: Any, points: Any, labels: Any) -> Any:
    logits = model(points)
    return tf.reduce_mean(
        tf.nn.sparse_softmax_cross_entropy_with_logits(labels=labels, logits=logits)
    )


def problem(
    width: int = 50,
    depth: int = 3,
    num_samples: int = 300,
    num_classes: int = 3,
    seed: int = 0,
    dtype: str = "float32",
) -> Problem:
    """Build the problem.

    Args:
        width: Units of each hidden layer.
        depth: Number of hidden layers.
        num_samples: Number of points of all classes together.
        num_classes: Number of classes, one output and one arm of the spiral each.
        seed: Seed of the points and of the initial weights.
        dtype: Dtype of the network.
    """
    rng = np.random.default_rng(seed)
    return Problem(
        model=mlp(2, num_classes, width=width, depth=depth, seed=seed, dtype=dtype),
        coordinates=("x", "y"),
        terms=[
            LossTerm("fit", loss=_cross_entropy, data=spirals(num_samples, num_classes, rng)),
        ],
    )
