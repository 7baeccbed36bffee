"""Pairs of sites: which of their tangents there are, and of what kind.

The tangents of a wire by pairs of streams are often multiples of each other. A derivative
∂A_xx/∂E_x is twice ∂A_x/∂E for one site, and for a Laplacian ∂G_x/∂E_x = ∂G_y/∂E_y; the products of
such pairs are one product, whose left factor is the sum of theirs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import product
from typing import TypeAlias

import numpy as np

from hessian_tasks.layered.expansion import Expansion
from hessian_tasks.layered.network import Array
from hessian_tasks.layered.program import Node
from hessian_tasks.layered.tangents import Tangents, is_diagonal
from hessian_tasks.layered.workspace import Workspace

__all__ = ["Combinations", "PairKind", "SitePair", "find_kinds"]

StreamPair: TypeAlias = tuple[int, int]
"""A stream of the probe and a stream of what moves."""

Combinations: TypeAlias = dict[StreamPair, dict[StreamPair, float]]
"""Independent pairs of streams, each with the pairs whose tangents contain its own, how often."""

Probe: TypeAlias = Callable[[Tangents, int, int], Array | None]

# From how many places along the points, and from how many neurons, tangents are compared.
NUM_PLACES = 16
NUM_NEURONS = 4
POINTS_PER_PLACE = 4
MAX_SHARES = 10.0


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
        bent: Otherwise, pairs of streams whose cotangent moves: those that are diagonals (True)
            and those that are not (False).
        moved: Pairs of streams where the second's input moves, likewise.
    """

    separable: dict[StreamPair, Array] | None
    bent: dict[bool, Combinations] = field(default_factory=dict)
    moved: dict[bool, Combinations] = field(default_factory=dict)


def find_kinds(expansion: Expansion) -> dict[tuple[int, int], PairKind]:
    """The kinds of all pairs of sites, the probed one first.

    They are found from the tangents of some points and neurons, and are the same for all.

    Args:
        expansion: The term around θ.
    """
    program = expansion.network.program
    workspace = Workspace(expansion.network.dtype)
    kinds = {}
    for first in program.sites:
        probe = Tangents(expansion, first, slice(0, 1), slice(0, program.widths[first]), workspace)
        samples = list(_samples(expansion, first, workspace))
        for second in program.sites:
            if program.probed(first, second) == first:
                kinds[first, second] = _find_kind(probe, samples, (first, second))
    return kinds


def _find_kind(probe: Tangents, samples: list[Tangents], sites: tuple[int, int]) -> PairKind:
    expansion, (first, second) = probe.expansion, sites
    streams = expansion.input_streams(first)
    separable = _separable(probe, first, second)
    bent: dict[bool, Combinations] = {}
    moved: dict[bool, Combinations] = {}
    if separable is None:
        into = product(streams, expansion.input_streams(second))
        bent = _combine(samples, into, lambda t, *pair: t.second(second, *pair))
    source = expansion.network.program.site(second).source
    if source is not None:
        reached = product(streams, expansion.cotangents[second])
        moved = _combine(samples, reached, lambda t, *pair: t.first(source, *pair))
    return PairKind(separable, bent, moved)


def _samples(expansion: Expansion, site: int, workspace: Workspace) -> Iterator[Tangents]:
    num_points, width = expansion.num_points, expansion.network.program.widths[site]
    for place in range(min(NUM_PLACES, num_points)):
        start = place * num_points // NUM_PLACES if num_points > NUM_PLACES else place
        points = slice(start, min(start + POINTS_PER_PLACE, num_points))
        neuron = (place % NUM_NEURONS) * width // NUM_NEURONS
        yield Tangents(expansion, site, points, slice(neuron, neuron + 1), workspace)


def _combine(
    samples: list[Tangents], pairs: Iterable[StreamPair], find: Probe
) -> dict[bool, Combinations]:
    columns: dict[bool, dict[StreamPair, Array]] = {True: {}, False: {}}
    for pair in pairs:
        found = [tangent for t in samples if (tangent := find(t, *pair)) is not None]
        if found:
            numbers = np.concatenate([tangent.ravel() for tangent in found])
            columns[is_diagonal(found[0])][pair] = numbers.astype(np.float64)
    tolerance = 50 * float(np.finfo(samples[0].expansion.network.dtype).eps)
    return {diagonal: independent(some, tolerance) for diagonal, some in columns.items() if some}


def independent(vectors: dict[StreamPair, Array], tolerance: float) -> Combinations:
    """Choose independent vectors, and write all as combinations of them.

    Args:
        vectors: By name, all of one length.
        tolerance: Parts of a vector below this times its length count as zero.

    Returns:
        The chosen names, each with the coefficients in which the vectors contain it.

    Example:
        >>> import numpy as np
        >>> v = np.array([1.0, 3.0])
        >>> independent({(0, 0): v, (1, 1): v, (0, 1): v[::-1], (1, 2): 2 * v}, 1e-12)
        {(0, 0): {(0, 0): 1.0, (1, 1): 1.0, (1, 2): 2.0}, (0, 1): {(0, 1): 1.0}}
    """
    chosen: Combinations = {}
    for name, vector in vectors.items():
        basis = list(chosen)
        length = np.linalg.norm(vector)
        if basis and length:
            matrix = np.stack([vectors[other] for other in basis], axis=1)
            coefficients = np.linalg.lstsq(matrix, vector, rcond=None)[0]
            shares = np.abs(coefficients) * np.linalg.norm(matrix, axis=0) / length
            rest = np.linalg.norm(vector - matrix @ coefficients) / length
            # Large shares that cancel would cost digits.
            if rest <= tolerance and shares.sum() < MAX_SHARES:
                for other, share, coefficient in zip(basis, shares, coefficients, strict=True):
                    if share > tolerance:
                        chosen[other][name] = float(coefficient)
                continue
        chosen[name] = {name: 1.0}
    return chosen


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
    entering = _present(probe.first(source, s, t) for s in streams for t in streams)
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
    if not isinstance(program.operations[node], Node) or _present(
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
        elif _present(probe.first(inputs[b], s, between) for s in streams):
            return None
    return found


def _present(tangents: Iterable[Array | None]) -> list[Array]:
    return [tangent for tangent in tangents if tangent is not None]
