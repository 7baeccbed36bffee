"""Block Lanczos with thick restarts: a basis that grows by the residuals of its last block."""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from pipeline.analysis.operator import HessianOperator

__all__ = ["Search", "basis_size"]

Array: TypeAlias = npt.NDArray[Any]

# Basis vectors beyond the wanted ones: so many blocks, or as many as are wanted. A restart throws
# most of that away, and what it has thrown away has to be found again.
SPARE_BLOCKS = 12
# The share of them that a restart keeps.
KEPT_SPARE = 0.4
# The dense problem costs the cube of the basis, so that a large one grows by this share before the
# eigenvalues are looked at again.
LOOK_AGAIN = 1 / 32
# Of a first block of known vectors, the share that is random.
START_NOISE = 1e-3
# Rows that are turned together.
ROWS = 4096


def basis_size(num_extreme: int, block: int) -> int:
    """How many vectors ``[P]`` the basis has at most.

    Example:
        >>> basis_size(5, block=4), basis_size(300, block=4)
        (70, 1212)
    """
    # A full one, and a block to which random vectors have come.
    return _fullest(num_extreme, block) + 3 * block


def _fullest(num_extreme: int, block: int) -> int:
    return 2 * num_extreme + max(SPARE_BLOCKS * block, 2 * num_extreme)


class Search:
    """The basis V, the block that is to join it, and ``Vᵀ A V``."""

    def __init__(
        self, operator: HessianOperator, num_extreme: int, block: int, rng: np.random.Generator
    ) -> None:
        size = operator.shape[0]
        self.operator, self.num_extreme, self.rng = operator, num_extreme, rng
        self._fullest = _fullest(num_extreme, block)
        self._space = np.empty((size, basis_size(num_extreme, block)), order="F")
        self.used = self._looked = 0
        self.projected = np.zeros((0, 0))
        self.block = self._random(block)
        self.coupling = np.zeros((block, block))
        self.num_passes = self.num_products = 0

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
        self.num_products += self.block.shape[1]
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

    @property
    def full(self) -> bool:
        """Whether it is time to restart."""
        return self.used > self._fullest

    @property
    def due(self) -> bool:
        """Whether the basis has grown enough since the eigenvalues were looked at."""
        new = self.used - self._looked
        enough = self.used >= 2 * self.num_extreme and new >= LOOK_AGAIN * self.used
        return self.full or enough

    def look(self) -> None:
        """Find the eigenvalues of ``Vᵀ A V``, if that has changed."""
        if self.used == self._looked:
            return
        self._looked = self.used
        self.values, self.ritz = np.linalg.eigh(self.projected)
        # A V s = V T s + block coupling s', with s' the last rows of s.
        last = self.ritz[self.used - self.coupling.shape[1] :]
        self.residuals = np.linalg.norm(self.coupling @ last, axis=0)

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

    def reached(self, tolerance: float) -> bool:
        """Whether all wanted residuals are small enough."""
        return bool((self.residuals[self.ends(self.num_extreme)] <= tolerance).all())

    def wanted(self) -> Array:
        """Ritz vectors at both ends, ``[P, 2 num_extreme]``, in place of the basis."""
        self._keep(self.num_extreme)
        return self.basis

    def restart(self) -> None:
        """Keep the Ritz vectors nearest to both ends."""
        spare = self._fullest - 2 * self.num_extreme
        more = max(self.coupling.shape[1], int(KEPT_SPARE * spare / 2))
        self._keep(self.num_extreme + more)

    def _keep(self, number: int) -> None:
        kept = self.ends(number)
        turned = self.ritz[:, kept]
        for start in range(0, len(self._space), ROWS):
            rows = self.basis[start : start + ROWS]
            self._space[start : start + ROWS, : len(kept)] = rows @ turned
        self.used = self._looked = len(kept)
        self.values, self.residuals = self.values[kept], self.residuals[kept]
        self.projected, self.ritz = np.diag(self.values), np.eye(len(kept))
