"""The weights that a loss term reads itself: a border of rows and columns.

A term ℓ(u(θ), w) that reads the weights w = S θ rather than through the network, a coefficient of
the equation, has beside the part that comes through u alone

    (∂u/∂θ)ᵀ ℓ_uw S + Sᵀ ℓ_wu (∂u/∂θ) + Sᵀ ℓ_ww S.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from hessian_tasks.layered.expand._sight import Seen
from hessian_tasks.layered.expand.network import Array, Network
from hessian_tasks.layered.expand.rows import RowFactors, slices
from hessian_tasks.spec import BlockRow

__all__ = ["Border", "pull_back_sum"]

# Bytes of the cotangents of all points that are pulled back at a time.
COTANGENT_BYTES = 32 * 2**20


@dataclass(frozen=True, eq=False)
class Border:
    """The border of one term.

    Attributes:
        entries: Positions of w in θ ``[m]``.
        rows: ``ℓ_wu ∂u/∂θ`` ``[m, P]``.
        corner: ``ℓ_ww`` ``[m, m]``.
    """

    entries: npt.NDArray[np.intp]
    rows: Array
    corner: Array

    def add_to(self, block: Array, row: BlockRow) -> None:
        """Add the border to a block row.

        Args:
            block: Entries ``[rows, P - row.start]``.
            row: The block row.
        """
        right = np.flatnonzero(self.entries >= row.start)
        inside = np.flatnonzero((self.entries >= row.start) & (self.entries < row.stop))
        columns, rows = self.entries[right] - row.start, self.entries[inside] - row.start
        block[:, columns] += self.rows[right, row.start : row.stop].T
        block[rows] += self.rows[inside, row.start :]
        block[np.ix_(rows, columns)] += self.corner[np.ix_(inside, right)]


def pull_back_sum(network: Network, seen: Seen, seeds: Array, num_params: int) -> Array:
    """``Σ_n seedᵀ ∂u_n/∂θ`` of each seed, ``[m, P]``.

    Args:
        network: The network.
        seen: An evaluation of it.
        seeds: ``[m, N, R, outputs]``.
        num_params: P.
    """
    found = np.zeros((len(seeds), num_params), network.dtype)
    widest = max(network.program.widths) * seen.at.num_streams * seen.at.num_points
    for part in slices(len(seeds), COTANGENT_BYTES // (widest * network.dtype.itemsize)):
        signs = np.ones(seeds[part].shape[:2], network.dtype)
        factors = seen.at.pull_back_rows(seeds[part], seen.positions, signs)
        for wire in network.program.sites:
            site = network.program.site(wire)
            found[part, site.offset : site.stop] = _sum_points(factors, wire)
    return found


def _sum_points(factors: RowFactors, wire: int) -> Array:
    inputs, cotangents = factors.inputs[wire], factors.cotangents[wire]
    depth = inputs.shape[0] * inputs.shape[1]
    left = inputs.reshape(depth, -1).T
    right = cotangents.reshape(len(cotangents), depth, -1)
    product: Array = np.matmul(left, right)
    return product.reshape(len(cotangents), -1)
