"""What a loss term sees of the network: evaluations, each with no more streams than matter.

Of the derivatives that a term asks for, those with ℓ' = 0 and ℓ'' = 0 at θ need not travel, and of
the highest ones only as many sums as ℓ depends on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from hessian_tasks.jets import Index
from hessian_tasks.layered.expand._linearise import Linearised, linearise
from hessian_tasks.layered.expand._streams import Streams, closure, maximal, row_space
from hessian_tasks.layered.expand.network import Network
from hessian_tasks.reading import Evaluation

__all__ = ["Seen", "choose_streams", "see"]

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Seen:
    """The network at the points of one evaluation.

    Attributes:
        at: Its streams there, and how they depend on each other.
        slots: Of the derivatives that the term asks for those which stand for the R streams that it
            depends on.
        positions: These streams.
    """

    at: Linearised
    slots: list[int]
    positions: list[int]

    def select(self, derivatives: Floats, axis: int) -> Floats:
        """Derivatives by the R streams, from those by all that the term asks for."""
        return np.take(derivatives, self.slots, axis)


def see(
    network: Network, evaluation: Evaluation, vectors: Sequence[Floats], merged_from: int
) -> Seen | None:
    """Carry to the points of an evaluation what matters there.

    Args:
        network: The network.
        evaluation: The evaluation.
        vectors: What is needed of the term's derivatives, each ``[R, M]`` with one row for each
            derivative that the evaluation asks for.
        merged_from: As in :func:`merge`.

    Returns:
        The network there, or None if the term does not depend on it.
    """
    streams, used = choose_streams(evaluation, vectors, network.dtype, merged_from)
    if not used:
        return None
    at = linearise(network, evaluation.points, streams)
    return Seen(at, [slot for slot, _ in used], [stream for _, stream in used])


def choose_streams(
    evaluation: Evaluation, vectors: Sequence[Floats], dtype: np.dtype[Any], merged_from: int
) -> tuple[Streams, list[tuple[int, int]]]:
    """What has to be carried to the points of an evaluation: see :func:`see`.

    Returns:
        The streams, and for each one that the term depends on ``(slot, stream)``: of the
        derivatives that the evaluation asks for the one that stands for it. None of these if the
        term does not depend on any.
    """
    stacked = np.concatenate(vectors, axis=1)
    matter = [slot for slot, row in enumerate(stacked) if row.any()]
    if not matter:
        return Streams((), ()), []
    indices = [evaluation.indices[slot] for slot in matter]
    streams, used = merge(indices, stacked[matter], dtype, merged_from)
    return streams, [(matter[slot], stream) for slot, stream in used]


def merge(
    indices: Sequence[Index], vectors: Floats, dtype: np.dtype[Any], merged_from: int
) -> tuple[Streams, list[tuple[int, int]]]:
    """Merge the highest derivatives as far as the loss only depends on sums of them.

    Args:
        indices: The derivatives that the term uses.
        vectors: The term's derivatives with respect to each of them, one a row.
        dtype: Dtype in which these were computed.
        merged_from: Derivatives of lower order are streams of their own.

    Returns:
        The streams, and for each one that the term depends on ``(slot, stream)``: the slot in
        ``indices`` that has the derivatives with respect to it.
    """
    top = [index for index in maximal(indices) if len(index) >= merged_from]
    slots = [indices.index(index) for index in top]
    basis, pivots = row_space(vectors[slots].T, 50 * float(np.finfo(dtype).eps))
    plain = tuple(index for index in closure(indices) if index not in top)
    merged = tuple(
        tuple((index, float(c)) for index, c in zip(top, row, strict=True) if c) for row in basis
    )
    used = [(slot, plain.index(i)) for slot, i in enumerate(indices) if i not in top]
    used += [(slots[pivot], len(plain) + q) for q, pivot in enumerate(pivots)]
    return Streams(plain, merged), used
