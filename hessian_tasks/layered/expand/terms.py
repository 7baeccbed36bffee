"""A loss term around θ, at the layers: the numbers that all of its entries are made of.

Evaluations of the network that the term couples, the n-th points of one with the n-th of another,
are a group. With u_n the jets of a group at its n-th points, those of the c-th evaluation u_n^c,

    H = Σ_n (∂u_n/∂θ)ᵀ ℓ''_n (∂u_n/∂θ) + Σ_c Σ_n ∂ℓ/∂u_n^c · ∂²u_n^c/∂θ²:

rows that are sums over the evaluations, and one expansion for each of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from hessian_tasks.layered.expand._border import Border, pull_back_sum
from hessian_tasks.layered.expand._sight import Seen, choose_streams, see
from hessian_tasks.layered.expand.expansion import Expansion, expand, expand_value, square_root
from hessian_tasks.layered.expand.network import Array, Network
from hessian_tasks.layered.expand.rows import RowFactors, join
from hessian_tasks.networks.models import parameter_layout
from hessian_tasks.reading import QuadraticModel, Reading

__all__ = [
    "TermExpansion",
    "expand_curvature",
    "expand_residual",
    "expand_term",
    "least_bytes",
]

Floats = npt.NDArray[np.float64]

# The fewer streams, the faster: whatever occurs in sums alone is one.
MERGED_FROM = 1


@dataclass(frozen=True)
class TermExpansion:
    """A term to second order in the weights.

    Attributes:
        parts: What comes through the network, one part for each evaluation of it.
        border: What the weights add that the term reads itself, or None.
    """

    parts: list[Expansion]
    border: Border | None


@dataclass(frozen=True)
class CurvatureRows:
    """A term to second order in the jets, and these to first order in the weights.

    Attributes:
        rows: The rows of ``|ℓ''|^½ ∂u/∂θ`` with signs, for each group.
        border: What the weights add that the term reads itself, or None.
    """

    rows: list[RowFactors]
    border: Border | None


@dataclass(frozen=True)
class ResidualRows:
    """The residuals of a term to first order in the weights.

    Attributes:
        factors: What comes through the network, with the components as rows, or None.
        entries: Positions in θ of the weights that the residual reads itself ``[m]``.
        direct: Its derivatives with respect to them ``[N, C, m]``.
    """

    factors: RowFactors | None
    entries: npt.NDArray[np.intp]
    direct: Array


def expand_term(network: Network, reading: Reading) -> TermExpansion:
    """Expand a loss term around θ.

    Args:
        network: The problem's network.
        reading: The term.

    Raises:
        NotLayeredError: If it is not of the kind that is computed by layers.
    """
    model = reading.quadratic
    seen = _see(network, reading, model, MERGED_FROM)
    parts = [part for group in _groups(model, seen) for part in _expand(group, seen, model)]
    return TermExpansion(parts, _border(network, reading, model, seen))


def least_bytes(network: Network, reading: Reading) -> int:
    """Memory that :func:`expand_term` keeps at least, for all points of a term.

    Known of every stream: its values at all wires with their cotangents, and the inputs of the
    sites. Derivatives of activations and the rows of ℓ'' come on top.

    Args:
        network: The problem's network.
        reading: The term.

    Raises:
        NotLayeredError: As :func:`expand_term` does.
    """
    model, program = reading.quadratic, network.program
    numbers = 2 * sum(program.widths) + sum(program.site(s).num_rows for s in program.sites)
    total = 0
    for number, evaluation in enumerate(reading.dependence.evaluations):
        vectors = [_by_slot(part) for part in model.parts(number)]
        streams, used = choose_streams(evaluation, vectors, network.dtype, MERGED_FROM)
        if used:
            total += len(evaluation.points) * len(streams) * numbers * network.dtype.itemsize
    return total


def expand_curvature(
    network: Network, reading: Reading, merged_from: int = MERGED_FROM
) -> CurvatureRows:
    """Expand a loss term around θ with the networks linearised.

    Args:
        network: The problem's network.
        reading: The term.
        merged_from: The order from which on derivatives that occur in sums alone are one stream.

    Raises:
        NotLayeredError: As :func:`expand_term` does.
    """
    model = reading.quadratic
    # Streams that count only by their slopes need not travel.
    model = replace(model, slopes=[np.zeros_like(slope) for slope in model.slopes])
    seen = _see(network, reading, model, merged_from)
    rows = []
    for numbers in _groups(model, seen):
        members = [seen[number] for number in numbers]
        rows.append(_rows(members, _bend(numbers, members, model)))
    return CurvatureRows(rows, _border(network, reading, model, seen))


def expand_residual(
    network: Network, reading: Reading, merged_from: int = MERGED_FROM
) -> ResidualRows:
    """Expand the residuals of a term around θ.

    Args:
        network: The problem's network.
        reading: The term.
        merged_from: The order from which on derivatives that occur in sums alone are one stream.

    Raises:
        NotLayeredError: As :func:`expand_term` does.
    """
    model = reading.residual
    parts = []
    for number, evaluation in enumerate(reading.dependence.evaluations):
        slopes = model.slopes[number]
        vectors = [_by_slot(part) for part in model.parts(number)]
        at = see(network, evaluation, vectors, merged_from)
        if at is not None:
            signs = np.ones(slopes.shape[:2], network.dtype)
            parts.append(at.at.pull_back_rows(at.select(slopes, 2), at.positions, signs))
    return ResidualRows(
        join(parts) if parts else None, _entries(reading), model.direct.astype(network.dtype)
    )


def _see(
    network: Network, reading: Reading, model: QuadraticModel, merged_from: int
) -> dict[int, Seen]:
    """The evaluations that matter, by their numbers."""
    seen = {}
    for number, evaluation in enumerate(reading.dependence.evaluations):
        vectors = [_by_slot(part) for part in model.parts(number)]
        found = see(network, evaluation, vectors, merged_from)
        if found is not None:
            seen[number] = found
    return seen


def _border(
    network: Network, reading: Reading, model: QuadraticModel, seen: dict[int, Seen]
) -> Border | None:
    if not reading.dependence.direct:
        return None
    num_params = parameter_layout(reading.problem.model).num_params
    rows = np.zeros((len(model.direct), num_params), network.dtype)
    for number, at in seen.items():
        seeds = at.select(model.crosses[number], 2)
        rows += pull_back_sum(network, at, seeds, num_params)
    return Border(_entries(reading), rows, model.direct.astype(network.dtype))


def _by_slot(part: Floats) -> Floats:
    """One row for each derivative that an evaluation asks for."""
    return part.reshape(len(part), -1) if part.size else np.zeros((len(part), 0))


def _groups(model: QuadraticModel, seen: dict[int, Seen]) -> list[list[int]]:
    """The evaluations that are coupled, each in one group."""
    group = {number: [number] for number in seen}
    for a, b in model.curvatures:
        if group[a] is not group[b]:
            group[a] += group[b]
            for number in group[b]:
                group[number] = group[a]
    return list({id(numbers): sorted(numbers) for numbers in group.values()}.values())


def _expand(
    numbers: Sequence[int], seen: dict[int, Seen], model: QuadraticModel
) -> list[Expansion]:
    """One expansion for each evaluation of a group, the first of them with the rows of all."""
    members = [seen[number] for number in numbers]
    slopes = [at.select(model.slopes[n], 1) for n, at in zip(numbers, members, strict=True)]
    bend = _bend(numbers, members, model)
    first = members[0].at
    if len(members) == 1 and len(first.streams) == 1:
        width = slopes[0].shape[2]
        return [expand_value(first, slopes[0], bend.reshape(-1, 1, width, 1, width))]
    rows = _rows(members, bend) if bend.any() else None
    return [
        expand(at.at, slope, at.positions, {}, rows if number == 0 else None)
        for number, (at, slope) in enumerate(zip(members, slopes, strict=True))
    ]


def _bend(numbers: Sequence[int], members: Sequence[Seen], model: QuadraticModel) -> Floats:
    """``ℓ''`` of a group at each point, ``[N, D, D]``: the jets of its evaluations in a row."""
    num_points, width = members[0].at.num_points, model.slopes[numbers[0]].shape[2]
    rows = []
    for a, first in zip(numbers, members, strict=True):
        row = []
        for b, second in zip(numbers, members, strict=True):
            shape = (num_points, len(first.slots) * width, len(second.slots) * width)
            if (a, b) in model.curvatures:
                chosen = second.select(first.select(model.curvatures[a, b], 1), 3)
                row.append(chosen.reshape(shape))
            else:
                row.append(np.zeros(shape))
        rows.append(np.concatenate(row, axis=2))
    return np.concatenate(rows, axis=1)


def _rows(members: Sequence[Seen], bend: Floats) -> RowFactors:
    seeds, signs = square_root(bend, members[0].at.network.dtype)
    width = members[0].at.network.program.widths[members[0].at.network.program.output]
    edges = np.cumsum([len(at.slots) * width for at in members])[:-1]
    parts = np.split(seeds, edges, axis=2)
    return join(
        [
            at.at.pull_back_rows(part.reshape(*part.shape[:2], -1, width), at.positions, signs)
            for at, part in zip(members, parts, strict=True)
        ]
    )


def _entries(reading: Reading) -> npt.NDArray[np.intp]:
    """Positions in θ of the weights that a term reads itself."""
    table = parameter_layout(reading.problem.model).variables
    chosen = [table[position] for position in reading.dependence.direct]
    ranges = [np.arange(variable.offset, variable.stop) for variable in chosen]
    return np.concatenate([np.zeros(0, np.intp), *ranges])
