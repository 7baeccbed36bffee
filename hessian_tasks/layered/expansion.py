"""The loss of one term, expanded around θ: the numbers that all entries are made of.

With u(θ) the network's streams at the points and ℓ(u) the loss of the term,

    H = (∂u/∂θ)ᵀ ℓ''(u) (∂u/∂θ) + Σ ℓ'(u) ∂²u/∂θ².

The first part is a product of matrices with ρ rows a point, where ρ is the rank of ℓ'' at a
point: the number of components of a residual that is linear in the jets. The second couples only
those streams that Faà di Bruno's formula couples, 9 of 16 pairs for a Laplacian. A term
with one stream has nothing to gain from that split; there both parts are kept together.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from hessian_tasks.layered.composition import Variable
from hessian_tasks.layered.linearise import Linearised, linearise
from hessian_tasks.layered.network import Array, Network, WireStreams, curvature
from hessian_tasks.layered.quadratic import QuadraticModel, expand_residual
from hessian_tasks.layered.rows import RowFactors
from hessian_tasks.layered.streams import Index, Streams, closure, maximal, row_space
from hessian_tasks.loss import required_indices
from hessian_tasks.problem import Problem, ResidualTerm

__all__ = [
    "Expansion",
    "LocalModel",
    "expand",
    "expand_term",
    "expand_value",
    "output_jets",
    "read_term",
    "square_root",
]


@dataclass(frozen=True, eq=False)
class Expansion(Linearised):
    """One term around θ, or its part from one evaluation of the network.

    Attributes:
        cotangents: ``∂ℓ/∂`` of every stream of every wire, ``[N, width]`` each.
        curvatures: Of every node: second derivatives contracted with the cotangents, by
            ``((a, s), (b, t))``.
        output_curvature: ℓ'' by streams ``(s, t)``, ``[N, outputs, outputs]`` each; empty where
            :attr:`rows` has it.
        rows: The rows of ``|ℓ''|^½ ∂u/∂θ``, with the signs of the eigenvalues of ℓ'', or None.
    """

    cotangents: WireStreams
    curvatures: dict[int, dict[tuple[Variable, Variable], Array]]
    output_curvature: dict[tuple[int, int], Array]
    rows: RowFactors | None


@dataclass(frozen=True)
class LocalModel:
    """A term as a function of the streams at its points, to second order.

    Attributes:
        points: The points ``[N, d]``.
        streams: The streams that travel.
        positions: Those of them that the term depends on, R of them.
        model: The term's derivatives with respect to these R.
    """

    points: Array
    streams: Streams
    positions: list[int]
    model: QuadraticModel


def expand_term(problem: Problem, network: Network, term: ResidualTerm) -> Expansion:
    """Expand a residual term.

    Raises:
        NotLayeredError: If its residual couples points.
    """
    local = read_term(problem, network, term)
    at = linearise(network, local.points, local.streams)
    slope, bend, positions = local.model.slope, local.model.curvature, local.positions
    if len(local.streams) == 1:
        return expand_value(at, slope, bend)
    seeds, signs = square_root(bend, network.dtype)
    return expand(at, slope, positions, {}, at.pull_back_rows(seeds, positions, signs))


def expand_value(
    at: Linearised, slope: npt.NDArray[np.float64], bend: npt.NDArray[np.float64]
) -> Expansion:
    """Expand a term that depends on the value alone: ℓ'' is kept together with the rest.

    Args:
        at: The network, with one stream.
        slope: ``∂ℓ/∂u`` ``[N, 1, outputs]``.
        bend: ``∂²ℓ/∂u∂u`` ``[N, 1, outputs, 1, outputs]``.
    """
    return expand(at, slope, [0], {(0, 0): bend[:, 0, :, 0].astype(at.network.dtype)}, None)


def expand(
    at: Linearised,
    slope: npt.NDArray[np.float64],
    positions: Sequence[int],
    output_curvature: dict[tuple[int, int], Array],
    rows: RowFactors | None,
) -> Expansion:
    """Expand a term whose derivatives with respect to the output are known.

    Args:
        at: The network.
        slope: ``∂ℓ/∂u`` ``[N, R, outputs]``.
        positions: The R streams.
        output_curvature: ℓ'', if it is to be kept together with the rest.
        rows: Its rows otherwise.
    """
    cotangents = at.pull_back(slope, positions)
    curvatures = {}
    for wire in at.jacobians:
        inputs = [at.wires[source] for source in at.network.program.inputs(wire)]
        curvatures[wire] = curvature(at.streams, at.derivatives[wire], inputs, cotangents[wire])
    return Expansion(
        **vars(at),
        cotangents=cotangents,
        curvatures=curvatures,
        output_curvature=output_curvature,
        rows=rows,
    )


def read_term(problem: Problem, network: Network, term: ResidualTerm) -> LocalModel:
    """Find the streams of a residual term, and its derivatives with respect to them.

    Raises:
        NotLayeredError: If its residual couples points.
    """
    indices = sorted(required_indices(problem, term), key=lambda index: (len(index), index))
    points = np.asarray(term.points, network.dtype)
    every = Streams(tuple(closure(indices)))
    wires, _ = network.forward(points, every)
    jets = output_jets(network, wires, len(points), every, indices)
    model = expand_residual(term, problem.coordinates, indices, jets)
    streams, used = merge(every, indices, model, network.dtype)
    slots = [slot for slot, _ in used]
    positions = [stream for _, stream in used]
    model = QuadraticModel(
        slope=model.slope[:, slots],
        curvature=model.curvature[:, slots][:, :, :, slots],
        jacobian=model.jacobian[:, :, slots],
    )
    return LocalModel(points, streams, positions, model)


def output_jets(
    network: Network,
    wires: WireStreams,
    num_points: int,
    streams: Streams,
    indices: Sequence[Index],
) -> Array:
    """Derivatives of the network's output at its points, ``[N, R, outputs]``.

    Args:
        network: The network.
        wires: Streams of every wire; those that are zero may be missing.
        num_points: N.
        streams: Which streams.
        indices: The R derivatives.
    """
    wire = network.program.output
    output, zero = wires[wire], np.zeros((num_points, network.program.widths[wire]), network.dtype)
    return np.stack([output.get(streams.plain.index(i), zero) for i in indices], axis=1)


def merge(
    streams: Streams, indices: Sequence[Index], model: QuadraticModel, dtype: np.dtype[Any]
) -> tuple[Streams, list[tuple[int, int]]]:
    """Merge the highest derivatives as far as the loss only depends on sums of them.

    Args:
        streams: All streams, unmerged.
        indices: The derivatives that the term uses.
        model: Its loss to second order.
        dtype: Dtype in which the model was evaluated.

    Returns:
        The streams, and for each one that ℓ' and ℓ'' depend on ``(slot, stream)``: the slot in
        ``model`` that has the derivatives with respect to it.
    """
    top = [index for index in maximal(indices) if index]
    slots = [indices.index(index) for index in top]
    vectors = [
        np.moveaxis(model.slope, 1, 0),
        np.moveaxis(model.curvature, 1, 0),
        np.moveaxis(model.jacobian, 2, 0),
    ]
    stacked = np.concatenate([array.reshape(len(indices), -1) for array in vectors], axis=1)
    basis, pivots = row_space(stacked[slots].T, 50 * float(np.finfo(dtype).eps))
    plain = tuple(index for index in streams.plain if index not in top)
    merged = tuple(
        tuple((index, float(c)) for index, c in zip(top, row, strict=True) if c) for row in basis
    )
    used = [(slot, plain.index(i)) for slot, i in enumerate(indices) if i not in top]
    used += [(slots[pivot], len(plain) + q) for q, pivot in enumerate(pivots)]
    return Streams(plain, merged), used


def square_root(bend: npt.NDArray[np.float64], dtype: np.dtype[Any]) -> tuple[Array, Array]:
    """Vectors q with ``ℓ'' = Σ ± q qᵀ`` at each point, ``[ρ, N, R, outputs]``, and the signs."""
    num_points, num_streams, num_outputs = bend.shape[:3]
    side = num_streams * num_outputs
    values, vectors = np.linalg.eigh(bend.reshape(num_points, side, side))
    order = np.argsort(-np.abs(values), axis=1)
    values = np.take_along_axis(values, order, 1)
    vectors = np.take_along_axis(vectors, order[:, None], 2)
    # Eigenvalues below the rounding error of the largest stand for zeros.
    floor = 8 * side * np.finfo(dtype).eps * np.abs(values[:, :1])
    rank = int((np.abs(values) > floor).any(axis=0).sum())
    roots = vectors[:, :, :rank] * np.sqrt(np.abs(values[:, None, :rank]))
    shape = (num_points, num_streams, num_outputs, rank)
    seeds = np.moveaxis(roots.reshape(shape), -1, 0)
    return np.ascontiguousarray(seeds, dtype), np.sign(values[:, :rank]).T.astype(dtype)
