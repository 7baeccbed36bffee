"""What single points of a residual term decide: where they are left out, what changes.

Let ``s = 2 w / (N C)``, so that a term's loss is ``s/2 Σ r²``, and let A be the matrix of the total
loss at its minimum. Without the residuals of point i the quadratic model is least at

    Δθ = s A⁻¹ J_iᵀ (I - s J_i A⁻¹ J_iᵀ)⁻¹ r_i

which is exact where all residuals are linear in θ (R. Cook, S. Weisberg, Residuals and Influence in
Regression, 1982, section 2.2); to first order in its weight it is the influence function of P. Koh
and P. Liang (2017). ``h_i = s tr(J_i A⁻¹ J_iᵀ)`` is the point's leverage: how many parameters it
determines by itself, of its C residuals.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from hessian_tasks.problem import Problem
from pipeline.analysis.inverse import HessianInverse
from pipeline.analysis.variances import CHUNK
from pipeline.curvature.measurements import Measured, open_measured
from pipeline.store.places import Place
from pipeline.store.store import HessianStore

__all__ = ["Influence", "influence", "influence_of"]

Array: TypeAlias = npt.NDArray[Any]
# What the solution's change is called among those of parameters.
SOLUTION = "solution"


@dataclass(frozen=True)
class Influence:
    """What changes where one point of a term is left out.

    Attributes:
        term: The term.
        coordinates: Names of the coordinates.
        points: Its points, ``[N, d]``.
        residuals: Its residuals there, ``[N, C]``.
        leverage: h, how many parameters each determines by itself, of C, ``[N]``.
        changes: By what, of each point ``[N]``: those of the problem's parameters by their names,
            and the root mean square of the solution's over the domain. Infinite where nothing else
            determines what the point does.
        rounding: By how much rounding in the stored matrix may move these, to first order.
        inverse: What was inverted: method, damping, noise floor, directions left out.
    """

    term: str
    coordinates: tuple[str, ...]
    points: Array
    residuals: Array
    leverage: Array
    changes: dict[str, Array]
    rounding: dict[str, Array]
    inverse: HessianInverse

    def strongest(self, number: int, quantity: str) -> Array:
        """The points that change most of a quantity, ``[number]``."""
        return np.argsort(-np.abs(self.changes[quantity]), kind="stable")[:number]

    def to_json(self) -> dict[str, Any]:
        """All of it as JSON data, columns of points."""
        return {
            "term": self.term,
            "method": self.inverse.method,
            "damping": self.inverse.damping,
            "noise_floor": self.inverse.noise_floor,
            "num_left_out": int(self.inverse.left_out.shape[1]),
            "points": {name: _finite(values) for name, values in self.columns().items()},
        }

    def columns(self) -> dict[str, Array]:
        """All of it as the columns of a table, one row a point."""
        table = {name: self.points[:, d] for d, name in enumerate(self.coordinates)}
        for component, values in enumerate(self.residuals.T):
            table[f"r[{component}]"] = values
        table["leverage"] = self.leverage
        for name, values in self.changes.items():
            table |= {f"change of {name}": values, f"rounding of {name}": self.rounding[name]}
        return table


def influence(
    store: HessianStore | Place,
    term: str | None = None,
    *,
    damping: float = 0.0,
    problem: Problem | str | Path | None = None,
) -> Influence:
    """What changes in the parameters and the solution where a point of a term is left out.

    Args:
        store: A complete store of the Hessian, or of the Gauss-Newton matrix, at a minimum.
        term: Name of a residual term; may be left out where only one has data.
        damping: μ, added to the diagonal: as if every entry of θ had a prior.
        problem: The problem, if the store was made from a live object or its file has moved.

    Raises:
        ProblemError: If there is no such term.
        PlanError: If θ is no minimum, or the matrix is too near to singular for the memory.
        StoreError: If block rows are missing or damaged.
        ReproductionError: If the problem is not the one that the store was made from.

    Example:
        The mean of three numbers, without the last of them, is less by 1:

        >>> import tempfile, keras
        >>> from pipeline import Problem, ResidualTerm, compute_hessian
        >>> flat = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1, use_bias=False)])
        >>> flat.set_weights([np.array([[2.0]])])
        >>> x, y = np.ones((3, 1)), np.array([[1.0], [1.0], [4.0]])
        >>> fit = ResidualTerm("fit", x, lambda x, u, y: u.value - y, data={"y": y})
        >>> problem = Problem(flat, [fit], coordinates="x")
        >>> with tempfile.TemporaryDirectory() as directory:
        ...     _ = compute_hessian(problem, f"{directory}/h.zarr")
        ...     found = influence(f"{directory}/h.zarr", problem=problem)
        >>> found.changes["solution"].round(3), found.leverage.round(3)
        (array([0.5, 0.5, 1. ]), array([0.333, 0.333, 0.333]))
    """
    return influence_of(open_measured(store, term, damping, problem))


def influence_of(at: Measured) -> Influence:
    """The same of measurements that are open."""
    found = at.residuals
    leverage, changes, rounding = _LeaveOut(at, found.size).each(at.jacobian, found)
    names = [*at.parameters(), SOLUTION]
    return Influence(
        at.term.name,
        tuple(at.problem.coordinates),
        np.asarray(at.term.points, np.float64),
        found,
        leverage,
        dict(zip(names, changes.T, strict=True)),
        dict(zip(names, rounding.T, strict=True)),
        at.inverse,
    )


def _finite(values: Array) -> list[float | None]:
    # JSON has no infinity.
    return [value if np.isfinite(value) else None for value in values.tolist()]


class _LeaveOut:
    """Leaves out points, each with C residuals, one at a time."""

    def __init__(self, at: Measured, num_residuals: int) -> None:
        self._inverse, self._scale = at.inverse, 2 * at.term.weight / num_residuals
        self._rows, units = list(at.parameters().values()), at.units()
        _, values, rows = at.solution
        self._outputs = rows(range(values.size)).astype(np.float64)
        # ‖A⁻¹ c‖ of every quantity c; of the solution the root mean square over the domain.
        by_parameter = np.linalg.norm(at.inverse @ units, axis=0) if self._rows else np.zeros(0)
        by_output = np.linalg.norm(at.inverse @ self._outputs.T) / np.sqrt(len(self._outputs))
        self._lengths = np.append(by_parameter, by_output)

    def each(
        self, jacobian: Callable[[Sequence[int]], Array], residuals: Array
    ) -> tuple[Array, Array, Array]:
        """Leverage ``[N]``, changes ``[N, Q]`` and their rounding, of all points."""
        number, size = max(1, CHUNK // residuals.shape[1]), residuals.shape[1]
        parts = []
        for start in range(0, len(residuals), number):
            values = residuals[start : start + number]
            rows = jacobian(range(start * size, start * size + values.size))
            parts.append(self._some(rows.astype(np.float64), values))
        leverage, changes, rounding = (np.concatenate(part) for part in zip(*parts, strict=True))
        return leverage, changes, rounding

    def _some(self, jacobian: Array, residuals: Array) -> tuple[Array, Array, Array]:
        number, size = residuals.shape
        floor = self._inverse.noise_floor
        solved = (self._inverse @ jacobian.T).T.reshape(number, size, -1)
        hats = self._scale * jacobian.reshape(number, size, -1) @ solved.transpose(0, 2, 1)
        leverage = np.trace(hats, axis1=1, axis2=2)
        # Of 1 - h, rounding in A may make as much as s ε ‖A⁻¹ Jᵀ‖².
        spread = self._scale * floor * np.sum(solved**2, axis=(1, 2))
        alone = 1 - np.linalg.eigvalsh(hats)[:, -1] <= spread
        hats[alone] = 0.0
        weights = np.linalg.solve(np.eye(size) - hats, self._scale * residuals[:, :, np.newaxis])
        steps = np.einsum("ncp,nc->np", solved, weights[:, :, 0])
        rms = np.sqrt(np.mean((self._outputs @ steps.T) ** 2, axis=0))
        changes = np.column_stack([steps[:, self._rows], rms])
        rounding = floor * np.outer(np.linalg.norm(steps, axis=1), self._lengths)
        changes[alone], rounding[alone] = np.inf, np.inf
        return leverage, changes, rounding
