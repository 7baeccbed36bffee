"""Keras models: what the rest asks of one, and the parameter vector that is its weights."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import keras
import numpy as np
import numpy.typing as npt

from hessian_tasks.errors import HessianError, ModelError, plain
from hessian_tasks.parameters import ParameterLayout

__all__ = [
    "assign_weights",
    "dtype_of",
    "get_theta",
    "inner_layers",
    "kept_weights",
    "parameter_layout",
    "resolve_model",
    "set_theta",
    "trainable_variables",
]


def resolve_model(model: Any) -> Any:
    """The built Keras model, from itself or from a factory.

    Raises:
        ModelError: If it is neither, or not built yet.
    """
    if not isinstance(model, keras.Model):
        if not callable(model):
            raise ModelError(
                f"Problem.model is a {type(model).__name__}; expected a Keras model or a "
                "function without arguments that returns one."
            )
        model = _call_factory(model)
    if not isinstance(model, keras.Model):
        raise ModelError(f"The model factory returned a {type(model).__name__}, no Keras model.")
    if not model.built:
        raise ModelError(
            f"Model {model.name!r} is not built, so it has no weights yet. Start it with "
            "keras.Input, or call it once on points."
        )
    return model


def _call_factory(factory: Callable[[], Any]) -> Any:
    try:
        return factory()
    except HessianError:
        raise
    except (Exception, SystemExit) as error:
        raise ModelError(
            f"Problem.model, which builds the network, failed: {type(error).__name__}: "
            f"{plain(error)}"
        ) from error


def inner_layers(model: Any) -> list[Any]:
    """The layers that compute something, nested ones too.

    Inputs do not, and neither do Sequential and functional models, which only pass on.
    """
    return [
        layer
        for layer in model._flatten_layers()
        if getattr(layer, "inputs", None) is None and not isinstance(layer, keras.layers.InputLayer)
    ]


def trainable_variables(model: Any) -> list[Any]:
    """The ``tf.Variable`` objects that make up θ, in order."""
    return [weight.value for weight in model.trainable_weights]


def parameter_layout(model: Any) -> ParameterLayout:
    """The parameter table of a built model.

    Raises:
        ModelError: If it has no trainable weights.
    """
    # Keras prefixes the model's own name to the paths of a model that was built from code,
    # and not to those of the same model loaded from a file.
    prefix = f"{model.name}/"
    return ParameterLayout.of(
        [(w.path.removeprefix(prefix), tuple(w.shape)) for w in model.trainable_weights]
    )


def dtype_of(model: Any) -> str:
    """``"float32"`` or ``"float64"``, the dtype that all trainable weights share.

    A network that is held fixed has that of its other weights.

    Raises:
        ModelError: If they differ, or are of another type.
    """
    weights = model.trainable_weights or model.non_trainable_weights
    dtypes = sorted({str(w.dtype) for w in weights})
    if len(dtypes) != 1 or dtypes[0] not in ("float32", "float64"):
        raise ModelError(
            f"The trainable weights have dtypes {dtypes}; expected all float32 or all float64."
        )
    return dtypes[0]


def get_theta(model: Any, *, trainable: bool = True) -> npt.NDArray[Any]:
    """The weights, flattened in C order and concatenated.

    Args:
        model: A built Keras model.
        trainable: The trainable weights, θ ``[P]``; if false, the others, such as
            the moving statistics of batch normalisation, as float64.
    """
    weights = model.trainable_weights if trainable else model.non_trainable_weights
    parts = [np.asarray(w.numpy()).reshape(-1) for w in weights]
    return np.concatenate(parts) if parts else np.zeros(0)


@contextmanager
def kept_weights(model: Any) -> Iterator[None]:
    """Put back at the end, whatever happens, the weights that the model has now."""
    before = {trainable: get_theta(model, trainable=trainable) for trainable in (True, False)}
    try:
        yield
    finally:
        for trainable, values in before.items():
            set_theta(model, values, trainable=trainable)


def set_theta(model: Any, theta: npt.NDArray[Any], *, trainable: bool = True) -> None:
    """Write back what :func:`get_theta` read.

    Raises:
        ModelError: If the number of weights differs.
    """
    weights = model.trainable_weights if trainable else model.non_trainable_weights
    sizes = [int(np.prod(w.shape)) for w in weights]
    if sum(sizes) != len(theta):
        raise ModelError(
            f"The model has {sum(sizes)} {'' if trainable else 'non-'}trainable parameters, "
            f"but {len(theta)} were given: these weights belong to another architecture."
        )
    offsets = np.cumsum([0, *sizes])
    values = [theta[start:stop] for start, stop in itertools.pairwise(offsets)]
    assign_weights(model, weights, values)


def assign_weights(model: Any, weights: Sequence[Any], values: Sequence[npt.NDArray[Any]]) -> None:
    """Assign values, in the weights' own shapes and dtypes, to weights of a model."""
    for weight, value in zip(weights, values, strict=True):
        weight.assign(value.reshape(weight.shape).astype(weight.dtype))
    for layer in inner_layers(model):
        # Normalization computes with what it made of its weights when it was adapted.
        if layer.weights and hasattr(layer, "finalize_state"):
            layer.finalize_state()
