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

__all__ = ["QuadraticModel", "differentiate_twice", "expand_residual"]


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
        indices: The derivatives that it uses.
        jets: Their values ``[N, R, outputs]``, in the model's dtype. If it uses the network at
            several points, R counts these derivatives for one after the other.

    Raises:
        NotLayeredError: If the residual at one point depends on the jets at others.
    """
    points = np.asarray(term.points, jets.dtype)

    def loss_and_jacobian(u: Tensor) -> tuple[Tensor, ...]:
        parts = tf.split(u, u.shape[1] // len(indices), axis=1)
        known = [dict(zip(indices, tf.unstack(part, axis=1), strict=True)) for part in parts]
        jet = Jet.of(known, coordinates)
        residual = residual_columns(term, tf.constant(points), jet)
        loss = term.weight / float(np.prod(residual.shape)) * tf.reduce_sum(tf.square(residual))
        jacobian = [_gradient(r, u) for r in tf.unstack(residual, axis=1)]
        return loss, tf.stack(jacobian, axis=1)

    slope, curvature, jacobian = differentiate_twice(loss_and_jacobian, jets)
    return QuadraticModel(slope, curvature, jacobian)


def differentiate_twice(
    function: Callable[[Tensor], tuple[Tensor, ...]], values: npt.NDArray[Any]
) -> tuple[npt.NDArray[np.float64], ...]:
    """Derivatives of a loss that adds up over points.

    Args:
        function: Gives the loss and whatever else is wanted, of the values.
        values: What the loss depends on, ``[N, R, outputs]``.

    Returns:
        ``∂ℓ/∂u`` ``[N, R, outputs]``, ``∂²ℓ/∂u∂u`` of each point
        ``[N, R, outputs, R, outputs]``, and the rest of what the function gives.

    Raises:
        NotLayeredError: If the loss couples points.
    """
    evaluate = _compile(function, values)
    side = values.shape[1] * values.shape[2]
    units = np.eye(side).reshape(side, *values.shape[1:])
    curvature = np.stack([evaluate(unit)[1] for unit in units], axis=1)
    curvature = curvature.reshape(*values.shape, *values.shape[1:])
    # With one unit vector for all points, a coupling between them would go unnoticed.
    vector = np.random.default_rng(7).normal(size=values.shape)
    slope, product, *others = evaluate(vector)
    coupling = product - np.einsum("nrq,nrqsp->nsp", vector, curvature)
    if np.abs(coupling).max() > 1e-3 * np.abs(curvature).max():
        raise NotLayeredError("couples its points")
    return slope, curvature, *others


def _compile(
    function: Callable[[Tensor], tuple[Tensor, ...]], values: npt.NDArray[Any]
) -> Callable[[npt.NDArray[np.float64]], list[npt.NDArray[np.float64]]]:
    """A function of v that gives ``ℓ'``, ``ℓ'' v`` and the rest."""

    def derivatives(u: Tensor, vector: Tensor) -> tuple[Tensor, ...]:
        loss, *others = function(u)
        slope = _gradient(loss, u)
        return slope, _gradient(tf.reduce_sum(slope * vector), u), *others

    spec = tf.TensorSpec(values.shape, values.dtype)
    compiled = tf.function(derivatives, autograph=False).get_concrete_function(spec, spec)

    def evaluate(vector: npt.NDArray[np.float64]) -> list[npt.NDArray[np.float64]]:
        direction = np.broadcast_to(vector, values.shape).astype(values.dtype)
        found = compiled(tf.constant(values), tf.constant(direction))
        return [tensor.numpy().astype(np.float64) for tensor in found]

    return evaluate


def _gradient(y: Tensor, u: Tensor) -> Tensor:
    gradient = tf.gradients(y, u)[0]
    return tf.zeros_like(u) if gradient is None else gradient
