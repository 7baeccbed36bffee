"""Eigenpairs at both ends of the spectrum, in few passes over the matrix."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from pipeline.analysis.operator import HessianOperator

__all__ = ["Eigenpairs", "extreme_eigenpairs", "tolerance_of"]

Array: TypeAlias = npt.NDArray[Any]

# Out of core a pass costs what reading does, up to about this many vectors.
BLOCK = 32
# Basis vectors beyond the wanted ones; a restart throws that much away.
SPARE_BLOCKS = 12
# Of a first block of known vectors, the share that is random.
START_NOISE = 1e-3


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

    Memory: ``[P, 3 num_extreme + 20 block]`` in float64.

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
    size = operator.shape[0]
    most = 2 * num_extreme + SPARE_BLOCKS * block
    if most + 3 * block >= size:
        return _all_of_small(operator, num_extreme, tolerance)
    search = _Search(operator, num_extreme, block, np.random.default_rng(seed))
    if start is not None:
        search.begin(start)
    # One pass is for the residuals in the end.
    confirmed = False
    while search.num_passes < max_passes - 1:
        search.extend()
        if search.reached(tolerance):
            if confirmed:
                break
            confirmed = True
            search.add_random_vectors(block)
        if search.used > most:
            search.restart(num_extreme + block)
    return _multiplied_out(operator, search.wanted(), tolerance, search.num_passes + 1)


def tolerance_of(operator: HessianOperator, largest: float) -> float:
    """The residual that is small enough, if the largest eigenvalue has that magnitude.

    The noise floor, below which the matrix does not decide, but at least ``1e-10`` of it.
    """
    return float(max(operator.noise_floor or 0.0, 1e-10 * largest))


def _all_of_small(
    operator: HessianOperator, num_extreme: int, tolerance: float | None
) -> Eigenpairs:
    size = operator.shape[0]
    matrix = operator @ np.eye(size)
    _, vectors = np.linalg.eigh((matrix + matrix.T) / 2)
    if 2 * num_extreme < size:
        vectors = np.delete(vectors, slice(num_extreme, size - num_extreme), axis=1)
    return _multiplied_out(operator, vectors, tolerance, 2)


def _multiplied_out(
    operator: HessianOperator, vectors: Array, tolerance: float | None, num_passes: int
) -> Eigenpairs:
    products = np.asarray(operator @ vectors, np.float64)
    values = np.einsum("ij,ij->j", vectors, products)
    order = np.argsort(values)
    residuals = np.linalg.norm(products - vectors * values, axis=0)
    reached = tolerance_of(operator, float(np.abs(values).max()))
    return Eigenpairs(
        values=values[order],
        vectors=vectors[:, order],
        residuals=residuals[order],
        tolerance=reached if tolerance is None else tolerance,
        num_passes=num_passes,
    )


class _Search:
    """The basis V, the block that is to join it, and ``Vᵀ A V``."""

    def __init__(
        self, operator: HessianOperator, num_extreme: int, block: int, rng: np.random.Generator
    ) -> None:
        size = operator.shape[0]
        self.operator, self.num_extreme, self.rng = operator, num_extreme, rng
        # A full basis, and a block to which random vectors have come.
        self._space = np.empty((size, 2 * num_extreme + (SPARE_BLOCKS + 2) * block), order="F")
        self.used = 0
        self.projected = np.zeros((0, 0))
        self.block = self._random(block)
        self.coupling = np.zeros((block, block))
        self.num_passes = 0

    def begin(self, start: Array) -> None:
        """Make the first block of random sums of vectors."""
        mixed = start @ self.rng.standard_normal((start.shape[1], self.block.shape[1]))
        # Fewer vectors than the block has leave it short of directions, which are then random.
        noise = START_NOISE * np.linalg.norm(mixed, axis=0) * self.block
        self.block = np.linalg.qr(mixed + noise)[0]

    @property
    def basis(self) -> Array:
        """V ``[P, used]``."""
        return self._space[:, : self.used]

    def extend(self) -> None:
        """Let the block join the basis; what its product has outside is the next block."""
        product = np.asarray(self.operator @ self.block, np.float64)
        self.num_passes += 1
        old, self.used = self.used, self.used + self.block.shape[1]
        self.basis[:, old:] = self.block
        overlap = self.basis.T @ product
        projected = np.zeros((self.used, self.used))
        projected[:old, :old] = self.projected
        projected[:, old:], projected[old:, :] = overlap, overlap.T
        projected[old:, old:] = (overlap[old:] + overlap[old:].T) / 2
        self.projected = projected
        product -= self.basis @ overlap
        # Twice is enough (B. Parlett, section 6.9).
        product -= self.basis @ (self.basis.T @ product)
        self.block, self.coupling = self._orthonormal(product)
        self.values, self.ritz = np.linalg.eigh(projected)
        # A V s = V T s + block coupling s', with s' the last rows of s.
        self.residuals = np.linalg.norm(self.coupling @ self.ritz[old:], axis=0)

    def add_random_vectors(self, number: int) -> None:
        """Let random vectors join the next block, to look where nothing has looked."""
        self.block = np.hstack([self.block, self._random(number, self.block)])
        self.coupling = np.vstack([self.coupling, np.zeros((number, self.coupling.shape[1]))])

    def _random(self, number: int, beside: Array | None = None) -> Array:
        # Orthonormal, and orthogonal to the basis and to what is beside it.
        fresh = self.rng.standard_normal((len(self._space), number))
        for _ in range(2):
            for known in (self.basis, beside):
                if known is not None:
                    fresh -= known @ (known.T @ fresh)
            fresh = np.linalg.qr(fresh)[0]
        return np.asarray(fresh)

    def _orthonormal(self, rest: Array) -> tuple[Array, Array]:
        # Directions in which nothing is left, as when the rank of A is reached, go on at random.
        left, sizes, right = np.linalg.svd(rest, full_matrices=False)
        lost = sizes <= 1e-14 * np.abs(self.projected).max() * np.sqrt(len(rest))
        if lost.any():
            left[:, lost] = self._random(int(lost.sum()), left[:, ~lost])
            sizes[lost] = 0.0
        return left, sizes[:, np.newaxis] * right

    def ends(self, number: int) -> Array:
        """Positions of the Ritz values nearest to both ends."""
        count = len(self.values)
        if 2 * number >= count:
            return np.arange(count)
        return np.delete(np.arange(count), slice(number, count - number))

    def reached(self, tolerance: float | None) -> bool:
        """Whether all wanted residuals are small enough."""
        if len(self.values) < 2 * self.num_extreme:
            return False
        if tolerance is None:
            tolerance = tolerance_of(self.operator, float(np.abs(self.values).max()))
        return bool((self.residuals[self.ends(self.num_extreme)] <= tolerance).all())

    def wanted(self) -> Array:
        """Ritz vectors at both ends, ``[P, 2 num_extreme]``."""
        return np.asarray(self.basis @ self.ritz[:, self.ends(self.num_extreme)])

    def restart(self, number: int) -> None:
        """Keep that many Ritz vectors at each end."""
        kept = self.ends(number)
        self._space[:, : len(kept)] = self.basis @ self.ritz[:, kept]
        self.used = len(kept)
        self.values, self.residuals = self.values[kept], self.residuals[kept]
        self.projected, self.ritz = np.diag(self.values), np.eye(len(kept))
