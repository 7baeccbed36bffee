"""The inputs of one network, side by side the columns of a matrix.

A network may take one tensor ``[N, d]``, or several, such as the branch and the trunk of a DeepONet
(L. Lu et al., 2021), or images. Side by side they are a matrix with a row for each point, by whose
columns the network is differentiated.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Any, TypeAlias

import keras
import tensorflow as tf

from hessian_tasks.jets import Derivative, Derivatives, Tensor, evaluate_by

__all__ = ["EvaluateInputs", "Inputs", "evaluate_inputs"]

EvaluateInputs: TypeAlias = Callable[[Sequence[Tensor]], Derivatives]
"""Evaluates a network at its inputs, whose columns number the axes of derivatives."""


@dataclass(frozen=True)
class Inputs:
    """The inputs of one network.

    Attributes:
        names: Their names, as far as they have any of their own.
        shapes: Their shapes at a point: of images as many numbers as columns of the matrix. That of
            a network that does not say is ``(0,)``.
        packed: What the network takes: ``"tensor"``, ``"list"`` or ``"dict"``.
    """

    names: tuple[str, ...]
    shapes: tuple[tuple[int, ...], ...]
    packed: str

    @classmethod
    def of(cls, network: Any, num_coordinates: int = 0) -> Inputs:
        """Ask a network for its inputs.

        Args:
            network: A built Keras model.
            num_coordinates: Number of columns of a single input where the network does not say.

        Example:
            >>> import keras
            >>> branch, trunk = keras.Input((100,), name="branch"), keras.Input((2,), name="trunk")
            >>> both = keras.layers.concatenate([branch, trunk])
            >>> Inputs.of(keras.Model([branch, trunk], keras.layers.Dense(1)(both)))
            Inputs(names=('branch', 'trunk'), shapes=((100,), (2,)), packed='list')
        """
        shapes = _shapes(network)
        if isinstance(shapes, Mapping):
            names, packed = tuple(shapes), "dict"
        elif isinstance(shapes, list):
            names, packed = _names(network, len(shapes)), "list"
        else:
            shape = _at_a_point(shapes)
            return cls(("",), (shape if any(shape) else (num_coordinates,),), "tensor")
        entries = shapes.values() if isinstance(shapes, Mapping) else shapes
        return cls(names, tuple(map(_at_a_point, entries)), packed)

    @property
    def widths(self) -> tuple[int, ...]:
        """Their numbers of columns."""
        return tuple(map(math.prod, self.shapes))

    @property
    def width(self) -> int:
        """Columns of all."""
        return sum(self.widths)

    def split(self, matrix: Tensor) -> list[Tensor]:
        """The inputs, from the matrix of all of them ``[N, width]``."""
        if len(self.widths) == 1:
            return [matrix]
        return [matrix[:, a:b] for a, b in pairwise(accumulate(self.widths, initial=0))]

    def pack(self, parts: Sequence[Tensor]) -> Any:
        """What the network is called with."""
        shaped = [
            tf.reshape(part, (-1, *shape)) if len(shape) > 1 else part
            for part, shape in zip(parts, self.shapes, strict=True)
        ]
        if self.packed == "dict":
            return dict(zip(self.names, shaped, strict=True))
        return shaped if self.packed == "list" else shaped[0]

    def unpack(self, given: Any) -> list[Tensor]:
        """The inputs of a call, the opposite of :meth:`pack`.

        Raises:
            ValueError: If there are others.
        """
        if isinstance(given, Mapping):
            parts = [given[name] for name in self.names if name in given]
        else:
            parts = list(given) if isinstance(given, list | tuple) else [given]
        if len(parts) != len(self.names) or (self.packed == "dict") > isinstance(given, Mapping):
            raise ValueError(f"{len(parts)} inputs")
        tensors = [tf.convert_to_tensor(part) for part in parts]
        return [
            tf.reshape(tensor, (-1, math.prod(shape)))
            if len(shape) > 1 and tensor.shape[1:] == shape
            else tensor
            for tensor, shape in zip(tensors, self.shapes, strict=True)
        ]


def _shapes(network: Any) -> Any:
    """Shapes of the inputs: a list of them, a dictionary, or of one alone, or None."""
    inputs = getattr(network, "inputs", None)
    if inputs is None:
        # A subclassed model knows what it was built for.
        shape = (network.get_build_config() or {}).get("input_shape") or ()
        nested = any(isinstance(entry, list | tuple) for entry in shape)
        return shape if isinstance(shape, Mapping) or not nested else list(shape)
    structure = None if isinstance(network, keras.Sequential) else network.input
    if isinstance(structure, Mapping):
        return {name: tuple(entry.shape) for name, entry in structure.items()}
    shapes = [tuple(entry.shape) for entry in inputs]
    return shapes if len(shapes) > 1 else shapes[0]


def _names(network: Any, count: int) -> tuple[str, ...]:
    names = [str(entry.name) for entry in getattr(network, "inputs", None) or []]
    # Keras numbers what has no name.
    return tuple("" if n.startswith("keras_tensor") else n for n in names) or ("",) * count


def _at_a_point(shape: Any) -> tuple[int, ...]:
    return tuple(int(size or 0) for size in shape[1:]) or (0,)


def evaluate_inputs(network: Any, inputs: Inputs, derivative: Derivative) -> EvaluateInputs:
    """Evaluate a network at its inputs, and differentiate it as far as it is asked.

    Args:
        network: The Keras model.
        inputs: What it takes.
        derivative: How to differentiate along a column.
    """

    def function(matrix: Tensor) -> Tensor:
        return network(inputs.pack(inputs.split(matrix)))

    def evaluate(parts: Sequence[Tensor]) -> Derivatives:
        matrix = tf.concat(list(parts), axis=1) if len(parts) > 1 else parts[0]
        return evaluate_by(function, derivative)(matrix)

    return evaluate
