"""Per-point tangents of wires and cotangents with respect to the probe of one site.

With a probe E_l on site l, ``first(w, s, t)`` is ``∂w_t/∂E_l,s``, the derivative of stream t of
wire w with respect to stream s of the probe, and ``second(w, s, t)`` is
``∂(∂ℓ/∂w_t)/∂E_l,s``, the tangent of its cotangent. Both follow from those of the wires next to it,

    forwards:   first(y) = Σ_z first(z) ∂y/∂z,
    backwards:  second(z) = Σ_y (∂y/∂z)ᵀ second(y) + Σ_z' (∂²y/∂z∂z' · ∂ℓ/∂y) first(z'),

the second-order adjoint of the network. Each pair of streams is computed when it is first asked
for, so that pairs which nothing needs, or which are zero, cost nothing. Up to the next product with
a kernel a neuron of the probe only moves that same neuron; such tangents are kept as diagonals.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeAlias

import numpy as np

from hessian_tasks.layered.expansion import Expansion
from hessian_tasks.layered.network import Array
from hessian_tasks.layered.program import Linear, Node, Site
from hessian_tasks.layered.workspace import Workspace

__all__ = ["Tangents", "is_diagonal", "present"]

# Bytes of one piece of an element-wise sum: a part of the second-level cache of a core.
PIECE_BYTES = 128 * 2**10

Tangent: TypeAlias = Array | None
"""Zero, ``[n, j]`` where neuron j moves neuron j only, or ``[j, n, p]``, j in the probe's part.

With the probe's neurons outermost, a factor ``[n, p]`` is one long vector to each of them.
"""


def is_diagonal(tangent: Array) -> bool:
    """Whether a tangent is kept as a diagonal ``[n, j]``."""
    return tangent.ndim == 2


def present(tangents: Iterable[Tangent]) -> list[Array]:
    """Those tangents that are not zero."""
    return [tangent for tangent in tangents if tangent is not None]


class Tangents:
    """The tangents of a batch of points with respect to the probe of one site, or a part of it.

    Attributes:
        expansion: The term around θ.
        points: Which points.
        neurons: Which neurons of the site are probed.
    """

    def __init__(
        self,
        expansion: Expansion,
        site: int,
        points: slice,
        neurons: slice,
        workspace: Workspace,
    ) -> None:
        """Prepare; nothing is computed yet.

        Args:
            expansion: The term around θ.
            site: The wire that is probed.
            points: Which points, from start to stop.
            neurons: Which of its neurons, from start to stop.
            workspace: Lends the memory of tangents that are no diagonals.
        """
        self.expansion = expansion
        self._network = expansion.network
        self._program = expansion.network.program
        self._site = site
        self.points = points
        self.neurons = neurons
        self._workspace = workspace
        self._lent: dict[int, Array] = {}
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

    def release(self) -> None:
        """Give the memory back; no tangent may be used any more."""
        self._workspace.give_back(self._lent.values())
        self._lent, self._first, self._second = {}, {}, {}

    def lend(self, *shape: int) -> Array:
        """Memory for a tangent that is no diagonal."""
        array = self._workspace.lend(*shape)
        self._lent[id(array)] = array
        return array

    def give_back(self, array: Array) -> None:
        """Give back the memory of an intermediate result."""
        if self._lent.pop(id(array), None) is not None:
            self._workspace.give_back([array])

    def _forwards(self, wire: int, s: int, t: int) -> Tangent:
        operation = self._program.operations[wire]
        if wire == self._site:
            if s != t:
                return None
            shape = [part.stop - part.start for part in (self.points, self.neurons)]
            return np.ones(shape, self._network.dtype)
        total = _Sum(self)
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
        total = _Sum(self)
        if wire == self._program.output:
            self._add_output(total, s, t)
        for consumer in self._network.consumers[wire]:
            if isinstance(self._program.operations[consumer], Node):
                self._add_node(total, consumer, (wire, s, t))
            else:
                matrix = self._network.matrix(consumer, wire).T
                total.add_product(self.second(consumer, s, t), matrix)
        return total.value()

    def _add_output(self, total: _Sum, s: int, t: int) -> None:
        for (between, out), bend in self.expansion.output_curvature.items():
            tangent = self.first(self._program.output, s, between)
            if out == t and tangent is not None:
                total.add_bent(tangent, bend[self.points])

    def _add_node(self, total: _Sum, node: int, key: tuple[int, int, int]) -> None:
        wire, s, t = key
        inputs = self._program.inputs(node)
        for ((a, into), out), slope in self.expansion.jacobians[node].items():
            if into == t and inputs[a] == wire:
                total.add_scaled(self.second(node, s, out), slope[self.points])
        for ((a, into), (b, between)), bend in self.expansion.curvatures[node].items():
            if into == t and inputs[a] == wire:
                total.add_scaled(self.first(inputs[b], s, between), bend[self.points])


class _Sum:
    """A sum of tangents that are products.

    Element-wise products are collected and added up piece by piece, each piece small enough to
    stay in the cache until it is complete; otherwise memory would decide the speed.
    """

    def __init__(self, tangents: Tangents) -> None:
        self._tangents = tangents
        self._neurons = tangents.neurons
        self._scaled: list[tuple[Array, Array]] = []
        self._others: list[Array] = []

    def add_scaled(self, tangent: Tangent, factor: Array) -> None:
        """Add the tangent of a product with ``factor`` ``[n, p]`` on each neuron."""
        if tangent is not None and is_diagonal(tangent):
            self._others.append(tangent * factor[:, self._neurons])
        elif tangent is not None:
            self._scaled.append((tangent, factor))

    def add_product(self, tangent: Tangent, matrix: Array) -> None:
        """Add the tangent of a product with ``matrix``."""
        if tangent is None:
            return
        if is_diagonal(tangent):
            self._add_grid(tangent, matrix[self._neurons, None])
        else:
            image = self._tangents.lend(*tangent.shape[:2], matrix.shape[1])
            np.matmul(tangent, matrix, out=image)
            self._others.append(image)

    def add_bent(self, tangent: Array, matrices: Array) -> None:
        """Add the tangent of a product with matrices ``[n, o, p]``, one a point."""
        if is_diagonal(tangent):
            self._add_grid(tangent, matrices[:, self._neurons].swapaxes(0, 1))
        else:
            self._others.append(np.einsum("jno,nop->jnp", tangent, matrices))

    def _add_grid(self, diagonal: Array, factors: Array) -> None:
        image = self._tangents.lend(diagonal.shape[1], diagonal.shape[0], factors.shape[2])
        self._others.append(np.multiply(diagonal.T[:, :, None], factors, out=image))

    def value(self) -> Tangent:
        """The sum; its parts must not be used any more."""
        parts = sorted(self._others, key=is_diagonal)
        total: Tangent = self._sum_scaled() if self._scaled else None
        for part in parts:
            if total is None:
                total = part
            elif is_diagonal(part) and not is_diagonal(total):
                np.einsum("jnj->nj", total[:, :, self._neurons])[...] += part
            else:
                total += part
                self._tangents.give_back(part)
        return total

    def _sum_scaled(self) -> Array:
        first, factor = self._scaled[0]
        total = self._tangents.lend(*first.shape)
        step = max(1, PIECE_BYTES // first[0].nbytes)
        spare = np.empty_like(total[:step])
        for j in range(0, len(total), step):
            piece = total[j : j + step]
            np.multiply(first[j : j + step], factor, out=piece)
            for tangent, factor_ in self._scaled[1:]:
                piece += np.multiply(tangent[j : j + step], factor_, out=spare[: len(piece)])
        return total
