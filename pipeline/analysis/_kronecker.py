"""K-FAC and EKFAC of a loss as approximations of a stored matrix."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from hessian_tasks.layered.kronecker import LayerFactors, TermFactors, own_block
from pipeline.analysis._structured import Blocks, Structured, symmetric_size

__all__ = ["EKFAC", "KFAC", "factored"]

Array: TypeAlias = npt.NDArray[Any]

# What they are called.
KFAC, EKFAC = "K-FAC", "EKFAC"


def factored(exact: Array, terms: Sequence[TermFactors]) -> Iterator[Structured]:
    """Approximations by sums of Kronecker products, one for each term.

    What belongs to no dense layer, the problem's parameters, keeps the Gauss-Newton matrix that
    terms give it by reading it themselves.

    Args:
        exact: The matrix ``[P, P]``.
        terms: The factors of all terms.
    """
    layers = [layer for term in terms for layer in term.layers]
    parts = [np.arange(*span) for span in sorted({(one.offset, one.stop) for one in layers})]
    rest = np.setdiff1d(np.arange(len(exact)), np.concatenate([np.zeros(0, np.intp), *parts]))
    own = [(rows, own_block(terms, rows)) for rows in [*parts, rest] if len(rows)]
    kept = sum(int(np.count_nonzero(np.triu(block))) for _, block in own)
    numbers = [symmetric_size(len(one.inputs)) + symmetric_size(len(one.outputs)) for one in layers]
    yield Blocks(KFAC, exact, _sum(own, layers, LayerFactors.product), kept + sum(numbers))
    refitted = sum(one.diagonal.size for one in layers)
    blocks = _sum(own, layers, LayerFactors.refitted)
    yield Blocks(EKFAC, exact, blocks, kept + sum(numbers) + refitted)


def _sum(
    own: Sequence[tuple[Array, Array]],
    layers: Sequence[LayerFactors],
    block_of: Callable[[LayerFactors], Array],
) -> list[tuple[Array, Array]]:
    found = []
    for rows, block in own:
        parts = (block_of(layer) for layer in layers if layer.offset == rows[0])
        found.append((rows, sum(parts, block.copy())))
    return found
