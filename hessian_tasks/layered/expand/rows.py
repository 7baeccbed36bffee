"""Rows of Jacobians with respect to the weights, in factors.

A quantity r_n of one point has, with Z = A W at a site and its cotangents over the streams s,

    ∂r_n/∂W[i,j] = Σ_s A[n,s,i] · ∂r_n/∂Z[n,s,j],

so that rows of ``[P]`` numbers are kept as two factors, and formed where they are needed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from hessian_tasks.layered.expand.network import Array, Network, WireStreams

__all__ = ["RowFactors", "join", "row_factors", "site_inputs", "slices", "times_inputs"]


@dataclass(frozen=True, eq=False)
class RowFactors:
    """Rows ``[ρ, N]`` of a Jacobian by sites.

    Attributes:
        inputs: Of every site what it multiplies, with the 1 of the bias at the end,
            ``[N, S, num_rows]``.
        cotangents: Of every site ``[ρ, N, S, width]``.
        signs: With which sign each row counts, ``[ρ, N]``.
    """

    inputs: Mapping[int, Array]
    cotangents: Mapping[int, Array]
    signs: Array


def site_inputs(
    network: Network, wires: WireStreams, num_points: int, num_streams: int
) -> dict[int, Array]:
    """Streams of what every site multiplies, ``[N, S, num_rows]``."""
    found = {}
    for wire in network.program.sites:
        site = network.program.site(wire)
        inputs = np.zeros((num_points, num_streams, site.num_rows), network.dtype)
        if site.bias:
            inputs[:, 0, -1] = 1
        if site.source is not None:
            for stream, values in wires[site.source].items():
                inputs[:, stream, : site.num_inputs] = values
        found[wire] = inputs
    return found


def row_factors(
    network: Network, inputs: Mapping[int, Array], cotangents: WireStreams, signs: Array
) -> RowFactors:
    """The factors of rows whose cotangents are known.

    Args:
        network: The network.
        inputs: Of every site.
        cotangents: Of every stream of every wire ``[ρ, N, width]``.
        signs: Signs of the rows ``[ρ, N]``.
    """
    stacked = {}
    for wire, given in inputs.items():
        shape = (*signs.shape, given.shape[1], network.program.widths[wire])
        stacked[wire] = _stack(cotangents[wire], shape, network.dtype)
    return RowFactors(inputs, stacked, signs)


def _stack(streams: dict[int, Array], shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
    stacked = np.zeros(shape, dtype)
    for stream, values in streams.items():
        stacked[..., stream, :] = values
    return stacked


def join(parts: Sequence[RowFactors]) -> RowFactors:
    """Rows that are sums, as of a quantity that depends on the network at several points."""
    sites = parts[0].inputs
    return RowFactors(
        inputs={w: np.concatenate([part.inputs[w] for part in parts], axis=1) for w in sites},
        cotangents={
            w: np.concatenate([part.cotangents[w] for part in parts], axis=2) for w in sites
        },
        signs=parts[0].signs,
    )


def times_inputs(inputs: Array, factor: Array) -> Array:
    """``Σ_s A[n,s,i] F[r,n,s,j]`` for inputs ``[n, S, i]``, as a matrix ``[r·n, i·j]``."""
    product: Array = np.matmul(inputs.swapaxes(1, 2), factor)
    return product.reshape(product.shape[0] * product.shape[1], -1)


def slices(length: int, step: int) -> Iterator[slice]:
    """Cut ``[0, length)`` into slices of ``step``, or of 1 if that is less than 1."""
    for start in range(0, length, max(1, step)):
        yield slice(start, min(start + max(1, step), length))
