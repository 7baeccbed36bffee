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

from hessian_tasks.inputs import Joint
from hessian_tasks.layered.border import Border, pull_back_sum
from hessian_tasks.layered.expansion import Expansion, expand, expand_value, square_root
from hessian_tasks.layered.network import Array, Network
from hessian_tasks.layered.rows import RowFactors, join
from hessian_tasks.layered.sight import Seen, jets_at, see
from hessian_tasks.models import parameter_layout
from hessian_tasks.parameters import ParameterLayout
from hessian_tasks.problem import Problem, ResidualTerm, Term
from hessian_tasks.reading import (
    QuadraticModel,
    Reading,
    differentiate_residual,
    differentiate_twice,
    name_derivative,
    read_term,
)

__all__ = [
    "CurvatureRows",
    "ResidualRows",
    "TermExpansion",
    "expand_curvature",
    "expand_residual",
    "expand_term",
]

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class TermExpansion:
    """A term to second order in the weights.

    Attributes:
        parts: What comes through the network, one part for each evaluation of it.
        border: What the weights add that the term reads itself, or None.
        reading: What the term depends on, in words.
    """

    parts: list[Expansion]
    border: Border | None
    reading: str


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


def expand_term(problem: Problem, network: Network, term: Term) -> TermExpansion:
    """Expand a loss term around θ.

    Args:
        problem: The problem, its model resolved to a Keras model.
        network: Its network.
        term: The term.

    Raises:
        NotLayeredError: If it is not of the kind that is computed by layers.
    """
    reading, model = _differentiate(problem, network, term)
    seen = _see(network, reading, model)
    parts = [part for group in _groups(model, seen) for part in _expand(group, seen, model)]
    border = _border(problem, network, reading, model, seen)
    return TermExpansion(parts, border, _in_words(problem, reading, model))


def expand_curvature(problem: Problem, network: Network, term: Term) -> CurvatureRows:
    """Expand a loss term around θ with the networks linearised.

    Args:
        problem: The problem, its model resolved to a Keras model.
        network: Its network.
        term: The term.

    Raises:
        NotLayeredError: As :func:`expand_term` does.
    """
    reading, model = _differentiate(problem, network, term)
    # Streams that count only by their slopes need not travel.
    model = replace(model, slopes=[np.zeros_like(slope) for slope in model.slopes])
    seen = _see(network, reading, model)
    rows = []
    for numbers in _groups(model, seen):
        members = [seen[number] for number in numbers]
        rows.append(_rows(members, _bend(numbers, members, model)))
    return CurvatureRows(rows, _border(problem, network, reading, model, seen))


def expand_residual(problem: Problem, network: Network, term: ResidualTerm) -> ResidualRows:
    """Expand the residuals of a term around θ.

    Args:
        problem: The problem, its model resolved to a Keras model.
        network: Its network.
        term: The term.

    Raises:
        NotLayeredError: As :func:`expand_term` does.
    """
    # Of weight 1: J does not depend on the weight, which may be 0.
    term = replace(term, weight=1.0)
    reading = read_term(problem, term)
    jets = [jets_at(network, evaluation) for evaluation in reading.evaluations]
    differentiate_twice(problem, term, reading, jets)  # refuses what couples points
    model = differentiate_residual(problem, term, reading, jets)
    parts = []
    for evaluation, slopes in zip(reading.evaluations, model.slopes, strict=True):
        at = see(network, evaluation, [_by_slot(np.moveaxis(slopes, 2, 0))])
        if at is not None:
            signs = np.ones(slopes.shape[:2], network.dtype)
            parts.append(at.at.pull_back_rows(at.select(slopes, 2), at.positions, signs))
    entries = _entries(parameter_layout(problem.model), reading)
    return ResidualRows(join(parts) if parts else None, entries, model.direct.astype(network.dtype))


def _in_words(problem: Problem, reading: Reading, model: QuadraticModel) -> str:
    """What a term depends on, as ``u.xx, u.yy at 1,000 points, adds up point by point``."""
    found, joint = [], Joint(problem)
    columns, outputs_of = joint.column_names(), joint.outputs()
    for number, evaluation in enumerate(reading.evaluations):
        names = [
            name_derivative(network or "u", index, columns)
            for slot, index in enumerate(evaluation.indices)
            for network, outputs in outputs_of.items()
            if any(part[slot, outputs].any() for part in _parts(model, number))
        ]
        points = len(evaluation.points)
        if names:
            found.append(f"{', '.join(names)} at {points:,} point{'' if points == 1 else 's'}")
    table = parameter_layout(problem.model).variables
    words = ["; ".join(found) or "nothing of the network"]
    if reading.direct:
        words.append(f"reads {', '.join(table[position].path for position in reading.direct)}")
    return ", ".join([*words, "adds up point by point"] if found else words)


def _differentiate(
    problem: Problem, network: Network, term: Term
) -> tuple[Reading, QuadraticModel]:
    reading = read_term(problem, term)
    jets = [jets_at(network, evaluation) for evaluation in reading.evaluations]
    return reading, differentiate_twice(problem, term, reading, jets)


def _see(network: Network, reading: Reading, model: QuadraticModel) -> dict[int, Seen]:
    """The evaluations that matter, by their numbers."""
    seen = {}
    for number, evaluation in enumerate(reading.evaluations):
        found = see(network, evaluation, [_by_slot(part) for part in _parts(model, number)])
        if found is not None:
            seen[number] = found
    return seen


def _border(
    problem: Problem,
    network: Network,
    reading: Reading,
    model: QuadraticModel,
    seen: dict[int, Seen],
) -> Border | None:
    if not reading.direct:
        return None
    layout = parameter_layout(problem.model)
    rows = np.zeros((len(model.direct), layout.num_params), network.dtype)
    for number, at in seen.items():
        seeds = at.select(model.crosses[number], 2)
        rows += pull_back_sum(network, at, seeds, layout.num_params)
    return Border(_entries(layout, reading), rows, model.direct.astype(network.dtype))


def _parts(model: QuadraticModel, number: int) -> list[Floats]:
    """A term's derivatives by an evaluation's jets ``[R, outputs, M]``."""
    parts = [
        np.moveaxis(model.slopes[number], 0, 2),
        np.moveaxis(model.crosses[number], (2, 3), (0, 1)),
    ]
    for (first, _), bend in model.curvatures.items():
        if first == number:
            parts.append(np.moveaxis(bend, (1, 2), (0, 1)))
    return [part.reshape(*part.shape[:2], part[0, 0].size if part.size else 0) for part in parts]


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


def _entries(layout: ParameterLayout, reading: Reading) -> npt.NDArray[np.intp]:
    """Positions in θ of the weights that a term reads itself."""
    chosen = [layout.variables[position] for position in reading.direct]
    ranges = [np.arange(variable.offset, variable.stop) for variable in chosen]
    return np.concatenate([np.zeros(0, np.intp), *ranges])
