"""Keras models: loading, the parameter vector, and rebuilding from a config."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

import keras
import numpy as np
import numpy.typing as npt

from hessian_tasks.errors import ModelError
from hessian_tasks.parameters import ParameterLayout

__all__ = [
    "dtype_of",
    "get_theta",
    "load_weights_file",
    "model_config",
    "model_from_config",
    "num_inputs",
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
        model = model()
    if not isinstance(model, keras.Model):
        raise ModelError(f"The model factory returned a {type(model).__name__}, no Keras model.")
    if not model.built:
        raise ModelError(
            f"Model {model.name!r} is not built, so it has no weights yet. Start it with "
            "keras.Input, or call it once on points."
        )
    return model


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

    Raises:
        ModelError: If they differ, or are of another type.
    """
    dtypes = sorted({str(w.dtype) for w in model.trainable_weights})
    if len(dtypes) != 1 or dtypes[0] not in ("float32", "float64"):
        raise ModelError(
            f"The trainable weights have dtypes {dtypes}; expected all float32 or all float64."
        )
    return dtypes[0]


def num_inputs(model: Any) -> int:
    """Width of the model's input, or 0 if it does not say.

    Example:
        >>> import keras
        >>> num_inputs(keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)]))
        3
    """
    inputs = getattr(model, "inputs", None) or []
    return int(inputs[0].shape[-1] or 0) if len(inputs) == 1 else 0


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
    for weight, start, stop in zip(weights, offsets, offsets[1:], strict=False):
        weight.assign(theta[start:stop].reshape(weight.shape))


def load_weights_file(path: str | Path, model: Any) -> Any:
    """Load weights from a file.

    A ``.keras`` file holds its own architecture and replaces ``model``; it is loaded
    in safe mode, which runs no code from the file. A ``.weights.h5`` file is loaded
    into ``model``.

    Args:
        path: The file.
        model: The problem's model, or its factory.

    Returns:
        The model with the loaded weights.

    Raises:
        ModelError: If the file is missing, unreadable or does not fit.
    """
    path = Path(path)
    if not path.is_file():
        raise ModelError(f"Weights file {path} does not exist.")
    if not path.name.endswith((".keras", ".weights.h5")):
        raise ModelError(
            f"Weights file {path} has an unknown ending; expected .keras or .weights.h5."
        )
    try:
        if path.suffix == ".keras":
            return keras.saving.load_model(path, compile=False, safe_mode=True)
        model = resolve_model(model)
        model.load_weights(path)
    # Keras documents no common base class: a damaged archive raises OSError, zipfile or
    # HDF5 errors, another architecture ValueError, an unknown class TypeError.
    except Exception as error:
        first_line = str(error).strip().partition("\n")[0]
        raise ModelError(
            f"Weights file {path} cannot be loaded into this problem's network "
            f"({type(error).__name__}: {first_line})."
        ) from error
    return model


def model_config(model: Any) -> str | None:
    """The architecture as JSON, or None where Keras cannot rebuild it safely.

    Subclassed models without ``get_config`` and Lambda layers give None; their
    problem must bring a factory.
    """
    # Whatever goes wrong here means the same: this model is rebuilt by its factory.
    try:
        config: str = json.dumps(keras.saving.serialize_keras_object(model))
        rebuilt = model_from_config(config)
        shapes = [tuple(w.shape) for w in model.weights]
        return config if [tuple(w.shape) for w in rebuilt.weights] == shapes else None
    except Exception:
        return None


def model_from_config(config: str, num_weights: int | None = None) -> Any:
    """Rebuild a model from :func:`model_config`'s JSON, its weights yet to be set.

    The config may come from a stranger. Only what networks are made of is built: Keras' layers,
    initializers and the like, and classes that the problem's own code has registered; none that
    hold code or read files. Nothing is allocated before the number of weights is known to be right.

    Args:
        config: The JSON.
        num_weights: How many weights the network has to have, trainable or not.

    Raises:
        ModelError: If it is no such network.
    """
    try:
        parsed = json.loads(config)
        _check_config(parsed)
        if num_weights is not None:
            _check_size(parsed, num_weights)
        return keras.saving.deserialize_keras_object(parsed, safe_mode=True)
    except ModelError:
        raise
    # Keras raises whatever its layers do.
    except Exception as error:
        first_line = str(error).strip().partition("\n")[0]
        raise ModelError(
            f"The network cannot be rebuilt from its config ({type(error).__name__}: {first_line})."
        ) from error


_MODULES = re.compile(
    r"builtins|keras|keras\.(activations|constraints|dtype_policies|initializers|layers|models|ops"
    r"|regularizers)|keras\.src\.(layers|models|ops)\..*"
)
_UNSAFE = {
    *("Lambda", "TFSMLayer", "TorchModuleWrapper", "JaxLayer", "FlaxLayer"),  # hold or load code
    *("StringLookup", "IntegerLookup", "TextVectorization"),  # read files
}


def _check_config(config: Any) -> None:
    """Refuse what networks are not made of, wherever it is nested.

    Raises:
        ModelError: Naming the class.
    """
    if isinstance(config, list):
        for item in config:
            _check_config(item)
    if not isinstance(config, dict):
        return
    name = config.get("class_name")
    if "config" in config and name is not None:
        module = config.get("module")
        registered = keras.saving.get_registered_object(str(config.get("registered_name")))
        known = module is None or _MODULES.fullmatch(str(module)) is not None
        if registered is None and (not known or name in _UNSAFE):
            raise ModelError(f"The network's config asks for {module}.{name}, which is not built.")
    for item in config.values():
        _check_config(item)


def _check_size(config: Any, num_weights: int) -> None:
    # In this scope weights have shapes and no values.
    with keras.StatelessScope(initialize_variables=False):
        model = keras.saving.deserialize_keras_object(config, safe_mode=True)
        found = sum(math.prod(weight.shape) for weight in model.weights)
    if found != num_weights:
        keras.utils.clear_session()  # or Keras would give them values later
        raise ModelError(
            f"The network's config describes {found} weights, but {num_weights} were recorded."
        )
