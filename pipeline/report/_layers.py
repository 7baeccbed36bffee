"""Sections of a report on layers: which of them curvature belongs to."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from hessian_tasks.parameters import ParameterLayout
from pipeline.analysis.layers import Participation, error_of_sum
from pipeline.analysis.pictures import layer_block_picture, participation_picture
from pipeline.analysis.statistics import MatrixStatistics
from pipeline.report._page import Picture, Section, Table
from pipeline.store.store import HessianStore

__all__ = ["DIAGONAL", "diagonal_section", "layers_section", "participation_section"]

Array = npt.NDArray[np.float64]

DIAGONAL = "Diagonal by layer"


def layers_section(store: HessianStore, statistics: MatrixStatistics) -> Section:
    """Layer blocks and each variable's share."""
    squares = statistics.variable_norms**2
    shares = squares / squares.sum() if squares.any() else squares
    starts = [variable.offset for variable in store.layout.variables]
    traces = np.add.reduceat(statistics.diagonal, starts)
    names = _names(store.layout)
    symbol = store.matrix.symbol
    total = float(traces.sum())
    rows = shares.sum(axis=1)
    columns: dict[str, Sequence[Any]] = {
        "variable": names,
        "parameters": [v.size for v in store.layout.variables],
        "trace": traces.tolist(),
        "share of the trace": (traces / total).tolist() if total else [None] * len(names),
        f"share of ‖{symbol}‖² in its rows": rows.tolist(),
        f"share of ‖{symbol}‖² in its own block": np.diag(shares).tolist(),
    }
    by_layer = statistics.layer_norms**2 / max(float(squares.sum()), np.finfo(float).tiny)
    of_rows = by_layer.sum("col_layer")
    text = [
        f"{of_rows.idxmax().item()} dominates: {float(of_rows.max()):.0%} of ‖{symbol}‖²_F lies in "
        f"its rows. Of all of it, {np.trace(by_layer):.1%} lies in the diagonal blocks of layers, "
        "which is what a preconditioner by layers can see; the rest couples them. In those of "
        f"variables there is {np.trace(shares):.1%}.",
    ]
    picture = Picture(
        "layer-blocks",
        layer_block_picture(shares, names, f"layer blocks of the {store.matrix.title}"),
        "Each block's share of the squared Frobenius norm; they add up to 100 %.",
    )
    table = Table("layers", "The variables and what they hold of the curvature.", columns)
    return Section("Layers", text, [picture], [table])


def diagonal_section(layout: ParameterLayout, diagonal: Array, errors: Array) -> Section:
    """The estimated diagonal, summed up by variable.

    Args:
        layout: Which parameter each entry is.
        diagonal: The estimate ``[P]``.
        errors: Its standard errors ``[P]``.
    """
    parts = [slice(variable.offset, variable.stop) for variable in layout.variables]
    columns: dict[str, Any] = {
        "variable": _names(layout),
        "parameters": [variable.size for variable in layout.variables],
        "trace": [float(diagonal[part].sum()) for part in parts],
        "±": [2 * error_of_sum(errors[part]) for part in parts],
    }
    text = ["The diagonal is the curvature along each parameter alone; summed up, its trace."]
    caption = (
        "The estimated diagonal summed up over each variable, ± two standard errors, or less: "
        "entries that are estimated from the same products err together."
    )
    return Section(DIAGONAL, text, tables=[Table("diagonal", caption, columns)])


def _names(layout: ParameterLayout) -> list[str]:
    return [v.path for v in layout.variables]


def participation_section(found: Participation, values: Array) -> Section:
    """Eigenvectors by layer.

    Args:
        found: The shares of the layers in K eigenvectors.
        values: The eigenvalues, ``[K]``.
    """
    layers, weights = found.layers, found.weights
    leading = layers[int(np.argmax(weights[0]))]
    text = [
        "An eigenvector has length 1, so the squares of its entries say how much of it lies in "
        f"each layer. Of the stiffest one, {weights[0].max():.0%} lies in {leading}.",
    ]
    picture = Picture(
        "participation",
        participation_picture(weights, values, layers),
        "Rows are eigenvectors, named by their eigenvalues; each row adds up to 100 %.",
    )
    columns: dict[str, Any] = {"eigenvalue": values}
    columns |= {name: weights[:, k] for k, name in enumerate(layers)}
    columns["parameters that carry it"] = found.ratios
    caption = (
        "Share of each eigenvector in each layer, and its participation ratio, 1 / Σ v⁴: the "
        "number of parameters that carry it."
    )
    table = Table("participation", caption, columns)
    return Section("Eigenvectors by layer", text, [picture], [table])
