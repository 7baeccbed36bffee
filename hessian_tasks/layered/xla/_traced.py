"""Tangents as a TensorFlow graph, which XLA compiles for a GPU.

XLA fuses the element-wise operations, so that nothing is to be arranged here. All points of a batch
and all neurons of a probe are taken at once, and what depends on points comes as tensors.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeAlias

import numpy as np
import tensorflow as tf

from hessian_tasks.jets import Tensor
from hessian_tasks.layered.expand.expansion import Expansion
from hessian_tasks.layered.expand.network import Array
from hessian_tasks.layered.multiply.pairs import Combinations, PairKind
from hessian_tasks.layered.multiply.tangents import Moving, Tangents, is_diagonal, present

__all__ = ["Stacks", "entering_streams", "stack_tangents"]

Stacks: TypeAlias = dict[str, Tensor]
"""Tangents of one pair of sites by kind, with their pairs of streams in front.

``bent`` and ``moved`` ``[r, n, j, b]``, ``bent diagonal`` and ``moved diagonal`` ``[r, n, j]``, and
``separable`` ``[r, n, s, j]``.
"""


class TracedTangents(Tangents):
    """Tangents of which every array is a tensor."""

    def __init__(self, expansion: Expansion, site: int) -> None:
        """Take the whole probe.

        Args:
            expansion: The term around θ, with tensors ``[n, ...]`` of a batch of points.
            site: The wire that is probed.
        """
        whole = slice(0, expansion.network.program.widths[site])
        super().__init__(expansion, site, slice(None), whole)

    def _identity(self) -> Tensor:
        shape = [self.expansion.num_points, self.neurons.stop]
        return tf.ones(shape, self.expansion.network.dtype)

    def _sum(self) -> _Sum:
        return _Sum()


class _Sum:
    def __init__(self) -> None:
        self._parts: list[Tensor] = []

    def add_scaled(self, tangent: Tensor, factor: Array) -> None:
        if tangent is not None:
            self._parts.append(tangent * (factor if is_diagonal(tangent) else factor[:, None]))

    def add_product(self, tangent: Tensor, matrix: Array) -> None:
        if tangent is None:
            return
        if is_diagonal(tangent):
            self._parts.append(tangent[:, :, None] * matrix)
        else:
            self._parts.append(tf.tensordot(tangent, np.ascontiguousarray(matrix), 1))

    def add_bent(self, tangent: Tensor, matrices: Array) -> None:
        form = "nj,njp->njp" if is_diagonal(tangent) else "njo,nop->njp"
        self._parts.append(tf.einsum(form, tangent, matrices))

    def value(self) -> Tensor:
        if not self._parts:
            return None
        if len({part.ndim for part in self._parts}) > 1:
            self._parts = [tf.linalg.diag(p) if is_diagonal(p) else p for p in self._parts]
        return tf.add_n(self._parts)


def stack_tangents(
    expansion: Expansion, site: int, kinds: Mapping[tuple[int, int], PairKind]
) -> dict[int, Stacks]:
    """The tangents that the entries of one site with every other are made of.

    Args:
        expansion: The term around θ, with tensors of a batch of points.
        site: The site that is probed.
        kinds: The kinds of all pairs of sites, the probed one first.

    Returns:
        By the other site.
    """
    tangents = TracedTangents(expansion, site)
    found = {}
    for (first, second), kind in kinds.items():
        if first == site:
            found[second] = _stack_pair(tangents, second, kind)
    return found


def _stack_pair(tangents: TracedTangents, second: int, kind: PairKind) -> Stacks:
    def bent(pairs: Combinations) -> list[Moving]:
        return present(tangents.second(second, s, t) for s, t in pairs)

    def moved(pairs: Combinations) -> list[Moving]:
        source = tangents.expansion.network.program.inputs(second)[0]
        return present(tangents.first(source, s, t) for s, t in pairs)

    stacks = {}
    for name, found, combinations in (("bent", bent, kind.bent), ("moved", moved, kind.moved)):
        if combinations.get(False):
            stacks[name] = tf.stack(found(combinations[False]))
        if combinations.get(True):
            stacks[f"{name} diagonal"] = tf.stack(found(combinations[True]))
    if kind.separable:
        stacks["separable"] = _entering(tangents, second, kind.separable)
    return stacks


def _entering(
    tangents: TracedTangents, second: int, bends: Mapping[tuple[int, int], Array]
) -> Tensor:
    """Tangents of what enters a kernel, all diagonals, ``[r, n, s, j]``."""
    expansion = tangents.expansion
    source = expansion.network.program.inputs(second)[0]
    zero = tf.zeros([expansion.num_points, tangents.neurons.stop], expansion.network.dtype)
    streams = range(expansion.num_streams)
    rows = [
        [tangents.first(source, s, between) for s in streams] for between in entering_streams(bends)
    ]
    return tf.stack(
        [tf.stack([zero if t is None else t for t in row], axis=1) for row in rows], axis=0
    )


def entering_streams(bends: Mapping[tuple[int, int], Array]) -> list[int]:
    """The streams of a kernel's result whose movement bends another one."""
    return sorted({between for between, _ in bends})
