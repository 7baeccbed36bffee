"""Eigenpairs at both ends of the spectrum, in few passes over the matrix."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from pipeline.analysis._lanczos import Search, basis_size
from pipeline.analysis.operator import HessianOperator

__all__ = ["Eigenpairs", "SearchCost", "extreme_eigenpairs", "search_cost", "tolerance_of"]

Array: TypeAlias = npt.NDArray[Any]

# Out of core a pass costs what reading does, up to about this many vectors.
BLOCK = 32
# Eigenvectors that are multiplied together in the end.
TOGETHER = 128
# Of a dense problem: the matrix as it was and is, its eigenvectors likewise, and twice as much that
# LAPACK's syevd works in.
DENSE_COPIES = 6


@dataclass(frozen=True)
class Eigenpairs:
    """Some eigenpairs of a symmetric matrix, ascending.

    Attributes:
        values: ``λ`` ``[K]``.
        vectors: Unit vectors u ``[P, K]``.
        residuals: ``‖A u - λ u‖`` ``[K]``, multiplied out. An eigenvalue of A is that close to λ,
            and if the nearest other one is δ away, even ``residual² / δ`` (B. Parlett, The
            Symmetric Eigenvalue Problem, sections 4.5 and 11.7).
        tolerance: What residuals were to reach.
        num_passes: How often the matrix was read or the loss differentiated, for blocks of vectors.
    """

    values: Array
    vectors: Array
    residuals: Array
    tolerance: float
    num_passes: int

    @property
    def converged(self) -> npt.NDArray[np.bool_]:
        """Which residuals reached the tolerance ``[K]``."""
        return np.asarray(self.residuals <= self.tolerance)

    def errors(self, noise_floor: float) -> Array:
        """Bounds on the errors of the values as eigenvalues of H, if products are those of H + E.

        Within the residual of λ is an eigenvalue of A; that of H is no further from it than the
        noise floor, a bound on ``‖E‖₂``.
        """
        return np.asarray(self.residuals + noise_floor)

    def only(self, chosen: npt.NDArray[np.bool_]) -> Eigenpairs:
        """Those of them that a mask ``[K]`` chooses."""
        return replace(
            self,
            values=self.values[chosen],
            vectors=self.vectors[:, chosen],
            residuals=self.residuals[chosen],
        )


@dataclass(frozen=True)
class SearchCost:
    """What a search takes at most.

    Attributes:
        num_products: Products with single vectors.
        num_bytes: Memory of the basis, of the dense problem in it, and of the eigenvectors.
    """

    num_products: int
    num_bytes: int


def search_cost(num_params: int, num_extreme: int, block: int, max_passes: int) -> SearchCost:
    """What :func:`extreme_eigenpairs` takes at most, from the same arguments.

    A basis of all directions is no search: the matrix is multiplied out, and its eigenvalues are
    those of an array.

    Example:
        >>> search_cost(100_000, 5, block=4, max_passes=500)
        SearchCost(num_products=2018, num_bytes=80235200)
        >>> search_cost(60, 5, block=4, max_passes=500).num_products
        60
    """
    basis, wanted = basis_size(num_extreme, block), min(2 * num_extreme, num_params)
    products = (max_passes + 2) * block + wanted
    if basis >= num_params:
        basis = products = num_params
    # As many eigenvectors in order, and products and residuals of those multiplied together.
    vectors = basis + wanted + 2 * min(wanted, TOGETHER)
    numbers = vectors * num_params + DENSE_COPIES * basis**2
    return SearchCost(products, numbers * np.dtype(np.float64).itemsize)


def extreme_eigenpairs(
    operator: HessianOperator,
    num_extreme: int = 10,
    *,
    tolerance: float | None = None,
    block: int = BLOCK,
    max_passes: int = 100,
    seed: int = 0,
    start: Array | None = None,
) -> Eigenpairs:
    """The smallest and the largest eigenvalues, by block Lanczos with thick restarts.

    Each pass multiplies ``block`` vectors, the residuals of the last, and adds them to an
    orthonormal basis V; eigenvalues and vectors of ``Vᵀ A V`` are those of A with known residuals.
    A full basis is cut back to the vectors nearest to both ends (K. Wu, H. Simon, 2000; M. Zhou,
    Y. Saad, 2008). Blocks, because a pass is what costs (``docs/howto/analysis.md`` compares).

    A multiple eigenvalue shows itself once for every random vector. So once all residuals are
    small, as many new ones join for a pass: what then appears at the ends was missing, and it goes
    on. Of a multiplicity above ``block`` copies may still be missing.

    Memory: ``[P, K]`` in float64, K being ``6 num_extreme + 3 block`` or ``4 num_extreme +
    15 block``, the larger one, and 256 more at most. Products: at most ``max_passes`` blocks and
    two more, and one of each eigenvector.

    Args:
        operator: The matrix.
        num_extreme: Eigenvalues at each end.
        tolerance: Largest residual to accept; by default the noise floor, below which the matrix
            does not decide them, but at least ``1e-10`` of the largest eigenvalue.
        block: Vectors that are multiplied together; where products cost in proportion to vectors,
            as those by differentiation do, take few.
        max_passes: When to give up; look at ``converged`` of what is returned.
        seed: Of the random first block.
        start: Vectors ``[P, K]`` near the eigenvectors, such as those of a matrix near by. The
            first block is then made of random sums of them, and of little else, so that the
            first Krylov space holds what they span.

    Raises:
        ValueError: If ``num_extreme`` or ``block`` is not positive.

    Example:
        >>> from hessian_tasks import ParameterLayout
        >>> diagonal = np.linspace(-1.0, 1.0, 1000)[:, None]
        >>> layout = ParameterLayout.of([("a/kernel", (1000,))])
        >>> operator = HessianOperator(lambda v: diagonal * v, layout, relative_error=0.0)
        >>> found = extreme_eigenpairs(operator, 1, tolerance=1e-6)
        >>> bool(found.converged.all()), [round(float(value), 6) for value in found.values]
        (True, [-1.0, 1.0])
    """
    if num_extreme < 1 or block < 1:
        raise ValueError(f"num_extreme is {num_extreme} and block {block}; expected 1 or more")
    if basis_size(num_extreme, block) >= operator.shape[0]:
        return _all_of_small(operator, num_extreme, tolerance)
    search = Search(operator, num_extreme, block, np.random.default_rng(seed))
    if start is not None:
        search.begin(start)
    # One block is for the residuals in the end.
    confirmed = False
    while search.num_products < (max_passes - 1) * block:
        search.extend()
        if not search.due:
            continue
        search.look()
        if search.reached(_tolerance(operator, search.values, tolerance)):
            if confirmed:
                break
            confirmed = True
            search.add_random_vectors(block)
        if search.full:
            search.restart()
    search.look()
    passes = search.num_passes + -(-2 * num_extreme // TOGETHER)
    return _multiplied_out(operator, operator, search.wanted(), tolerance, passes)


def tolerance_of(operator: HessianOperator, largest: float) -> float:
    """The residual that is small enough, if the largest eigenvalue has that magnitude.

    The noise floor, below which the matrix does not decide, but at least ``1e-10`` of it.
    """
    return float(max(operator.noise_floor or 0.0, 1e-10 * largest))


def _tolerance(operator: HessianOperator, values: Array, tolerance: float | None) -> float:
    largest = float(np.abs(values).max())
    return tolerance_of(operator, largest) if tolerance is None else tolerance


def _all_of_small(
    operator: HessianOperator, num_extreme: int, tolerance: float | None
) -> Eigenpairs:
    size = operator.shape[0]
    matrix = np.asarray(operator @ np.eye(size), np.float64)
    _, vectors = np.linalg.eigh((matrix + matrix.T) / 2)
    if 2 * num_extreme < size:
        vectors = np.delete(vectors, slice(num_extreme, size - num_extreme), axis=1)
    return _multiplied_out(operator, matrix, vectors, tolerance, 1)


def _multiplied_out(
    operator: HessianOperator,
    matrix: HessianOperator | Array,
    vectors: Array,
    tolerance: float | None,
    num_passes: int,
) -> Eigenpairs:
    number = vectors.shape[1]
    values, residuals = np.empty((2, number))
    for start in range(0, number, TOGETHER):
        some = slice(start, start + TOGETHER)
        products = np.asarray(matrix @ vectors[:, some], np.float64)
        values[some] = np.einsum("ij,ij->j", vectors[:, some], products)
        residuals[some] = np.linalg.norm(products - vectors[:, some] * values[some], axis=0)
    order = np.argsort(values)
    return Eigenpairs(
        values=values[order],
        vectors=vectors[:, order],
        residuals=residuals[order],
        tolerance=_tolerance(operator, values, tolerance),
        num_passes=num_passes,
    )
