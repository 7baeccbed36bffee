"""What a network computes, found out by evaluating it at random inputs."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from hessian_tasks.errors import ModelError
from hessian_tasks.networks.models import dtype_of, inner_layers

__all__ = ["check_precision", "compute_the_same", "evaluated_somewhere", "is_piecewise_linear"]

Array = npt.NDArray[Any]

NUM_POINTS = 64
# Of which so many tell whether a network has curvature.
NUM_SPREAD = 8
# Relative steps of the inputs: one that float32 does not resolve, and one that it does.
FINE, COARSE = 2.0**-40, 2.0**-12


def compute_the_same(one: Any, other: Any, num_coordinates: int = 0) -> bool:
    """Whether two networks are the same function, up to rounding, at random inputs.

    Outputs may differ by the root of the coarser dtype's precision: rounding grows through the
    layers, while another activation changes the first digits.

    Args:
        one: A built Keras model.
        other: Another one.
        num_coordinates: Width of the input where the model does not say; if that is not known
            either, the answer is yes.

    Example:
        >>> import keras
        >>> def network(activation):
        ...     dense = keras.layers.Dense(2, activation, kernel_initializer="ones")
        ...     return keras.Sequential([keras.Input((1,)), dense])
        >>> compute_the_same(network("tanh"), network("tanh"))
        True
        >>> compute_the_same(network("tanh"), network("relu"))
        False
    """
    inputs = _random_inputs(one, num_coordinates)
    if inputs is None:
        return True
    first, second = (_outputs(model, inputs) for model in (one, other))
    precision = max(np.finfo(dtype).eps for m in (one, other) for dtype in _dtypes(m))
    return len(first) == len(second) and all(
        a.shape == b.shape
        and np.allclose(a, b, rtol=0.0, atol=precision**0.5 * _size(a), equal_nan=True)
        for a, b in zip(first, second, strict=True)
    )


def evaluated_somewhere(model: Any, num_coordinates: int = 0) -> bool:
    """Evaluate a network at random inputs; whether the shapes of these are known.

    Args:
        model: A built Keras model.
        num_coordinates: Width of its input where the model does not say.
    """
    inputs = _random_inputs(model, num_coordinates)
    if inputs is not None:
        _outputs(model, inputs)
    return inputs is not None


def check_precision(model: Any, num_coordinates: int = 0) -> None:
    """Refuse a network that computes in fewer digits than its weights have.

    Layers of mixed precision say so. That Keras casts what a layer is given does not show in
    the result's dtype: it is found by inputs that float32 takes for the same.

    Args:
        model: A built Keras model.
        num_coordinates: Width of its input where the model does not say.

    Raises:
        ModelError: Naming a layer and its dtype.
    """
    for layer in inner_layers(model):
        if layer.compute_dtype != layer.variable_dtype:
            raise ModelError(
                f"Layer {layer.name!r} computes in {layer.compute_dtype}, but its weights are "
                f"{layer.variable_dtype}: the Hessian would be no better than "
                f"{layer.compute_dtype}. Pass dtype={layer.variable_dtype!r} to it."
            )
    if dtype_of(model) == "float64" and _casts(model, num_coordinates):
        raise ModelError(
            "The network's weights are float64, but it takes inputs that float32 does not tell "
            f"apart for the same: something in it casts to float32{_suspects(model)}. "
            'Pass dtype="float64" to keras.Input and every layer, and in a subclassed model write '
            'super().__init__(dtype="float64").'
        )


def is_piecewise_linear(model: Any, num_coordinates: int = 0) -> bool:
    """Whether a network has no curvature at any of some random inputs, as one of ``relu``.

    Args:
        model: A built Keras model; of one that cannot be asked, as it takes no rows of numbers or
            not so few of them, the answer is no.
        num_coordinates: Width of its input where the model does not say.

    Example:
        >>> from hessian_tasks.problems.networks import mlp
        >>> import keras
        >>> relu = keras.Sequential([keras.Input((1,)), keras.layers.Dense(3, "relu")])
        >>> is_piecewise_linear(relu), is_piecewise_linear(mlp(1, width=3, depth=1))
        (True, False)
    """
    inputs = _random_inputs(model, num_coordinates)
    entries = tf.nest.flatten(inputs)
    if inputs is None or any(entry.ndim != 2 for entry in entries):
        return False
    rng = np.random.default_rng(3)
    dtype = dtype_of(model)
    given = tf.nest.map_structure(lambda x: tf.constant(x[:NUM_SPREAD], dtype), inputs)
    points = tf.nest.flatten(given)
    along = [tf.constant(rng.normal(size=tuple(x.shape)), dtype) for x in points]

    def total() -> Any:
        outputs = tf.nest.flatten(model(given))
        return tf.add_n([tf.reduce_sum(y * rng.normal(size=y.shape)) for y in outputs])

    try:
        curvature = _along(total, points, along)
    except Exception:  # whatever a network says to inputs that it was not made for
        return False
    return not any(np.any(tensor.numpy()) for tensor in curvature)


def _along(total: Any, points: list[Any], along: list[Any]) -> list[Any]:
    """The second derivatives of a scalar along directions, those by the points they are of."""
    with tf.GradientTape() as outer:
        outer.watch(points)
        with tf.GradientTape() as inner:
            inner.watch(points)
            value = total()
        slopes = inner.gradient(value, points, unconnected_gradients="zero")
        slope = tf.add_n([tf.reduce_sum(g * a) for g, a in zip(slopes, along, strict=True)])
    found: list[Any] = outer.gradient(slope, points, unconnected_gradients="zero")
    return found


def _suspects(model: Any) -> str:
    names = [repr(layer.name) for layer in inner_layers(model) if layer.compute_dtype == "float32"]
    if any(str(entry.dtype) == "float32" for entry in getattr(model, "inputs", None) or []):
        names.insert(0, "its input")
    return f" (of that dtype: {', '.join(names)})" if names else ""


def _casts(model: Any, num_coordinates: int) -> bool:
    inputs = _random_inputs(model, num_coordinates)
    if inputs is None:
        return False

    def moved(step: float) -> Array:
        return _columns(_outputs(model, tf.nest.map_structure(lambda x: x * (1 + step), inputs)))

    here, fine, coarse = (moved(step) for step in (0.0, FINE, COARSE))
    # Where the network is steep enough, the fine step would show in the last digits of float64.
    change = np.abs(coarse - here) * (FINE / COARSE)
    steep = change > 8 * np.finfo(np.float64).eps * np.abs(here)
    # In single entries a value may come out the same by chance.
    return bool(steep.sum() >= NUM_POINTS // 8 and np.mean((fine == here)[steep]) > 0.9)


def _random_inputs(model: Any, num_coordinates: int) -> Any:
    """Inputs that float32 holds exactly, or None if their shapes are not known."""
    rng = np.random.default_rng(0)

    def draw(shape: tuple[int, ...]) -> Array:
        size = (NUM_POINTS, *shape)
        values = rng.uniform(0.5, 1.0, size) * rng.choice([-1.0, 1.0], size)
        return np.asarray(values.astype(np.float32), np.float64)

    if getattr(model, "inputs", None) is None:
        return draw((num_coordinates,)) if num_coordinates else None
    structure = model.inputs[0] if len(model.inputs) == 1 else model.input
    entries = tf.nest.flatten(structure)
    known = all(None not in entry.shape[1:] for entry in entries)
    # Numbers of categories and the like are not to be drawn from a continuum.
    if not known or not all("float" in str(entry.dtype) for entry in entries):
        return None
    return tf.nest.map_structure(lambda entry: draw(tuple(entry.shape[1:])), structure)


def _outputs(model: Any, inputs: Any) -> list[Array]:
    dtype = min(_dtypes(model), key=lambda dtype: float(np.finfo(dtype).eps))
    tensors = tf.nest.map_structure(lambda x: tf.constant(x, dtype), inputs)
    return [np.asarray(y, np.float64) for y in tf.nest.flatten(model(tensors))]


def _dtypes(model: Any) -> set[str]:
    return {str(w.dtype) for w in model.weights if str(w.dtype) in ("float32", "float64")}


def _columns(outputs: list[Array]) -> Array:
    return np.concatenate([y.reshape(-1) for y in outputs])


def _size(values: Array) -> float:
    finite = np.abs(values[np.isfinite(values)])
    return float(finite.max(initial=0.0))
