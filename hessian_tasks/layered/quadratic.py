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

__all__ = ["QuadraticModel", "expand_residual"]


@dataclass(frozen=True)
class QuadraticModel:
    """First and second derivatives of a term's loss at each point.

    Attributes:
        slope: ``∂ℓ/∂u`` ``[N, R, outputs]``, R the number of derivatives that the term uses.
        curvature: ``∂²ℓ/∂u∂u`` ``[N, R, outputs, R, outputs]``.
        jacobian: ``√(2|w| / (N C)) ∂r/∂u`` ``[N, C, R, outputs]`` for the C components of the
            residual, so that the Gauss-Newton matrix is ``± Σ jacobianᵀ jacobian``.
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
    expand = _compile(term, coordinates, indices, jets)
    side = jets.shape[1] * jets.shape[2]
    units = np.eye(side).reshape(side, *jets.shape[1:])
    curvature = np.stack([expand(unit)[2] for unit in units], axis=1)
    curvature = curvature.reshape(*jets.shape, *jets.shape[1:])
    # With one unit vector for all points, a coupling between them would go unnoticed.
    vector = np.random.default_rng(7).normal(size=jets.shape)
    slope, jacobian, product = expand(vector)
    coupling = product - np.einsum("nrq,nrqsp->nsp", vector, curvature)
    if np.abs(coupling).max() > 1e-3 * np.abs(curvature).max():
        raise NotLayeredError(f"the residual of term {term.name!r} couples its points")
    return QuadraticModel(slope, curvature, jacobian)


def _compile(
    term: ResidualTerm,
    coordinates: Sequence[str],
    indices: Sequence[Index],
    jets: npt.NDArray[Any],
) -> Callable[[npt.NDArray[np.float64]], list[npt.NDArray[np.float64]]]:
    """A function of v that gives ℓ', the Jacobian of the residual, and ℓ'' v, all at the jets."""
    points = np.asarray(term.points, jets.dtype)

    def expand(u: Tensor, vector: Tensor) -> tuple[Tensor, ...]:
        columns = tf.unstack(u, axis=1)
        jet = Jet.of(dict(zip(indices, columns, strict=True)), coordinates)
        residual = residual_columns(term, tf.constant(points), jet)
        scale = 2 * abs(term.weight) / float(np.prod(residual.shape))
        loss = np.sign(term.weight) * scale / 2 * tf.reduce_sum(tf.square(residual))
        slope = _gradient(loss, u)
        jacobian = [np.sqrt(scale) * _gradient(r, u) for r in tf.unstack(residual, axis=1)]
        return slope, tf.stack(jacobian, axis=1), _gradient(tf.reduce_sum(slope * vector), u)

    spec = tf.TensorSpec(jets.shape, jets.dtype)
    compiled = tf.function(expand, autograph=False).get_concrete_function(spec, spec)

    def at(vector: npt.NDArray[np.float64]) -> list[npt.NDArray[np.float64]]:
        found = compiled(
            tf.constant(jets), tf.constant(np.broadcast_to(vector, jets.shape), jets.dtype)
        )
        return [tensor.numpy().astype(np.float64) for tensor in found]

    return at


def _gradient(y: Tensor, u: Tensor) -> Tensor:
    gradient = tf.gradients(y, u)[0]
    return tf.zeros_like(u) if gradient is None else gradient
