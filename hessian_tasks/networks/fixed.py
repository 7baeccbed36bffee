"""What of a network is held fixed: weights that are not trained, and layers that infer."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from typing import Any

__all__ = ["FixedParts", "fixed_parts", "random_states"]

# Names of classes, so that reading a store imports no Keras.
KINDS = {"BatchNormalization", "Dropout", "GaussianDropout", "GaussianNoise"}


@dataclass(frozen=True)
class FixedParts:
    """Weights and layers of a network that do not do what they would in training.

    Attributes:
        weights: Number of weights that are not trainable, by layer.
        inference: Layers that behave otherwise in training, and are in inference mode.
    """

    weights: dict[str, int]
    inference: list[str]


def fixed_parts(model: Any) -> FixedParts:
    """What of a built model is held fixed.

    Example:
        >>> import keras
        >>> layers = [keras.layers.Dense(3, name="features"), keras.layers.Dense(1)]
        >>> net = keras.Sequential([keras.Input((2,)), *layers])
        >>> layers[0].trainable = False
        >>> fixed_parts(net)
        FixedParts(weights={'features': 9}, inference=[])
    """
    weights: Counter[str] = Counter()
    prefix = f"{model.name}/"
    for weight in model.non_trainable_weights:
        layer = weight.path.removeprefix(prefix).rpartition("/")[0]
        weights[layer] += math.prod(weight.shape)
    layers = dict.fromkeys(model._flatten_layers(include_self=False))
    names = [f"{layer.name} ({type(layer).__name__})" for layer in layers if _infers(layer)]
    return FixedParts(dict(weights), names)


def random_states(model: Any) -> dict[str, list[Any]]:
    """The states of a model's generators of random numbers, by layer; a number drawn changes them.

    Example:
        >>> import keras
        >>> import numpy as np
        >>> net = keras.Sequential([keras.Input((2,)), keras.layers.Dropout(0.5, name="drop")])
        >>> before = random_states(net)
        >>> _ = net(np.ones((3, 2)))
        >>> before == random_states(net)
        True
        >>> _ = net(np.ones((3, 2)), training=True)
        >>> before == random_states(net)
        False
    """
    return {
        f"{layer.name} ({type(layer).__name__})": [
            generator.state.numpy().tolist() for generator in layer._seed_generators
        ]
        for layer in model._flatten_layers()
        if layer._seed_generators
    }


def _infers(layer: Any) -> bool:
    return any(kind.__name__ in KINDS for kind in type(layer).__mro__)
