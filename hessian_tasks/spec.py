"""The unit of work, one block row of a matrix, and the names of what computes it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

__all__ = [
    "GAUSS_NEWTON",
    "HESSIAN",
    "MATRICES",
    "BlockRow",
    "EngineChoice",
    "EngineName",
    "Matrix",
    "StoredEngine",
    "TermResiduals",
    "matrix_of",
]

StoredEngine: TypeAlias = Literal["layered", "autodiff", "ggn"]
# What may be asked for, too.
EngineName: TypeAlias = Literal["auto", StoredEngine]


@dataclass(frozen=True)
class Matrix:
    """What is computed, and what to call it.

    Attributes:
        name: Name of its array in a store.
        title: In a sentence.
        plural: Likewise.
        symbol: In a formula.
        entry: One of its entries, in a formula.
    """

    name: str
    title: str
    plural: str
    symbol: str
    entry: str


HESSIAN = Matrix("hessian", "Hessian", "Hessians", "H", "∂²L/∂θᵢ∂θⱼ")
GAUSS_NEWTON = Matrix("ggn", "Gauss-Newton matrix", "Gauss-Newton matrices", "G", "Gᵢⱼ")
MATRICES = {matrix.name: matrix for matrix in (HESSIAN, GAUSS_NEWTON)}


def matrix_of(engine: EngineName) -> Matrix:
    """The matrix that an engine computes.

    Example:
        >>> matrix_of("ggn").title
        'Gauss-Newton matrix'
    """
    return GAUSS_NEWTON if engine == "ggn" else HESSIAN


@dataclass(frozen=True)
class TermResiduals:
    """The residuals of one term, and what they count in the Gauss-Newton matrix.

    Attributes:
        term: Name of the term.
        num_points: N.
        num_components: C; residual ``point * C + component`` is that component at that point.
        weight: Factor w of the term in the total loss.

    Example:
        >>> TermResiduals("pde", num_points=100, num_components=3, weight=0.6).factor
        0.004
    """

    term: str
    num_points: int
    num_components: int
    weight: float

    @property
    def count(self) -> int:
        """Number of residuals, N C: rows of the Jacobian."""
        return self.num_points * self.num_components

    @property
    def factor(self) -> float:
        """``2 w / (N C)``: the term's Gauss-Newton matrix is this times JᵀJ."""
        return 2 * self.weight / self.count


@dataclass(frozen=True, order=True)
class BlockRow:
    """Rows ``[start, stop)`` of the matrix: the unit of work and of retry.

    Attributes:
        index: Position among the block rows, from 0; also the tile row.
        start: First row, a multiple of the tile side.
        stop: One past the last row.

    Example:
        >>> row = BlockRow(index=2, start=128, stop=192)
        >>> row.num_rows, str(row)
        (64, 'block row 2 (rows 128 to 191)')
    """

    index: int
    start: int
    stop: int

    @property
    def num_rows(self) -> int:
        """Number of rows, ``stop - start``."""
        return self.stop - self.start

    def __str__(self) -> str:
        return f"block row {self.index} (rows {self.start} to {self.stop - 1})"


@dataclass(frozen=True)
class EngineChoice:
    """Which engine computes a matrix, and why it is that one.

    Attributes:
        name: Name of the engine.
        reason: What is not computed by layers; empty if everything is.
        residuals: Terms whose Jacobians are stored beside their Gauss-Newton matrix.
        left_out: Terms that have no such matrix, and why; the total is the sum of the others.
        readings: What terms were found to depend on, in words, by their names.
        with_ggn: Whether the Gauss-Newton matrix is computed beside the Hessian.

    Example:
        >>> [matrix.symbol for matrix in EngineChoice("layered", "", with_ggn=True).matrices]
        ['H', 'G']
    """

    name: EngineName
    reason: str
    residuals: tuple[TermResiduals, ...] = ()
    left_out: Mapping[str, str] = field(default_factory=dict)
    readings: Mapping[str, str] = field(default_factory=dict)
    with_ggn: bool = False

    @property
    def matrices(self) -> tuple[Matrix, ...]:
        """What is computed."""
        return (matrix_of(self.name), *([GAUSS_NEWTON] if self.with_ggn else []))
