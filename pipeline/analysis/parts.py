"""The summands of a Hessian: by loss term, and each by its Gauss-Newton part and the rest.

    H = Σ_k H_k,    H_k = G_k + S_k,    G_k = 2 w_k / (N C) JᵀJ,    S_k = 2 w_k / (N C) Σ r ∂²r/∂θ²

where of terms that are no residuals S_k is Σ ℓ_u ∂²u/∂θ², with the loss ℓ of the networks' jets u.
H_k and G_k are stored, the residual curvature S_k is their difference. All are read tile by tile.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import psutil

from hessian_tasks.parameters import ParameterLayout
from hessian_tasks.spec import GAUSS_NEWTON, HESSIAN, MATRICES, BlockRow, Matrix
from pipeline.analysis._dense import dense_bytes, read_symmetric
from pipeline.analysis._tiles import Tile, TiledMatrix, complete_matrix, map_shares
from pipeline.analysis.operator import (
    HessianOperator,
    open_operator,
    relative_error,
)
from pipeline.analysis.sums import exact_sums
from pipeline.errors import PlanError, StoreMismatchError
from pipeline.store.agreement import differences
from pipeline.store.places import Place
from pipeline.store.store import HessianStore
from pipeline.units import format_bytes

__all__ = [
    "Part",
    "expect_matrix",
    "has_pair",
    "inner_products",
    "open_pair",
    "open_parts",
    "select_matrix",
]

Array = npt.NDArray[np.float64]
Kind = Literal["hessian", "ggn", "residual_curvature"]


@dataclass(frozen=True)
class Difference(TiledMatrix):
    """A stored matrix less another of the same shape, in its tiles and in float64.

    Attributes:
        taken: What is subtracted.
    """

    taken: TiledMatrix

    def read(self, row: BlockRow, col: BlockRow) -> npt.NDArray[Any]:
        """The entries of a tile, or of several side by side."""
        return np.asarray(super().read(row, col).astype(np.float64) - self.taken.read(row, col))


@dataclass(frozen=True)
class Part:
    """One summand of a Hessian, or the whole.

    Attributes:
        term: The loss term, or None for the total.
        kind: H, its Gauss-Newton part, or the rest.
        stores: Where it is stored; if there are two, the second's array is subtracted.
        matrix: Its tiles.
        error: Estimate of the Frobenius norm of the error of its entries.
    """

    term: str | None
    kind: Kind
    stores: tuple[HessianStore, ...]
    matrix: TiledMatrix
    error: float

    @property
    def layout(self) -> ParameterLayout:
        """Which parameter each row is."""
        return self.stores[0].layout

    @property
    def label(self) -> str:
        """``"H pde"``, ``"G pde"``, ``"H-G"``: what it is called in tables."""
        symbol = {"hessian": "H", "ggn": "G", "residual_curvature": "H-G"}[self.kind]
        return f"{symbol} {self.term}" if self.term else symbol

    def dense(self, num_matrices: int = 1) -> Array:
        """All of it in float64, exactly symmetric, ``[P, P]``.

        Args:
            num_matrices: How many such matrices the caller needs at once, this one included.

        Raises:
            PlanError: If that is more memory than is free.
        """
        needed = num_matrices * dense_bytes(self.layout.num_params)
        free = psutil.virtual_memory().available
        if needed > free:
            raise PlanError(
                f"{self.label} with {self.layout.num_params:,} parameters needs "
                f"{format_bytes(needed)} as a dense matrix with what is computed of it, but "
                f"{format_bytes(free)} are free. Its products need less: open_operator."
            )
        return read_symmetric(self.matrix)

    def operator(self, norm: float) -> HessianOperator:
        """It as products, each one pass over the tiles on and right of the diagonal.

        Args:
            norm: Its Frobenius norm, which :func:`inner_products` gives.
        """
        whole, *taken = (open_operator(store, self.term) for store in self.stores)
        return HessianOperator(
            lambda vectors: whole @ vectors - sum(other @ vectors for other in taken),
            self.layout,
            relative_error=self.error / norm if norm else 0.0,
            norm=norm,
            title=self.label,
        )


def expect_matrix(store: HessianStore | Place, matrix: Matrix) -> HessianStore:
    """Open a store that has to hold a certain matrix, as one of that alone.

    Raises:
        StoreMismatchError: If it does not.
        StoreError: If it cannot be read.
    """
    opened = store if isinstance(store, HessianStore) else HessianStore(store)
    if matrix not in opened.matrices:
        way = "with --engine ggn" if matrix == GAUSS_NEWTON else "without --engine ggn"
        raise StoreMismatchError(
            f"{opened.location} holds the {opened.matrix.title}, but the {matrix.title} is needed. "
            f"Compute it into another --store, {way}, or both into one with --with-ggn."
        )
    return opened.select(matrix)


def select_matrix(
    store: HessianStore | Place, matrix: Literal["hessian", "ggn"] | None = None
) -> HessianStore:
    """A store as one of a single matrix, for questions to that.

    What takes a store takes the result. Without it, questions to a store of both matrices are to
    the Hessian, and those that compare the two find both.

    Args:
        store: A store, or where it is.
        matrix: Which; what the store holds by default, both if it does.

    Raises:
        StoreMismatchError: If it does not hold it.
        StoreError: If it cannot be read.

    Example:
        >>> import tempfile
        >>> from pipeline import RunOptions, compute_hessian, load_problem, spectrum
        >>> small = load_problem("regression", width=4, depth=1, num_samples=9, dtype="float64")
        >>> with tempfile.TemporaryDirectory() as directory:
        ...     place, options = f"{directory}/both.zarr", RunOptions(with_ggn=True)
        ...     ggn = compute_hessian(small, place, options=options).ggn.to_numpy()
        ...     found = spectrum(select_matrix(place, "ggn"))
        >>> np.allclose(found.trace, ggn.trace()), found.inertia[2]
        (True, 0)
    """
    if matrix is not None:
        return expect_matrix(store, MATRICES[matrix])
    return store if isinstance(store, HessianStore) else HessianStore(store)


def has_pair(hessian: HessianStore, ggn: HessianStore | Place | None) -> bool:
    """Whether there is a Gauss-Newton matrix for :func:`open_pair`, in one store or in another."""
    return ggn is not None or len(hessian.matrices) > 1


def open_pair(
    hessian: HessianStore | Place, ggn: HessianStore | Place | None = None
) -> tuple[HessianStore, HessianStore]:
    """Open a store of the Hessian and one of the Gauss-Newton matrix of the same inputs.

    Args:
        hessian: The one.
        ggn: The other, if that is another.

    Raises:
        StoreMismatchError: If the stores were made from different inputs, naming what differs, or
            do not hold these matrices, or one is without a term.
        StoreError: If one cannot be read.
    """
    opened = select_matrix(hessian)
    first = expect_matrix(opened, HESSIAN)
    second = expect_matrix(opened if ggn is None else ggn, GAUSS_NEWTON)
    differing = differences(first.attributes["fingerprint"], second.attributes["fingerprint"])
    if differing:
        raise StoreMismatchError(
            f"{first.location} and {second.location} were made from different inputs: "
            f"{differing}. Compute both from the same problem, options and weights."
        )
    if second.left_out:
        raise StoreMismatchError(
            f"{second.location} is without {', '.join(second.left_out)}, of which there is no "
            f"Gauss-Newton matrix, so that its total and that of {first.location} are sums over "
            "different terms. Compute both stores for a problem without them."
        )
    return first, second


def open_parts(
    hessian: HessianStore | Place, ggn: HessianStore | Place | None = None
) -> list[Part]:
    """The Hessian of a store and its summands.

    Args:
        hessian: A complete store of the Hessian; with terms if made by ``--per-term``.
        ggn: A complete store of the Gauss-Newton matrix of the same inputs; by default the store
            itself, if it holds that, too.

    Returns:
        H first, then its Gauss-Newton part and the rest if there is one, then the same of every
        term, as far as it is stored.

    Raises:
        StoreMismatchError: If the stores do not belong together.
        StoreError: If block rows or terms are missing.
    """
    opened, second = select_matrix(hessian), None
    first = expect_matrix(opened, HESSIAN)
    if ggn is not None or GAUSS_NEWTON in opened.matrices:
        first, second = open_pair(opened, ggn)
    parts = []
    for term in first.arrays:
        parts.append(_part(term, "hessian", first))
        if second is not None and term in second.arrays:
            parts.append(_part(term, "ggn", second))
            parts.append(_part(term, "residual_curvature", first, second))
    return parts


def _part(term: str | None, kind: Kind, *stores: HessianStore) -> Part:
    whole, *taken = (complete_matrix(store, term)[1] for store in stores)
    matrix = Difference(whole.store, whole.name, taken[0]) if taken else whole
    # Errors of two arrays are independent.
    error = float(np.linalg.norm([relative_error(s) * exact_sums(s, term)[1] for s in stores]))
    return Part(term, kind, stores, matrix, error)


def inner_products(parts: Sequence[Part]) -> tuple[Array, Array]:
    """Traces and Frobenius inner products of parts of one Hessian, in one pass.

    Memory: two tiles a part and thread in float64.

    Returns:
        ``tr A_i`` ``[n]``, and ``⟨A_i, A_j⟩_F = tr A_iᵀA_j`` ``[n, n]``.
    """
    tiles = parts[0].matrix.upper()
    shares: list[Any] = map_shares(_add_products, tiles, parts=list(parts))
    traces, products = (np.sum(values, axis=0) for values in zip(*shares, strict=True))
    return traces, products


def _add_products(tiles: Sequence[Tile], parts: Sequence[Part]) -> tuple[Array, Array]:
    traces, products = np.zeros(len(parts)), np.zeros((len(parts),) * 2)
    for row, col in tiles:
        entries = np.stack([part.matrix.read(row, col).astype(np.float64) for part in parts])
        if row == col:
            traces += np.einsum("pii->p", entries)
        flat = entries.reshape(len(parts), -1)
        # A tile off the diagonal stands for its transpose, too.
        products += (1 if row == col else 2) * (flat @ flat.T)
    return traces, products
