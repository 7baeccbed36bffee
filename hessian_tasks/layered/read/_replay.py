"""Whether the custom gradients in a piece of a graph are its derivatives.

Functions made from a graph forget the gradients of ``tf.custom_gradient``. That is no loss where
these are the derivatives in another form, as that of ``swish`` is, which saves memory. But
a straight-through estimator or a clipped gradient is something else on purpose, and automatic
differentiation of the network respects it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from hessian_tasks.jets import Tensor
from hessian_tasks.layered.read._subgraph import make_function

__all__ = ["replays"]

Array: TypeAlias = npt.NDArray[Any]

NUM_SAMPLES = 16

# Of the values at which derivatives are compared: custom gradients mend kinks, which mostly are
# at 0, and what overflows far from it.
MAGNITUDES = (0.0, 0.3, 1.0, 3.0, 100.0)

# Second derivatives too: a gradient may be right while its own, again custom or stopped, is not.
ORDER = 2

# Gradients are linear in what arrives from above: this meets any bound on it. A power of two
# rounds nothing.
SCALE = 2.0**20


def replays(output: Tensor, boundary: Sequence[Tensor], constants: Mapping[str, Array]) -> bool:
    """Whether the derivatives of :func:`make_function`'s function are those of the graph.

    Args:
        output: Tensor of the traced graph, to which operations are added.
        boundary: Tensors of the same graph.
        constants: Values of tensors that the graph captures, by name.
    """
    rng = np.random.default_rng(0)
    directions = [_draw(tensor, rng) for tensor in [output, *boundary]]
    with output.graph.as_default():
        custom = make_function(_slopes(output, boundary, directions), boundary, constants)
    plain = make_function(output, boundary, constants)

    def both(*tensors: Tensor) -> tuple[Tensor, Tensor]:
        return custom(*tensors), _slopes(plain(*tensors), tensors, directions)

    values = [_draw(tensor, rng) for tensor in boundary]
    specs = [tf.TensorSpec(value.shape, value.dtype) for value in values]
    compiled = tf.function(both, autograph=False).get_concrete_function(*specs)
    scaled = ([tf.constant(size * value) for value in values] for size in MAGNITUDES)
    return all(_agree(*compiled(*tensors)) for tensors in scaled)


def _draw(tensor: Tensor, rng: np.random.Generator) -> Array:
    shape = [NUM_SAMPLES if size is None else size for size in tensor.shape]
    return rng.normal(size=shape).astype(tensor.dtype.as_numpy_dtype)


def _slopes(output: Tensor, inputs: Sequence[Tensor], directions: Sequence[Array]) -> Tensor:
    """Gradients of F = Σ w₀ y, then of the derivative of F along the other w, and so on."""
    total = tf.reduce_sum(SCALE * directions[0] * output)
    found = []
    for _ in range(ORDER):
        slopes = tf.gradients(total, inputs, stop_gradients=inputs, unconnected_gradients="zero")
        found += [tf.reshape(slope, [-1]) / SCALE for slope in slopes]
        pairs = zip(directions[1:], slopes, strict=True)
        total = tf.add_n([tf.reduce_sum(direction * slope) for direction, slope in pairs])
    return tf.concat(found, axis=0)


def _agree(found: Tensor, expected: Tensor) -> bool:
    """Whether two vectors agree in half of their digits: custom gradients may round better."""
    values = expected.numpy()
    half = float(np.sqrt(np.finfo(values.dtype).eps))
    size = float(np.abs(values[np.isfinite(values)]).max(initial=0.0))
    return np.allclose(found.numpy(), values, rtol=half, atol=half * size, equal_nan=True)
