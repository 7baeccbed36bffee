"""Kronecker factors of Gauss-Newton matrices, as K-FAC and EKFAC have them; NumPy alone.

The block of a dense layer, its kernel with the bias as the last row, is taken for A ⊗ B by K-FAC
(J. Martens, R. Grosse, 2015), and for ``(U_A ⊗ U_B) diag(d) (U_A ⊗ U_B)ᵀ`` by EKFAC (T. George et
al., 2018), with the eigenvectors of A and of B.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

__all__ = ["Array", "LayerFactors", "TermFactors", "own_block"]

Array: TypeAlias = npt.NDArray[Any]


@dataclass(frozen=True, eq=False)
class LayerFactors:
    """A dense layer of R rows, that of the bias included, and W columns, in one term.

    Attributes:
        offset: Index in θ of its first parameter.
        factors: A ``[R, R]``, of what the layer multiplies, and B ``[W, W]``, of the slopes by what
            it makes.
        bases: Their eigenvectors U_A and U_B.
        diagonal: d, the block's diagonal in the basis ``U_A ⊗ U_B`` ``[R, W]``.

    Example:
        >>> a, b = np.diag([1.0, 2.0]), np.array([[3.0]])
        >>> layer = LayerFactors(0, (a, b), (np.eye(2), np.eye(1)), np.array([[3.0], [5.0]]))
        >>> np.diag(layer.product()), np.diag(layer.refitted())
        (array([3., 6.]), array([3., 5.]))
    """

    offset: int
    factors: tuple[Array, Array]
    bases: tuple[Array, Array]
    diagonal: Array

    @property
    def stop(self) -> int:
        """One past the index in θ of the last parameter."""
        return self.offset + self.diagonal.size

    def product(self) -> Array:
        """``A ⊗ B`` ``[R W, R W]``."""
        return np.kron(*self.factors)

    def refitted(self) -> Array:
        """``(U_A ⊗ U_B) diag(d) (U_A ⊗ U_B)ᵀ`` ``[R W, R W]``."""
        first, second = self.bases
        rows, columns = self.diagonal.shape
        # Entries ((i, o), (j, p)) are Σ_k U_A[i,k] U_A[j,k] (U_B diag(d_k) U_Bᵀ)[o,p].
        outer = (first[:, np.newaxis] * first).reshape(rows**2, rows)
        scaled = (second * self.diagonal[:, np.newaxis]) @ second.T
        found = (outer @ scaled.reshape(rows, columns**2)).reshape(rows, rows, columns, columns)
        return np.asarray(found.transpose(0, 2, 1, 3).reshape((rows * columns,) * 2))


@dataclass(frozen=True, eq=False)
class TermFactors:
    """One term: its layers, and what it reads of θ itself, which is kept as it is.

    Attributes:
        term: Name of the term.
        layers: Factors of the layers; a layer is there once for each group of evaluations that the
            term couples, and not at all where the term does not depend on it.
        entries: Positions in θ of what the term reads itself ``[m]``.
        corner: The term's Gauss-Newton matrix of these alone ``[m, m]``.
    """

    term: str
    layers: tuple[LayerFactors, ...]
    entries: npt.NDArray[np.intp]
    corner: Array


def own_block(terms: Sequence[TermFactors], rows: npt.NDArray[np.intp]) -> Array:
    """What terms add to some rows and columns by what they read themselves.

    Args:
        terms: The terms.
        rows: Positions in θ, ascending ``[n]``.

    Returns:
        Array ``[n, n]``.

    Example:
        >>> weight_decay = TermFactors("decay", (), np.array([0, 2]), np.diag([0.1, 0.2]))
        >>> own_block([weight_decay], np.array([1, 2]))
        array([[0. , 0. ],
               [0. , 0.2]])
    """
    found = np.zeros((len(rows), len(rows)))
    for term in terms:
        inside = np.flatnonzero(np.isin(term.entries, rows))
        places = np.searchsorted(rows, term.entries[inside])
        found[np.ix_(places, places)] += term.corner[np.ix_(inside, inside)]
    return found
