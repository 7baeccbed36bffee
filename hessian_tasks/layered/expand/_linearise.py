"""The network at the points of a term, to first order in its weights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from hessian_tasks.layered.expand._streams import Streams
from hessian_tasks.layered.expand.network import Array, Derivatives, Jacobian, Network, WireStreams
from hessian_tasks.layered.expand.rows import RowFactors, row_factors, site_inputs
from hessian_tasks.layered.read.program import Node

__all__ = ["Linearised", "linearise"]


@dataclass(frozen=True, eq=False)
class Linearised:
    """The streams of a network at N points, and how they depend on each other.

    Attributes:
        network: The network.
        streams: Which streams.
        num_points: N.
        wires: Streams of every wire.
        derivatives: Of the function of every node, by its wire.
        jacobians: Of every node, by its wire.
        inputs: Of every site the streams of what it multiplies, with the 1 of the bias at the
            end, ``[N, S, num_rows]``.
    """

    network: Network
    streams: Streams
    num_points: int
    wires: WireStreams
    derivatives: list[Derivatives]
    jacobians: dict[int, Jacobian]
    inputs: dict[int, Array]

    @property
    def num_streams(self) -> int:
        """S."""
        return len(self.streams)

    def input_streams(self, site: int) -> list[int]:
        """The streams of a site's inputs that are not zero."""
        return [s for s in range(self.num_streams) if self.inputs[site][:, s].any()]

    def pull_back(self, seeds: Array, positions: Sequence[int]) -> WireStreams:
        """Cotangents of all wires.

        Args:
            seeds: Cotangents of the output ``[..., N, R, outputs]``.
            positions: The R streams that they belong to.
        """
        used = {p: seeds[..., i, :].astype(self.network.dtype) for i, p in enumerate(positions)}
        return self.network.pull_back({p: v for p, v in used.items() if v.any()}, self.jacobians)

    def pull_back_rows(self, seeds: Array, positions: Sequence[int], signs: Array) -> RowFactors:
        """Rows of a Jacobian from those of the output.

        Args:
            seeds: Rows of its derivative with respect to the output ``[ρ, N, R, outputs]``.
            positions: The R streams.
            signs: Signs of the rows ``[ρ, N]``.
        """
        return row_factors(self.network, self.inputs, self.pull_back(seeds, positions), signs)


def linearise(network: Network, points: Array, streams: Streams) -> Linearised:
    """Evaluate a network.

    Args:
        network: The network.
        points: Points ``[N, d]``.
        streams: Which streams.
    """
    points = np.asarray(points, network.dtype)
    wires, derivatives = network.forward(points, streams)
    nodes = [w for w, op in enumerate(network.program.operations) if isinstance(op, Node)]
    return Linearised(
        network=network,
        streams=streams,
        num_points=len(points),
        wires=wires,
        derivatives=derivatives,
        jacobians={w: network.jacobian(w, streams, derivatives[w], wires) for w in nodes},
        inputs=site_inputs(network, wires, len(points), len(streams)),
    )
