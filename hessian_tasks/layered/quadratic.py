"""A term's loss to second order in the network's jets at its points.

The loss of a term depends on θ only through the jets u = (u, u_x, …) at its points,

    H = (∂u/∂θ)ᵀ ℓ''(u) (∂u/∂θ) + Σ ℓ'(u) ∂²u/∂θ²,

so that ℓ' and ℓ'' at θ are all that the engine needs to know of the residual; they are numbers,
found here by automatic differentiation once a term.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from hessian_tasks.errors import NotLayeredError
from hessian_tasks.jets import Jet, Tensor
from hessian_tasks.layered.streams import Index
from hessian_tasks.loss import residual_columns
from hessian_tasks.problem import ResidualTerm

__all__ = [
    "QuadraticModel",
    "check_pointwise",
    "differentiate_twice",
    "evaluate",
    "expand_residual",
]


@dataclass(frozen=True)
class QuadraticModel:
    """First and second derivatives of a term's loss at each point.

    Attributes:
        slope: ``∂ℓ/∂u`` ``[N, R, outputs]``, R the number of derivatives that the term uses.
        curvature: ``∂²ℓ/∂u∂u`` ``[N, R, outputs, R, outputs]``.
        jacobian: ``∂r/∂u`` ``[N, C, R, outputs]`` for the C components of the residual.
    """

    slope: npt.NDArray[np.float64]
    curvature: npt.NDArray[np.float64]
    jacobian: npt.NDArray[np.float64]


def expand_residual(
    term: ResidualTerm,
    coordinates: Sequence[str],
    indices: Sequence[Index],
    jets: npt.NDArray[Any],
) -> QuadraticModel:
    """Expand a residual term at given jets.

    Args:
        term: The term.
        coordinates: Names of the columns of its points.
        indices: The R derivatives that it uses.
        jets: Their values ``[N, R, outputs]``, in the model's dtype.

    Raises:
        NotLayeredError: If the residual at one point depends on the jets at others.
    """
    points = np.asarray(term.points, jets.dtype)

    def expand(u: Tensor) -> tuple[Tensor, ...]:
        columns = tf.unstack(u, axis=1)
        jet = Jet.of(dict(zip(indices, columns, strict=True)), coordinates)
        residual = residual_columns(term, tf.constant(points), jet)
        loss = term.weight / float(np.prod(residual.shape)) * tf.reduce_sum(tf.square(residual))
        jacobian = [_gradient(r, u) for r in tf.unstack(residual, axis=1)]
        return *differentiate_twice(loss, u), tf.stack(jacobian, axis=1)

    slope, curvature, coupling, jacobian = evaluate(expand, jets)
    check_pointwise(coupling, curvature)
    return QuadraticModel(slope, curvature, jacobian)


def differentiate_twice(loss: Tensor, u: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Derivatives of a loss that adds up over points; call it inside ``tf.function``.

    Args:
        loss: The loss.
        u: What it depends on, ``[N, R, outputs]``.

    Returns:
        ``∂ℓ/∂u`` ``[N, R, outputs]``, the blocks of ``∂²ℓ/∂u∂u`` of each point
        ``[N, R, outputs, R, outputs]``, and what is left of ``(∂²ℓ/∂u∂u) v`` without them: zero
        if no point is coupled to another.
    """
    num_points, *shape = u.shape
    slope = _gradient(loss, u)
    entries = tf.unstack(tf.reshape(slope, [num_points, -1]), axis=1)
    rows = tf.stack([_gradient(entry, u) for entry in entries], axis=1)
    # Summed over points, the rows would hide a coupling between them; ℓ'' v does not.
    vector = tf.random.stateless_normal([num_points, len(entries)], (7, 11), dtype=u.dtype)
    product = _gradient(tf.reduce_sum(tf.stack(entries, axis=1) * vector), u)
    coupling = product - tf.einsum("na,narq->nrq", vector, rows)
    return slope, tf.reshape(rows, [num_points, *shape, *shape]), coupling


def evaluate(
    function: Callable[[Tensor], tuple[Tensor, ...]], values: npt.NDArray[Any]
) -> list[npt.NDArray[np.float64]]:
    """Trace a function of a tensor and call it once."""
    argument = tf.constant(values)
    # Traced here: TensorFlow takes the traces of many terms for a mistake and warns.
    compiled = tf.function(function, autograph=False).get_concrete_function(argument)
    return [tensor.numpy().astype(np.float64) for tensor in compiled(argument)]


def check_pointwise(coupling: npt.NDArray[np.float64], curvature: npt.NDArray[np.float64]) -> None:
    """Refuse a loss that couples points.

    Raises:
        NotLayeredError: If it does.
    """
    if np.abs(coupling).max() > 1e-3 * np.abs(curvature).max():
        raise NotLayeredError("couples its points")


def _gradient(y: Tensor, u: Tensor) -> Tensor:
    gradient = tf.gradients(y, u)[0]
    return tf.zeros_like(u) if gradient is None else gradient
