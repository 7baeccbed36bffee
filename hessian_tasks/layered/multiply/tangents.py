"""Per-point tangents of wires and cotangents with respect to the probe of one site.

With a probe E_l on site l, ``first(w, s, t)`` is ``∂w_t/∂E_l,s``, the derivative of stream t of
wire w with respect to stream s of the probe, and ``second(w, s, t)`` is
``∂(∂ℓ/∂w_t)/∂E_l,s``, the tangent of its cotangent. Both follow from those of the wires next to it,

    forwards:   first(y) = Σ_z first(z) ∂y/∂z,
    backwards:  second(z) = Σ_y (∂y/∂z)ᵀ second(y) + Σ_z' (∂²y/∂z∂z' · ∂ℓ/∂y) first(z'),

the second-order adjoint of the network. Each pair of streams is computed when it is first asked
for, so that pairs which nothing needs, or which are zero, cost nothing. Up to the next product with
a kernel a neuron of the probe only moves that same neuron; such tangents are kept as diagonals, and
those behind it as factors.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import Protocol, TypeAlias

from hessian_tasks.layered.expand.expansion import Expansion
from hessian_tasks.layered.expand.network import Array
from hessian_tasks.layered.multiply._factored import Factored
from hessian_tasks.layered.read.program import Linear, Node, Site

__all__ = ["Moving", "Tangent", "Tangents", "is_diagonal", "present"]

Moving: TypeAlias = Array | Factored
"""``[n, j]`` where neuron j moves neuron j only, or ``[n, j, p]``, j in the probe's part."""

Tangent: TypeAlias = Moving | None
"""One that may be zero."""


def is_diagonal(tangent: Moving) -> bool:
    """Whether a tangent is kept as a diagonal ``[n, j]``."""
    return tangent.ndim == 2


def present(tangents: Iterable[Tangent]) -> list[Moving]:
    """Those tangents that are not zero."""
    return [tangent for tangent in tangents if tangent is not None]


class Sum(Protocol):
    """A sum of tangents that are products."""

    def add_scaled(self, tangent: Tangent, factor: Array) -> None:
        """Add the tangent of a product with ``factor`` ``[n, p]`` on each neuron."""

    def add_product(self, tangent: Tangent, matrix: Array) -> None:
        """Add the tangent of a product with ``matrix``."""

    def add_bent(self, tangent: Moving, matrices: Array) -> None:
        """Add the tangent of a product with matrices ``[n, o, p]``, one a point."""

    def value(self) -> Tangent:
        """The sum; its parts must not be used any more."""


class Tangents(ABC):
    """The tangents of a batch of points with respect to the probe of one site, or a part of it.

    Attributes:
        expansion: The term around θ.
        site: The wire that is probed.
        points: Which points.
        neurons: Which neurons of the site are probed.
    """

    def __init__(self, expansion: Expansion, site: int, points: slice, neurons: slice) -> None:
        """Prepare; nothing is computed yet.

        Args:
            expansion: The term around θ.
            site: The wire that is probed.
            points: Which points, from start to stop.
            neurons: Which of its neurons, from start to stop.
        """
        self.expansion = expansion
        self._network = expansion.network
        self._program = expansion.network.program
        self.site = site
        self.points = points
        self.neurons = neurons
        self._first: dict[tuple[int, int, int], Tangent] = {}
        self._second: dict[tuple[int, int, int], Tangent] = {}

    def first(self, wire: int, s: int, t: int) -> Tangent:
        """Tangent of stream t of a wire with respect to stream s of the probe."""
        key = (wire, s, t)
        if key not in self._first:
            self._first[key] = self._forwards(wire, s, t)
        return self._first[key]

    def second(self, wire: int, s: int, t: int) -> Tangent:
        """Tangent of the cotangent of stream t of a wire."""
        key = (wire, s, t)
        if key not in self._second:
            self._second[key] = self._backwards(wire, s, t)
        return self._second[key]

    @abstractmethod
    def _identity(self) -> Array:
        """What moves if the probe itself does: ones ``[n, j]``."""

    @abstractmethod
    def _sum(self) -> Sum:
        """An empty sum."""

    def _forwards(self, wire: int, s: int, t: int) -> Tangent:
        operation = self._program.operations[wire]
        if wire == self.site:
            return self._identity() if s == t else None
        total = self._sum()
        if isinstance(operation, Site | Linear):
            for source in self._program.inputs(wire):
                total.add_product(self.first(source, s, t), self._network.matrix(wire, source))
        elif isinstance(operation, Node):
            for ((a, between), out), slope in self.expansion.jacobians[wire].items():
                if out == t:
                    tangent = self.first(operation.inputs[a], s, between)
                    total.add_scaled(tangent, slope[self.points])
        return total.value()

    def _backwards(self, wire: int, s: int, t: int) -> Tangent:
        total = self._sum()
        if wire == self._program.output:
            self._add_output(total, s, t)
        for consumer in self._network.consumers[wire]:
            if isinstance(self._program.operations[consumer], Node):
                self._add_node(total, consumer, (wire, s, t))
            else:
                matrix = self._network.matrix(consumer, wire).T
                total.add_product(self.second(consumer, s, t), matrix)
        return total.value()

    def _add_output(self, total: Sum, s: int, t: int) -> None:
        for (between, out), bend in self.expansion.output_curvature.items():
            tangent = self.first(self._program.output, s, between)
            if out == t and tangent is not None:
                total.add_bent(tangent, bend[self.points])

    def _add_node(self, total: Sum, node: int, key: tuple[int, int, int]) -> None:
        wire, s, t = key
        inputs = self._program.inputs(node)
        for ((a, into), out), slope in self.expansion.jacobians[node].items():
            if into == t and inputs[a] == wire:
                total.add_scaled(self.second(node, s, out), slope[self.points])
        for ((a, into), (b, between)), bend in self.expansion.curvatures[node].items():
            if into == t and inputs[a] == wire:
                total.add_scaled(self.first(inputs[b], s, between), bend[self.points])
