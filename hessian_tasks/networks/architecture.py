"""Networks as data: their architecture as JSON, and networks rebuilt from it."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from typing import Any

import keras

from hessian_tasks.errors import ModelError, plain
from hessian_tasks.networks._vetted import check_config, texts_of
from hessian_tasks.networks.models import get_theta, set_theta
from hessian_tasks.networks.numerics import compute_the_same

__all__ = ["count_weights", "model_config", "model_from_config"]


def model_config(model: Any, num_coordinates: int = 0) -> str | None:
    """The architecture as JSON, or None where Keras cannot rebuild the network safely from it.

    Subclassed models without ``get_config``, Lambda layers, and layers that compute something
    else once they are rebuilt give None; only their problem's own code builds such a network.

    Args:
        model: A built Keras model.
        num_coordinates: Width of its input where the model does not say.
    """
    # Whatever goes wrong here means the same.
    try:
        config: str = json.dumps(keras.saving.serialize_keras_object(model))
        rebuilt = model_from_config(config)
        for trainable in (True, False):
            set_theta(rebuilt, get_theta(model, trainable=trainable), trainable=trainable)
        shapes = [tuple(w.shape) for w in model.weights]
        same = [tuple(w.shape) for w in rebuilt.weights] == shapes
        return config if same and compute_the_same(model, rebuilt, num_coordinates) else None
    except Exception:
        return None


def model_from_config(config: str, num_weights: int | None = None, like: Any = None) -> Any:
    """Rebuild a model from :func:`model_config`'s JSON, its weights yet to be set.

    The config may come from a stranger. Only what networks are made of is built: Keras' layers,
    initializers and the like, and classes that the problem's own code has registered and its
    network uses; none that hold code or read files. Nothing is allocated before the number of
    weights is known to be right.

    Args:
        config: The JSON.
        num_weights: How many weights the network has to have, trainable or not.
        like: The problem's own network, if classes beside Keras' own have to be some of its.

    Raises:
        ModelError: If it is no such network.
    """
    try:
        check_config(json.loads(config), None if like is None else texts_of(like))
        if num_weights is not None:
            _check_size(config, num_weights)
        return _deserialize(config)
    except ModelError:
        raise
    # Keras raises whatever its layers do.
    except Exception as error:
        raise ModelError(
            f"The network cannot be rebuilt from its config ({type(error).__name__}: "
            f"{plain(error)})."
        ) from error


def count_weights(build: Callable[[], Any], least: int, most: int) -> None:
    """Find out how many weights a network has before any of them is allocated.

    Args:
        build: Builds the network.
        least: How many it has to have.
        most: How many it may have.

    Raises:
        ModelError: If they are fewer or more.
    """
    # In this scope weights have shapes and no values.
    with keras.StatelessScope(initialize_variables=False):
        found = sum(math.prod(weight.shape) for weight in build().weights)
    if not least <= found <= most:
        keras.utils.clear_session()  # or Keras would give them values later
        expected = f"{most} were recorded" if least == most else f"at most {most} can be"
        raise ModelError(f"The network's config describes {found} weights, but {expected}.")


def _deserialize(config: str) -> Any:
    # Keras empties what it reads, so that each reading starts from the text.
    return keras.saving.deserialize_keras_object(json.loads(config), safe_mode=True)


def _check_size(config: str, num_weights: int) -> None:
    count_weights(lambda: _deserialize(config), num_weights, num_weights)
