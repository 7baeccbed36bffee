"""Tangents in NumPy, made for the caches of a processor, in memory that is used again."""

from __future__ import annotations

import numpy as np

from hessian_tasks.layered.expand.expansion import Expansion
from hessian_tasks.layered.expand.network import Array
from hessian_tasks.layered.expand.rows import slices
from hessian_tasks.layered.multiply._factored import Factored
from hessian_tasks.layered.multiply.tangents import Moving, Tangent, Tangents, is_diagonal
from hessian_tasks.layered.multiply.workspace import Workspace

__all__ = ["BufferedTangents", "write"]

# Bytes of one piece of an element-wise sum: a part of the second-level cache of a core.
PIECE_BYTES = 128 * 2**10


class BufferedTangents(Tangents):
    """See :class:`~hessian_tasks.layered.multiply.tangents.Tangents`."""

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
        super().__init__(expansion, site, points, neurons)
        self._workspace = workspace
        self.points_last = workspace.points_last
        self._lent: dict[int, Array] = {}

    def part(self, points: slice, neurons: slice) -> BufferedTangents:
        """The tangents at fewer points, of fewer neurons; these themselves if that is all."""
        if (points, neurons) == (self.points, self.neurons):
            return self
        return BufferedTangents(self.expansion, self.site, points, neurons, self._workspace)

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

    def ones(self, width: int) -> Array:
        """Ones ``[n, width]``."""
        shape = (self.points.stop - self.points.start, width)
        return self._workspace.arrange(np.ones(shape, self.expansion.network.dtype))

    def _identity(self) -> Array:
        return self.ones(self.neurons.stop - self.neurons.start)

    def _sum(self) -> _Sum:
        return _Sum(self)


def write(tangent: Moving, place: Array) -> None:
    """Put a tangent that is no diagonal into ``place`` ``[n, j, p]``."""
    if isinstance(tangent, Factored):
        tangent.write(place)
    else:
        place[...] = tangent


class _Sum:
    """A sum of tangents that are products.

    Element-wise products are collected and added up piece by piece, each piece small enough to
    stay in the cache until it is complete; otherwise memory would decide the speed.
    """

    def __init__(self, tangents: BufferedTangents) -> None:
        self._tangents = tangents
        self._neurons = tangents.neurons
        self._factored: list[Factored] = []
        self._scaled: list[tuple[Array, Array]] = []
        self._others: list[Array] = []

    def add_scaled(self, tangent: Tangent, factor: Array) -> None:
        """Add the tangent of a product with ``factor`` ``[n, p]`` on each neuron."""
        if isinstance(tangent, Factored):
            self._add_factored(tangent.scaled(factor))
        elif tangent is not None and is_diagonal(tangent):
            self._others.append(tangent * factor[:, self._neurons])
        elif tangent is not None:
            self._scaled.append((tangent, factor))

    def add_product(self, tangent: Tangent, matrix: Array) -> None:
        """Add the tangent of a product with ``matrix``."""
        if tangent is None:
            return
        if not isinstance(tangent, Factored) and is_diagonal(tangent):
            ones = self._tangents.ones(matrix.shape[1])
            self._add_factored(Factored(((tangent, ones),), matrix[self._neurons]))
            return
        formed = self._form(tangent)
        image = self._tangents.lend(*tangent.shape[:2], matrix.shape[1])
        if self._tangents.points_last:
            np.matmul(matrix.T, formed.transpose(1, 2, 0), out=image.transpose(1, 2, 0))
        else:
            rows = formed.reshape(-1, formed.shape[2])
            np.matmul(rows, matrix, out=image.reshape(len(rows), -1))
        self._others.append(image)
        if formed is not tangent:
            self._tangents.give_back(formed)

    def add_bent(self, tangent: Moving, matrices: Array) -> None:
        """Add the tangent of a product with matrices ``[n, o, p]``, one a point."""
        formed = self._form(tangent)
        image = self._tangents.lend(*formed.shape[:2], matrices.shape[2])
        if is_diagonal(formed):
            np.multiply(formed[:, :, None], matrices[:, self._neurons], out=image)
        else:
            np.matmul(formed, matrices, out=image)
        self._others.append(image)

    def _add_factored(self, tangent: Factored) -> None:
        for number, other in enumerate(self._factored):
            together = other.plus(tangent)
            if together is not None:
                self._factored[number] = together
                return
        self._factored.append(tangent)

    def _form(self, tangent: Moving) -> Array:
        if not isinstance(tangent, Factored):
            return tangent
        image = self._tangents.lend(*tangent.shape)
        tangent.write(image)
        return image

    def value(self) -> Tangent:
        """The sum; its parts must not be used any more."""
        if len(self._factored) == 1 and not self._scaled and not self._others:
            return self._factored[0]
        parts = [self._form(tangent) for tangent in self._factored]
        parts += sorted(self._others, key=is_diagonal)
        total: Array | None = self._sum_scaled() if self._scaled else None
        for part in parts:
            if total is None:
                total = part
            elif is_diagonal(part) and not is_diagonal(total):
                np.einsum("njj->nj", total[:, :, self._neurons])[...] += part
            else:
                total += part
                self._tangents.give_back(part)
        return total

    def _sum_scaled(self) -> Array:
        first, factor = self._scaled[0]
        total = self._tangents.lend(*first.shape)
        # Pieces that lie together in memory.
        axis = int(self._tangents.points_last)
        step = max(1, PIECE_BYTES * first.shape[axis] // max(1, first.nbytes))
        spare = np.empty_like(total[:, :step] if axis else total[:step])
        for part in slices(first.shape[axis], step):
            points, neurons = (slice(None), part) if axis else (part, slice(None))
            piece = total[points, neurons]
            np.multiply(first[points, neurons], factor[points, None], out=piece)
            for tangent, factor_ in self._scaled[1:]:
                scaled = spare[: piece.shape[0], : piece.shape[1]]
                np.multiply(tangent[points, neurons], factor_[points, None], out=scaled)
                piece += scaled
        return total
