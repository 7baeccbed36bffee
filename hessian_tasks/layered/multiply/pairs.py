"""Pairs of sites: which of their tangents there are, and of what kind.

The tangents of a wire by pairs of streams are often multiples of each other. A derivative
∂A_xx/∂E_x is twice ∂A_x/∂E for one site, and for a Laplacian ∂G_x/∂E_x = ∂G_y/∂E_y; the products of
such pairs are one product, whose left factor is the sum of theirs. What holds for random numbers in
place of all streams, derivatives and cotangents is such an identity, and holds for any.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from itertools import product
from typing import Any, TypeAlias

import numpy as np

from hessian_tasks.layered.expand.expansion import Expansion
from hessian_tasks.layered.expand.network import Array, curvature
from hessian_tasks.layered.multiply._buffered import BufferedTangents
from hessian_tasks.layered.multiply.tangents import Tangent, Tangents, is_diagonal, present
from hessian_tasks.layered.multiply.workspace import Workspace
from hessian_tasks.layered.read.program import Node

__all__ = ["Combinations", "PairKind", "SitePair", "StreamPair", "find_kinds"]

StreamPair: TypeAlias = tuple[int, int]
"""A stream of the probe and a stream of what moves."""

Combinations: TypeAlias = dict[StreamPair, dict[StreamPair, float]]
"""Independent pairs of streams, each with the pairs whose tangents contain its own, how often."""

Probe: TypeAlias = Callable[[Tangents, int, int], Tangent]

# Relative; random numbers are multiplied and added some hundred times.
TOLERANCE = 1e-11
# With larger coefficients than that, products that cancel would cost digits.
MAX_SHARES = 10.0
MAX_NEURONS = 4


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

    Args:
        expansion: The term around θ.
    """
    program = expansion.network.program
    generic = _randomise(expansion)
    kinds = {}
    for first in program.sites:
        neurons = slice(0, min(MAX_NEURONS, program.widths[first]))
        points = slice(0, generic.num_points)
        sample = BufferedTangents(generic, first, points, neurons, Workspace(np.dtype(np.float64)))
        for second in program.sites:
            if program.probed(first, second) == first:
                kinds[first, second] = _find_kind(sample, expansion, (first, second))
    return kinds


def _find_kind(sample: Tangents, expansion: Expansion, sites: tuple[int, int]) -> PairKind:
    first, second = sites
    streams = expansion.input_streams(first)
    separable = _separable(sample, expansion, sites)
    bent: dict[bool, Combinations] = {}
    moved: dict[bool, Combinations] = {}
    if separable is None:
        into = product(streams, expansion.input_streams(second))
        bent = _combine(sample, into, lambda t, *pair: t.second(second, *pair))
    source = expansion.network.program.site(second).source
    if source is not None:
        reached = product(streams, expansion.cotangents[second])
        moved = _combine(sample, reached, lambda t, *pair: t.first(source, *pair))
    return PairKind(separable, bent, moved)


def _randomise(expansion: Expansion) -> Expansion:
    """The same expansion with random numbers where it has any, at points enough to tell."""
    rng = np.random.default_rng(0)
    num_points = 32 + 2 * expansion.num_streams**2

    def draw(streams: Mapping[Any, Array]) -> dict[Any, Array]:
        return {key: rng.normal(size=(num_points, *a.shape[1:])) for key, a in streams.items()}

    network, streams = expansion.network, expansion.streams
    wires = [draw(values) for values in expansion.wires]
    derivatives = [draw(values) for values in expansion.derivatives]
    cotangents = [draw(values) for values in expansion.cotangents]
    curvatures = {}
    for wire in expansion.jacobians:
        inputs = [wires[source] for source in network.program.inputs(wire)]
        curvatures[wire] = curvature(streams, derivatives[wire], inputs, cotangents[wire])
    bends = draw(expansion.output_curvature)
    return replace(
        expansion,
        num_points=num_points,
        wires=wires,
        derivatives=derivatives,
        jacobians={
            w: network.jacobian(w, streams, derivatives[w], wires) for w in expansion.jacobians
        },
        cotangents=cotangents,
        curvatures=curvatures,
        output_curvature={key: bend + bend.swapaxes(1, 2) for key, bend in bends.items()},
        rows=None,
    )


def _combine(
    sample: Tangents, pairs: Iterable[StreamPair], find: Probe
) -> dict[bool, Combinations]:
    columns: dict[bool, dict[StreamPair, Array]] = {True: {}, False: {}}
    for pair in pairs:
        tangent = find(sample, *pair)
        if tangent is not None:
            columns[is_diagonal(tangent)][pair] = np.asarray(tangent).ravel()
    return {diagonal: independent(some, TOLERANCE) for diagonal, some in columns.items() if some}


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
            if rest <= tolerance and shares.sum() < MAX_SHARES:
                for other, share, coefficient in zip(basis, shares, coefficients, strict=True):
                    if share > tolerance:
                        chosen[other][name] = float(coefficient)
                continue
        chosen[name] = {name: 1.0}
    return chosen


def _separable(
    sample: Tangents, expansion: Expansion, sites: tuple[int, int]
) -> dict[tuple[int, int], Array] | None:
    """The curvature behind a site, if nothing else moves its cotangents.

    It is so if a diagonal enters the kernel, and no cotangent behind the activation that
    follows it moves.
    """
    program, (first, second) = expansion.network.program, sites
    source = program.site(second).source
    if first == second or source is None or second == program.output:
        return None
    streams = range(expansion.num_streams)
    entering = present(sample.first(source, s, t) for s in streams for t in streams)
    if not entering or not all(is_diagonal(tangent) for tangent in entering):
        return None
    found: dict[tuple[int, int], Array] = {}
    for node in expansion.network.consumers[second]:
        bends = _local_curvature(sample, expansion, node, second)
        if bends is None:
            return None
        for key, bend in bends.items():
            found[key] = found[key] + bend if key in found else bend
    return found


def _local_curvature(
    sample: Tangents, expansion: Expansion, node: int, site: int
) -> dict[tuple[int, int], Array] | None:
    program, streams = expansion.network.program, range(expansion.num_streams)
    if not isinstance(program.operations[node], Node) or present(
        sample.second(node, s, t) for s in streams for t in streams
    ):
        return None
    inputs = program.inputs(node)
    found: dict[tuple[int, int], Array] = {}
    for ((a, t), (b, between)), bend in expansion.curvatures[node].items():
        if inputs[a] != site:
            continue
        if inputs[b] == site:
            found[between, t] = bend
        elif present(sample.first(inputs[b], s, between) for s in streams):
            return None
    return found
