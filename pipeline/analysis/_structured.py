"""Matrices of structure that stand for a full one: blocks, Kronecker factors, low ranks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt
import scipy.linalg
from scipy.sparse.linalg import svds

from hessian_tasks.parameters import ParameterLayout
from pipeline.analysis.steps import Eigenbasis, damped_step

__all__ = ["LAYERS", "Blocks", "LowRank", "Structured", "structured", "symmetric_size"]

Array: TypeAlias = npt.NDArray[Any]

# The name of the blocks of the layers.
LAYERS = "layers"


class Structured(Protocol):
    """An approximation: what it is, stores and does."""

    name: str
    numbers: int

    def squared_error(self) -> float:
        """``‖A - B‖²_F``."""
        ...

    def eigenvalues(self) -> Array:
        """Ascending ``[P]``."""
        ...

    def solve(self, right: Array, damping: float) -> Array | None:
        """``(B + μI)⁻¹ b``, or None if that is not positive definite."""
        ...


class Blocks:
    """Blocks of the rows and columns of some parameters each, and zeros outside of them."""

    def __init__(
        self, name: str, exact: Array, blocks: Sequence[tuple[Array, Array]], numbers: int
    ) -> None:
        self.name, self.numbers = name, numbers
        self._exact, self._blocks = exact, blocks

    def squared_error(self) -> float:
        rest = self._exact.copy()
        for rows, block in self._blocks:
            rest[np.ix_(rows, rows)] -= block
        return float(np.linalg.norm(rest) ** 2)

    def eigenvalues(self) -> Array:
        found = [scipy.linalg.eigvalsh(block) for _, block in self._blocks]
        return np.sort(np.concatenate(found))

    def solve(self, right: Array, damping: float) -> Array | None:
        found = np.empty_like(right)
        for rows, block in self._blocks:
            step = damped_step(block, right[rows], damping)
            if step is None:
                return None
            found[rows] = -step
        return found


class LowRank:
    """The K eigenpairs of largest magnitude."""

    def __init__(self, basis: Eigenbasis, rank: int) -> None:
        self.name = f"rank {rank:,}"
        self._values = basis.eigenvalues
        self._kept = np.argsort(-np.abs(self._values), kind="stable")[:rank]
        self._vectors = basis.vectors[:, self._kept]
        self.numbers = rank * (len(self._values) + 1)

    def squared_error(self) -> float:
        return float(np.sum(np.delete(self._values, self._kept) ** 2))

    def eigenvalues(self) -> Array:
        values = np.zeros_like(self._values)
        values[self._kept] = self._values[self._kept]
        return np.sort(values)

    def solve(self, right: Array, damping: float) -> Array | None:
        damped = self._values[self._kept] + damping
        if damping <= 0 or damped.min() <= 0:
            return None
        inside = self._vectors.T @ right
        rest = right - self._vectors @ inside
        return np.asarray(rest / damping + self._vectors @ (inside / damped))


def structured(layout: ParameterLayout, exact: Array) -> Iterator[Structured]:
    """A matrix's diagonal, nearest Kronecker factors, and blocks of variables and of layers."""
    ones = [(np.array([i]), exact[i : i + 1, i : i + 1]) for i in range(len(exact))]
    yield Blocks("diagonal", exact, ones, len(exact))
    variables = [np.arange(v.offset, v.stop) for v in layout.variables]
    yield _kronecker(layout, exact, variables)
    owner = layout.labels()["layer"]
    layers = [np.flatnonzero(owner == layer) for layer in range(len(layout.layers()))]
    for name, parts in (("variables", variables), (LAYERS, layers)):
        numbers = sum(symmetric_size(len(rows)) for rows in parts)
        yield Blocks(name, exact, [(rows, _block(exact, rows)) for rows in parts], numbers)


def _kronecker(layout: ParameterLayout, exact: Array, variables: Sequence[Array]) -> Blocks:
    nearest = [
        _nearest_factors(variable.shape, _block(exact, rows))
        for variable, rows in zip(layout.variables, variables, strict=True)
    ]
    blocks = [(rows, block) for rows, (block, _) in zip(variables, nearest, strict=True)]
    return Blocks("Kronecker factors", exact, blocks, sum(numbers for _, numbers in nearest))


def _block(matrix: Array, rows: Array) -> Array:
    return np.asarray(matrix[np.ix_(rows, rows)])


def symmetric_size(size: int) -> int:
    """How many numbers a symmetric matrix has."""
    return size * (size + 1) // 2


def _nearest_factors(shape: Sequence[int], block: Array) -> tuple[Array, int]:
    """``U ⊗ V`` nearest to a kernel's block, and the number of its numbers; others as they are.

    Entries ``((i, o), (j, p))`` of the block, as ``((i, j), (o, p))``, are those of the outer
    product of U's and V's: the nearest are the first singular vectors.
    """
    if len(shape) != 2 or min(shape) == 1 or not block.any():
        return block, symmetric_size(len(block))
    rows, columns = shape
    rearranged = block.reshape(rows, columns, rows, columns).transpose(0, 2, 1, 3)
    left, (value,), right = svds(rearranged.reshape(rows**2, columns**2), k=1, random_state=0)
    nearest = np.kron(left.reshape(rows, rows) * value, right.reshape(columns, columns))
    return (nearest + nearest.T) / 2, symmetric_size(rows) + symmetric_size(columns)
