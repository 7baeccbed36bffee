"""What networks are given at the points of a term: its points, and data by the names of inputs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise

import numpy as np
import tensorflow as tf

from hessian_tasks.errors import ProblemError
from hessian_tasks.jets import Derivatives, Evaluate, Index, Tensor
from hessian_tasks.networks.inputs import EvaluateInputs, Inputs
from hessian_tasks.networks.models import dtype_of
from hessian_tasks.networks.trainables import networks_of
from hessian_tasks.problem import PointTerm, Problem

__all__ = ["Feed", "outputs_at"]


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
            ProblemError: If that leaves columns over or inputs without, or an input could take
                both.
        """
        coordinates = tuple(problem.coordinates)
        inputs = Inputs.of(networks_of(problem.model)[name], len(coordinates))
        if inputs.packed == "tensor":
            whole = tuple(range(len(coordinates)))
            return cls((whole,), whole)
        named = [entry in term.data for entry in inputs.names]
        if both := {*inputs.names} & term.data.keys() & {*coordinates}:
            raise ProblemError(_ambiguous(min(both), term))
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


def _ambiguous(name: str, term: PointTerm) -> str:
    return (
        f"{name!r} is a coordinate, an input of the network, and data of term {term.name!r}, so "
        "that the input could take either. Give the data another name."
    )


def _unfed(inputs: Inputs, term: PointTerm, coordinates: Sequence[str]) -> str:
    entries = zip(inputs.names, inputs.widths, strict=True)
    known = ", ".join(f"{name or 'without a name'} [N, {width}]" for name, width in entries)
    return (
        f"Term {term.name!r} cannot tell what the network's inputs are ({known}): at its points it "
        f"has {', '.join(coordinates) or 'no coordinates'}, and the data {sorted(term.data)}. Give "
        "an input the name of the data that it takes, as in keras.Input((100,), name='branch') and "
        "data={'branch': values}, with a row for each point."
    )


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
