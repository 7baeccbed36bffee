"""A term's loss to second order in the network's jets at its points.

The loss of a term depends on θ only through the jets u = (u, u_x, …) at its points,

    H = (∂u/∂θ)ᵀ ℓ''(u) (∂u/∂θ) + Σ ℓ'(u) ∂²u/∂θ²,

so that ℓ' and ℓ'' at θ are all that the engine needs to know of the residual; they are numbers,
found here by automatic differentiation once a term.
"""

from __future__ import annotations

from collections.abc import Sequence
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
        slope = _gradient(loss, u)
        jacobian = [_gradient(r, u) for r in tf.unstack(residual, axis=1)]
        entries = tf.unstack(tf.reshape(slope, [len(points), -1]), axis=1)
        rows = tf.stack([_gradient(entry, u) for entry in entries], axis=1)
        # Summed over points, the rows would hide a coupling between them; ℓ'' v does not.
        vector = tf.random.stateless_normal([len(points), len(entries)], (7, 11), dtype=u.dtype)
        product = _gradient(tf.reduce_sum(tf.stack(entries, axis=1) * vector), u)
        coupling = product - tf.einsum("na,narq->nrq", vector, rows)
        return slope, rows, tf.stack(jacobian, axis=1), coupling

    # Traced here: TensorFlow takes the traces of many terms for a mistake and warns.
    values = tf.constant(jets)
    compiled = tf.function(expand, autograph=False).get_concrete_function(values)
    found = [tensor.numpy().astype(np.float64) for tensor in compiled(values)]
    slope, curvature, jacobian, coupling = found
    if np.abs(coupling).max() > 1e-3 * np.abs(curvature).max():
        raise NotLayeredError(f"the residual of term {term.name!r} couples its points")
    return QuadraticModel(slope, curvature.reshape(*slope.shape, *slope.shape[1:]), jacobian)


def _gradient(y: Tensor, u: Tensor) -> Tensor:
    gradient = tf.gradients(y, u)[0]
    return tf.zeros_like(u) if gradient is None else gradient
