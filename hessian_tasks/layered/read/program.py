"""The network as a short program, read from its TensorFlow graph.

Every tensor between the coordinates and the outputs becomes a *wire* of some width, made by
one of four operations: a feature (any fixed function of the coordinates), a site (where trainable
weights enter, linearly), a fixed linear map (concatenation, slicing, frozen layers), or a
node (any function of wires that acts on each neuron alone: activations, gates, sums).
Reading the graph instead of the Keras layers, it does not matter how a network was written.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from hessian_tasks.jets import Tensor

__all__ = ["Feature", "Linear", "Node", "Program", "Site"]


@dataclass(frozen=True, eq=False)
class Feature:
    """A fixed function of the coordinates.

    Attributes:
        function: Maps points ``[N, d]`` to ``[N, width]``.
    """

    function: Callable[[Tensor], Tensor]


@dataclass(frozen=True, eq=False)
class Site:
    """Where trainable weights enter: ``Z = A W + b``, and where a probe is added.

    The parameters are consecutive in θ: the kernel, row by row, then the bias, which is
    one more row of the kernel whose input is 1.

    Attributes:
        source: The wire A, or None if there is only a bias.
        offset: Index in θ of the first parameter.
        num_inputs: Rows of the kernel.
        bias: Whether there is a bias.
        width: Columns of the kernel.
    """

    source: int | None
    offset: int
    num_inputs: int
    bias: bool
    width: int

    @property
    def num_rows(self) -> int:
        """Rows of the kernel with the bias below it."""
        return self.num_inputs + self.bias

    @property
    def stop(self) -> int:
        """One past the index in θ of the last parameter."""
        return self.offset + self.num_rows * self.width

    def weights(self, theta: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Kernel and bias as one matrix ``[num_rows, width]``."""
        return theta[self.offset : self.stop].reshape(self.num_rows, self.width)


@dataclass(frozen=True, eq=False)
class Linear:
    """A fixed linear map, the same for every stream.

    Attributes:
        inputs: Wires, each with its matrix ``[width of the wire, width]``; the sum of the products.
    """

    inputs: tuple[tuple[int, npt.NDArray[np.float64]], ...]


@dataclass(frozen=True, eq=False)
class Node:
    """A function that acts on each neuron alone.

    Attributes:
        inputs: Wires, all of the width of the result.
        function: Maps tensors ``[N, width]`` to one ``[N, width]``.
    """

    inputs: tuple[int, ...]
    function: Callable[..., Tensor]


Operation: TypeAlias = Feature | Site | Linear | Node


@dataclass
class Program:
    """Operations in topological order; operation w makes wire w.

    Attributes:
        operations: The operations.
        widths: Width of every wire.
        output: The wire that is the network's output.
    """

    operations: list[Operation] = field(default_factory=list)
    widths: list[int] = field(default_factory=list)
    output: int = 0

    def add(self, operation: Operation, width: int) -> int:
        """Append an operation; returns its wire."""
        self.operations.append(operation)
        self.widths.append(width)
        return len(self.operations) - 1

    @property
    def sites(self) -> list[int]:
        """Wires made by sites, in the order of their parameters in θ."""
        found = [(op.offset, w) for w, op in enumerate(self.operations) if isinstance(op, Site)]
        return [wire for _, wire in sorted(found)]

    def site(self, wire: int) -> Site:
        """The site that makes a wire."""
        operation = self.operations[wire]
        assert isinstance(operation, Site)
        return operation

    def inputs(self, wire: int) -> tuple[int, ...]:
        """The wires from which a wire is made."""
        operation = self.operations[wire]
        if isinstance(operation, Site):
            return () if operation.source is None else (operation.source,)
        if isinstance(operation, Linear):
            return tuple(source for source, _ in operation.inputs)
        return operation.inputs if isinstance(operation, Node) else ()

    def probed(self, site: int, other: int) -> int:
        """Which of two sites is probed: the one upstream, else the one earlier in θ."""
        if other in self.upstream(site):
            return other
        if site in self.upstream(other):
            return site
        return site if self.site(site).offset <= self.site(other).offset else other

    def consumers(self, wire: int) -> list[int]:
        """The wires that are made from a wire."""
        return [other for other in range(len(self.operations)) if wire in self.inputs(other)]

    def upstream(self, wire: int) -> set[int]:
        """All wires that a wire depends on."""
        found: set[int] = set()
        waiting = list(self.inputs(wire))
        while waiting:
            source = waiting.pop()
            if source not in found:
                found.add(source)
                waiting.extend(self.inputs(source))
        return found
