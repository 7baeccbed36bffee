"""Pairs of sites: which of their tangents there are, and of what kind."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TypeAlias

from hessian_tasks.layered.expansion import Expansion
from hessian_tasks.layered.network import Array
from hessian_tasks.layered.program import Node
from hessian_tasks.layered.tangents import Tangents, is_diagonal
from hessian_tasks.layered.workspace import Workspace

__all__ = ["PairKind", "SitePair", "StreamPairs", "find_kind", "present"]

StreamPairs: TypeAlias = list[tuple[int, int]]
"""A stream of the probe and a stream of what moves."""


@dataclass(frozen=True)
class SitePair:
    """Two sites, and which rows of their kernels are wanted.

    Attributes:
        first: Wire of the site that is probed; never downstream of the second.
        first_rows: Rows i of its kernel, the bias being the last.
        second: Wire of the other site.
        second_rows: Rows k of its kernel.
    """

    first: int
    first_rows: range
    second: int
    second_rows: range

    @property
    def same(self) -> bool:
        """Whether both are the same site; its rows then start with the same."""
        return self.first == self.second


@dataclass(frozen=True)
class PairKind:
    """What a pair of sites has in a term, the same for all points.

    Attributes:
        separable: If the second's cotangents move by a product of a diagonal, the kernel and a
            curvature, that curvature ``[N, p]`` by pairs of streams of the second's result.
        bent: Otherwise, pairs of streams whose cotangent moves, those that are diagonals first.
        moved: Pairs of streams where the second's input moves, likewise.
    """

    separable: dict[tuple[int, int], Array] | None
    bent: dict[bool, StreamPairs] = field(default_factory=dict)
    moved: dict[bool, StreamPairs] = field(default_factory=dict)


def find_kind(expansion: Expansion, first: int, second: int) -> PairKind:
    """Find out from the tangents of one point; which of them are zero is the same for all.

    Args:
        expansion: The term around θ.
        first: The site that is probed.
        second: The other.
    """
    program = expansion.network.program
    neurons = slice(0, program.widths[first])
    workspace = Workspace(expansion.network.dtype)
    probe = Tangents(expansion, first, slice(0, 1), neurons, workspace)
    streams = expansion.input_streams(first)
    into = expansion.input_streams(second)
    separable = _separable(probe, first, second)
    bent, moved = {}, {}
    if separable is None:
        bent = _sort({(s, t): probe.second(second, s, t) for s in streams for t in into})
    source = program.site(second).source
    if source is not None:
        reached = expansion.cotangents[second]
        moved = _sort({(s, t): probe.first(source, s, t) for s in streams for t in reached})
    return PairKind(separable, bent, moved)


def _sort(tangents: dict[tuple[int, int], Array | None]) -> dict[bool, StreamPairs]:
    found: dict[bool, StreamPairs] = {True: [], False: []}
    for pair, tangent in tangents.items():
        if tangent is not None:
            found[is_diagonal(tangent)].append(pair)
    return found


def _separable(probe: Tangents, first: int, second: int) -> dict[tuple[int, int], Array] | None:
    """The curvature behind a site, if nothing else moves its cotangents.

    It is so if a diagonal enters the kernel, and no cotangent behind the activation that
    follows it moves.
    """
    program = probe.expansion.network.program
    source = program.site(second).source
    if first == second or source is None or second == program.output:
        return None
    streams = range(probe.expansion.num_streams)
    entering = present(probe.first(source, s, t) for s in streams for t in streams)
    if not entering or not all(is_diagonal(tangent) for tangent in entering):
        return None
    found: dict[tuple[int, int], Array] = {}
    for node in probe.expansion.network.consumers[second]:
        bends = _local_curvature(probe, node, second)
        if bends is None:
            return None
        for key, bend in bends.items():
            found[key] = found[key] + bend if key in found else bend
    return found


def _local_curvature(probe: Tangents, node: int, site: int) -> dict[tuple[int, int], Array] | None:
    expansion = probe.expansion
    program, streams = expansion.network.program, range(expansion.num_streams)
    if not isinstance(program.operations[node], Node) or present(
        probe.second(node, s, t) for s in streams for t in streams
    ):
        return None
    inputs = program.inputs(node)
    found: dict[tuple[int, int], Array] = {}
    for ((a, t), (b, between)), bend in expansion.curvatures[node].items():
        if inputs[a] != site:
            continue
        if inputs[b] == site:
            found[between, t] = bend
        elif present(probe.first(inputs[b], s, between) for s in streams):
            return None
    return found


def present(tangents: Iterable[Array | None]) -> list[Array]:
    """Those tangents that are not zero."""
    return [tangent for tangent in tangents if tangent is not None]
