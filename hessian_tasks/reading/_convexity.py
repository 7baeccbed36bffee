"""Whether a loss is convex in what it is a function of, near θ: jets, and weights that it reads.

With the jets u_n at every point, ℓ'' is a matrix of blocks: ℓ_uu of each point, and beside these
the rows and columns of the weights w. It is positive semidefinite if all blocks are, if no ℓ_wu
leaves their range, and if the Schur complement is,

    ℓ_ww - Σ_n ℓ_wu,n (ℓ_uu,n)⁺ ℓ_uw,n.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from hessian_tasks.reading._quadratic import QuadraticModel

__all__ = ["is_convex"]

Floats: TypeAlias = npt.NDArray[np.float64]


def is_convex(model: QuadraticModel, dtype: np.dtype[Any]) -> bool:
    """Whether ℓ'' is positive semidefinite, up to rounding.

    Args:
        model: The loss.
        dtype: In which it was differentiated.

    Example:
        >>> def of(u_u: float, w_u: float, w_w: float) -> QuadraticModel:
        ...     bend = np.full((1, 1, 1, 1, 1), u_u)
        ...     cross = np.full((1, 1, 1, 1), w_u)
        ...     return QuadraticModel([bend[0, 0]], {(0, 0): bend}, [cross], np.array([[w_w]]))
        >>> float64 = np.dtype("float64")
        >>> is_convex(of(2, 1, 1), float64), is_convex(of(2, 2, 1), float64)
        (True, False)
        >>> is_convex(of(-1, 0, 0), float64), is_convex(of(0, 1, 1), float64)
        (False, False)
    """
    # Rounding that inner derivatives have made larger, as where couplings are looked for.
    eps = float(np.finfo(dtype).eps) ** 0.6
    rest = model.direct
    for num_points in {len(slope) for slope in model.slopes}:
        bend, cross = _at_each_point(model, num_points)
        values, vectors = np.linalg.eigh(bend)
        floor = eps * np.abs(values).max(initial=0)
        along = np.einsum("mnd,ndk->mnk", cross, vectors)
        flat = values <= floor
        if values.min(initial=0) < -floor or _counts(along[:, flat], eps * np.abs(cross)):
            return False
        solved = along / np.where(flat, np.inf, values)
        rest = rest - np.einsum("mnk,pnk->mp", solved, along)
    scale = np.abs(model.direct).max(initial=0)
    return bool(np.linalg.eigvalsh(rest).min(initial=0) >= -eps * scale)


def _counts(values: Floats, rounding: Floats) -> bool:
    return bool(np.abs(values).max(initial=0) > rounding.max(initial=0))


def _at_each_point(model: QuadraticModel, num_points: int) -> tuple[Floats, Floats]:
    """``ℓ_uu`` ``[N, D, D]`` and ``ℓ_wu`` ``[m, N, D]`` of all evaluations at so many points."""
    numbers = [e for e, slope in enumerate(model.slopes) if len(slope) == num_points]
    sizes = {e: model.slopes[e][0].size for e in numbers}
    rows = [
        [
            model.curvatures[a, b].reshape(num_points, sizes[a], sizes[b])
            if (a, b) in model.curvatures
            else np.zeros((num_points, sizes[a], sizes[b]))
            for b in numbers
        ]
        for a in numbers
    ]
    crosses = [model.crosses[e].reshape(len(model.direct), num_points, sizes[e]) for e in numbers]
    return np.block(rows), np.concatenate(crosses, axis=2)
