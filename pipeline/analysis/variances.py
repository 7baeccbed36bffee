"""Variances by the inverse of a stored matrix: what a quadratic loss leaves unknown.

Where A is, up to a factor, the inverse of a covariance, that of ``cᵀ θ`` is ``cᵀ A⁻¹ c``. The
stored matrix is A + E with ``‖E‖₂ ≤ ε``, so that to first order this is off by
``|xᵀ E x| ≤ ε ‖x‖²`` with ``x = A⁻¹ c``: far less than A⁻¹ itself wherever c has little of the
directions that are hardly known. An error δc of c itself adds ``2 |xᵀ δc| ≤ 2 ‖x‖ ‖δc‖``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from pipeline.analysis.inverse import HessianInverse

__all__ = ["CHUNK", "Variances", "solved_variances", "variances"]

Array: TypeAlias = npt.NDArray[Any]

# Right-hand sides that are solved for at a time.
CHUNK = 256


@dataclass(frozen=True)
class Variances:
    """``cᵀ A⁻¹ c`` for K directions c, over what can be inverted.

    Attributes:
        values: These ``[K]``.
        errors: By how much rounding in A and in c may move each ``[K]``, to first order.
        unknown: What each has more at least ``[K]``, from directions v that cannot be told from
            singular: their eigenvalue is at most ε as stored, so at most 2 ε, and
            ``Σ (vᵀ c)² / 2ε``.

    Example:
        >>> found = Variances(np.array([4.0]), np.array([0.04]), np.array([0.0]))
        >>> found.scaled(0.25)
        Variances(values=array([1.]), errors=array([0.01]), unknown=array([0.]))
    """

    values: Array
    errors: Array
    unknown: Array

    def scaled(self, factor: float) -> Variances:
        """The same times a factor."""
        return Variances(self.values * factor, self.errors * factor, self.unknown * factor)


def variances(
    inverse: HessianInverse, directions: Callable[[Sequence[int]], Array], number: int
) -> Variances:
    """``cᵀ A⁻¹ c`` for many directions, some at a time.

    Args:
        inverse: ``A⁻¹``.
        directions: Gives those of some numbers, one a row, ``[K, P]``, exact to the eps of their
            dtype.
        number: How many there are.

    Example:
        >>> from hessian_tasks.parameters import ParameterLayout
        >>> layout = ParameterLayout.of([("a/kernel", (2,))])
        >>> inverse = HessianInverse(lambda v: v / 4, layout, smallest=4.0, noise_floor=0.1)
        >>> variances(inverse, lambda rows: np.eye(2)[rows], 2).values
        array([0.25, 0.25])
    """
    found = []
    for start in range(0, number, CHUNK):
        some = directions(range(start, min(start + CHUNK, number)))
        found.append(solved_variances(inverse, some, inverse @ some.T.astype(np.float64)))
    parts = zip(*((one.values, one.errors, one.unknown) for one in found), strict=True)
    return Variances(*map(np.concatenate, parts))


def solved_variances(inverse: HessianInverse, directions: Array, solved: Array) -> Variances:
    """The same where ``A⁻¹ c`` is known.

    Args:
        inverse: ``A⁻¹``.
        directions: The c, one a row, ``[K, P]``, exact to the eps of their dtype.
        solved: ``A⁻¹ c``, one a column, ``[P, K]``.
    """
    eps = float(np.finfo(directions.dtype).eps)
    directions = directions.astype(np.float64)
    length = np.linalg.norm(solved, axis=0)
    outside = np.sum((directions @ inverse.left_out) ** 2, axis=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        unknown = np.where(outside > 0, outside / (2 * inverse.noise_floor), 0.0)
    return Variances(
        np.einsum("kp,pk->k", directions, solved),
        inverse.noise_floor * length**2 + 2 * eps * length * np.linalg.norm(directions, axis=1),
        unknown,
    )
