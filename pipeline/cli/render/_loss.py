"""What is said of a loss at given weights: its values, and what it is differentiated by."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.cli.render._table import table

if TYPE_CHECKING:
    from hessian_tasks.frozen import FrozenInputs
    from hessian_tasks.parameters import ParameterLayout

__all__ = ["evaluated_rows", "loss", "loss_data", "variable_rows"]


def evaluated_rows(
    loss: float, terms: Iterable[dict[str, Any]], norm: float
) -> list[tuple[str, str]]:
    """The loss, its terms, and the norm of its gradient: names and values.

    Args:
        loss: The total loss.
        terms: Name, weighted loss, weight, and what it is, of each term.
        norm: Euclidean norm of the gradient.

    Example:
        >>> term = {"name": "pde", "loss": 0.25, "weight": 2.0, "kind": "residual"}
        >>> print(table(evaluated_rows(0.25, [term], 0.125)))
        loss      0.25
          pde     0.25, weight 2, residual
        gradient  norm 0.125
    """
    described = (
        (f"  {term['name']}", f"{term['loss']:.6g}, weight {term['weight']:g}, {term['kind']}")
        for term in terms
    )
    return [("loss", f"{loss:.6g}"), *described, ("gradient", f"norm {norm:.6g}")]


def variable_rows(layout: ParameterLayout) -> list[tuple[str, str]]:
    """The parts of θ: their names, shapes and places."""
    return [(f"  {v.path}", f"{v.shape} from row {v.offset}") for v in layout.variables]


def loss(frozen: FrozenInputs) -> str:
    """A loss at its weights, for people."""
    data = loss_data(frozen)
    fixed = [("not trained", f"{frozen.state.size:,} weights")] if frozen.state.size else []
    return table(
        [
            *evaluated_rows(data["loss"], data["terms"], data["gradient_norm"]),
            ("parameters", f"{frozen.layout.count} trainable, {frozen.dtype}"),
            *variable_rows(frozen.layout),
            *fixed,
        ]
    )


def loss_data(frozen: FrozenInputs) -> dict[str, Any]:
    """The same for scripts."""
    terms = [{"name": t.name, "loss": t.loss, "weight": t.weight, "kind": t.kind}
             for t in frozen.terms]  # fmt: skip
    return {
        "loss": frozen.loss,
        "terms": terms,
        "gradient_norm": float(np.linalg.norm(frozen.gradient.astype(np.float64))),
        "num_params": frozen.layout.num_params,
        "dtype": str(frozen.dtype),
        "variables": [{"name": v.path, "shape": v.shape} for v in frozen.layout.variables],
    }
