"""K-FAC and EKFAC of a loss as approximations of a stored matrix."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from hessian_tasks.layered.kronecker import LayerFactors, TermFactors, own_block
from pipeline.analysis._structured import Blocks, Structured, symmetric_size

__all__ = ["factored"]

Array: TypeAlias = npt.NDArray[Any]


def factored(exact: Array, terms: Sequence[TermFactors]) -> Iterator[Structured]:
    """Approximations by sums of Kronecker products, one for each term.

    What belongs to no dense layer, the problem's parameters, keeps the Gauss-Newton matrix that
    terms give it by reading it themselves.

    Args:
        exact: The matrix ``[P, P]``.
        terms: The factors of all terms.
    """
    layers = [layer for term in terms for layer in term.layers]
    numbers = sum(symmetric_size(len(factor)) for one in layers for factor in one.factors)
    for name, block_of, refitted in (
        ("K-FAC", LayerFactors.product, 0),
        ("EKFAC", LayerFactors.refitted, sum(one.diagonal.size for one in layers)),
    ):
        blocks, kept = [], 0
        for rows in _parts(len(exact), layers):
            block = own_block(terms, rows)
            kept += int(np.count_nonzero(np.triu(block)))
            for one in layers:
                if one.offset == rows[0]:
                    block += block_of(one)
            blocks.append((rows, block))
        yield Blocks(name, exact, blocks, numbers + refitted + kept)


def _parts(size: int, layers: Sequence[LayerFactors]) -> Iterator[Array]:
    """The rows of each layer, and those of no layer."""
    inside = np.zeros(size, bool)
    for start, stop in sorted({(one.offset, one.stop) for one in layers}):
        inside[start:stop] = True
        yield np.arange(start, stop)
    if not inside.all():
        yield np.flatnonzero(~inside)
