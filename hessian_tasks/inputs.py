"""The inputs of networks as columns of one matrix.

A network may take one tensor ``[N, d]``, or several, such as the branch and the trunk of a DeepONet
(L. Lu et al., 2021). Side by side they are a matrix with a row for each point, and several
networks that take different inputs have theirs side by side again: :class:`Joint` is all networks
as one function of such a matrix, which is differentiated by its columns.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Any, TypeAlias

import keras
import numpy as np
import tensorflow as tf

from hessian_tasks.errors import ProblemError
from hessian_tasks.jets import Derivative, Derivatives, Evaluate, Index, Tensor, evaluate_by
from hessian_tasks.models import dtype_of
from hessian_tasks.problem import PointTerm, Problem
from hessian_tasks.trainables import networks_of

__all__ = ["EvaluateInputs", "Feed", "Inputs", "Joint", "evaluate_inputs", "outputs_at"]

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


@dataclass(frozen=True)
class Feed:
    """What a network is given at the points of a term.

    Attributes:
        sources: For every input the name of the data that it takes, or the columns of the points.
        axes: For every coordinate its column among those of all inputs, or None if the network
            does not take it.
    """

    sources: tuple[str | tuple[int, ...], ...]
    axes: tuple[int | None, ...]

    @classmethod
    def of(cls, problem: Problem, term: PointTerm, name: str) -> Feed:
        """Find it out, by the names of inputs.

        Of several inputs those that are named as data of the term take these, an input of one
        column that is named as a coordinate takes that, and the others take the points' columns in
        their order.

        Args:
            problem: The problem, its model resolved.
            term: One of its terms.
            name: The network's name.

        Raises:
            ProblemError: If that leaves columns over or inputs without.
        """
        coordinates = tuple(problem.coordinates)
        inputs = Inputs.of(networks_of(problem.model)[name], len(coordinates))
        if inputs.packed == "tensor":
            whole = tuple(range(len(coordinates)))
            return cls((whole,), whole)
        named = [entry in term.data for entry in inputs.names]
        others = [i for i, is_data in enumerate(named) if not is_data]
        if all(inputs.names[i] in coordinates and inputs.widths[i] == 1 for i in others):
            columns = [tuple([coordinates.index(inputs.names[i])]) for i in others]
        elif sum(inputs.widths[i] for i in others) == len(coordinates):
            edges = accumulate((inputs.widths[i] for i in others), initial=0)
            columns = [tuple(range(a, b)) for a, b in pairwise(edges)]
        else:
            raise ProblemError(_unfed(inputs, term, coordinates))
        taken = dict(zip(others, columns, strict=True))
        sources = tuple(taken.get(i, inputs.names[i]) for i in range(len(named)))
        return cls(sources, _axes(inputs, sources, len(coordinates)))

    def parts(self, points: Tensor, data: Mapping[str, Tensor]) -> list[Tensor]:
        """The inputs, from the points ``[N, d]`` and the term's data."""
        if len(self.sources) == 1:
            return [points]
        return [
            _columns(data[source], points)
            if isinstance(source, str)
            else tf.gather(points, source, axis=1)
            for source in self.sources
        ]

    def evaluate(self, network: EvaluateInputs, data: Mapping[str, Tensor]) -> Evaluate:
        """The network as a function of the points alone, differentiated along coordinates."""

        def evaluate(points: Tensor) -> Derivatives:
            derivatives = network(self.parts(points, data))

            def along_coordinates(index: Index) -> Tensor:
                axes = [self.axes[coordinate] for coordinate in index]
                found = [axis for axis in axes if axis is not None]
                if len(found) < len(axes):
                    return tf.zeros_like(derivatives(()))
                return derivatives(tuple(sorted(found)))

            return along_coordinates

        return evaluate


def _axes(
    inputs: Inputs, sources: Sequence[str | tuple[int, ...]], num_coordinates: int
) -> tuple[int | None, ...]:
    axes: list[int | None] = [None] * num_coordinates
    starts = accumulate(inputs.widths, initial=0)
    for start, source in zip(starts, sources, strict=False):
        if not isinstance(source, str):
            for position, coordinate in enumerate(source):
                axes[coordinate] = start + position
    return tuple(axes)


def _columns(array: Tensor, points: Tensor) -> Tensor:
    return tf.cast(tf.reshape(array, (array.shape[0], -1)), points.dtype)


def _unfed(inputs: Inputs, term: PointTerm, coordinates: Sequence[str]) -> str:
    entries = zip(inputs.names, inputs.widths, strict=True)
    known = ", ".join(f"{name or 'without a name'} [N, {width}]" for name, width in entries)
    return (
        f"Term {term.name!r} cannot tell what the network's inputs are ({known}): at its points it "
        f"has {', '.join(coordinates) or 'no coordinates'}, and the data {sorted(term.data)}. Give "
        "an input the name of the data that it takes, as in keras.Input((100,), name='branch') and "
        "data={'branch': values}, with a row for each point."
    )


class Joint:
    """All networks of a problem as one function of a matrix, their outputs side by side.

    Networks that take inputs of the same widths take the same columns of it; others have columns of
    their own.

    Attributes:
        inputs: The inputs of every network.
        columns: Where they are among the matrix' columns.
        width: Number of its columns.
    """

    def __init__(self, problem: Problem) -> None:
        """Put the inputs side by side.

        Args:
            problem: The problem, its model resolved.
        """
        self._networks = networks_of(problem.model)
        self._coordinates = tuple(problem.coordinates)
        number = len(self._coordinates)
        self.inputs = {name: Inputs.of(n, number) for name, n in self._networks.items()}
        different = dict.fromkeys(inputs.widths for inputs in self.inputs.values())
        edges = list(accumulate(map(sum, different), initial=0))
        # A single network that does not say what it takes, takes all.
        places = {
            w: slice(a, b or None) for w, (a, b) in zip(different, pairwise(edges), strict=True)
        }
        self.columns = {name: places[inputs.widths] for name, inputs in self.inputs.items()}
        self.width = edges[-1]

    def __call__(self, matrix: Tensor) -> Tensor:
        """The outputs of all networks ``[N, outputs]``."""
        found = [self._evaluate(name, matrix) for name in self._networks]
        return tf.concat(found, axis=1) if len(found) > 1 else found[0]

    def _evaluate(self, name: str, matrix: Tensor) -> Tensor:
        inputs, columns = self.inputs[name], self.columns[name]
        own = matrix if inputs.width == self.width else matrix[:, columns]
        return self._networks[name](inputs.pack(inputs.split(own)))

    def outputs(self) -> dict[str, slice]:
        """Where the outputs of each network are among those of all."""
        if len(self._networks) == 1:
            return dict.fromkeys(self._networks, slice(None))
        slices, start = {}, 0
        for name, network in self._networks.items():
            point = tf.zeros((1, self.width), dtype_of(network))
            stop = start + int(self._evaluate(name, point).shape[1])
            slices[name], start = slice(start, stop), stop
        return slices

    def column_names(self) -> list[str]:
        """What to call the columns: by coordinates, or inputs' names, numbered."""
        names: dict[int, list[str]] = {}
        for network, inputs in self.inputs.items():
            names.setdefault(self.columns[network].start, self._names(inputs))
        return [name for start in sorted(names) for name in names[start]]

    def _names(self, inputs: Inputs) -> list[str]:
        number = len(self._coordinates)
        if inputs.width == number and not any(inputs.names):
            return list(self._coordinates)
        found: list[str] = []
        for name, width in zip(inputs.names, inputs.widths, strict=True):
            if width == number and not (width == 1 and name):
                found += self._coordinates
            elif name:
                found += [name] if width == 1 else [f"{name}{i}" for i in range(width)]
            else:
                found += [f"x{len(found) + i}" for i in range(width)]
        return found


def outputs_at(problem: Problem, term: PointTerm) -> Tensor:
    """The outputs of all networks at the points of a term ``[N, outputs]``.

    Raises:
        ProblemError: If a network's inputs are not known there.
    """
    dtype = dtype_of(problem.model)
    points = tf.constant(np.asarray(term.points), dtype)
    data = {name: tf.constant(np.asarray(array)) for name, array in term.data.items()}
    found = []
    for name, network in networks_of(problem.model).items():
        parts = Feed.of(problem, term, name).parts(points, data)
        inputs = Inputs.of(network, len(problem.coordinates))
        found.append(network(inputs.pack(parts)))
    return tf.concat(found, axis=1)
