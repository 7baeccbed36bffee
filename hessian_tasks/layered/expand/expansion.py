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

from hessian_tasks.layered.expand._composition import Variable
from hessian_tasks.layered.expand._linearise import Linearised
from hessian_tasks.layered.expand.network import Array, WireStreams, curvature
from hessian_tasks.layered.expand.rows import RowFactors

__all__ = ["Expansion", "expand", "expand_value", "square_root"]


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


def square_root(bend: npt.NDArray[np.float64], dtype: np.dtype[Any]) -> tuple[Array, Array]:
    """Vectors q with ``ℓ'' = Σ ± q qᵀ`` at each point, ``[ρ, N, D]``, and the signs ``[ρ, N]``.

    Args:
        bend: ``ℓ''`` ``[N, D, D]``.
        dtype: In which it was computed.
    """
    values, vectors = np.linalg.eigh(bend)
    order = np.argsort(-np.abs(values), axis=1)
    values = np.take_along_axis(values, order, 1)
    vectors = np.take_along_axis(vectors, order[:, None], 2)
    # Eigenvalues below the rounding error of the largest stand for zeros.
    floor = 8 * bend.shape[1] * np.finfo(dtype).eps * np.abs(values[:, :1])
    rank = int((np.abs(values) > floor).any(axis=0).sum())
    roots = vectors[:, :, :rank] * np.sqrt(np.abs(values[:, None, :rank]))
    seeds = np.moveaxis(roots, -1, 0)
    return np.ascontiguousarray(seeds, dtype), np.sign(values[:, :rank]).T.astype(dtype)
