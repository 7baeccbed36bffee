"""Sections of a report that evaluate the problem: slices, and changes of the solution."""

from __future__ import annotations

from collections.abc import Sequence

from pipeline.analysis.fields import Fields
from pipeline.analysis.pictures import (
    line_picture,
    plain,
    plane_picture,
    residual_picture,
    solution_picture,
)
from pipeline.analysis.slices import Slice
from pipeline.report.page import Picture, Section, Table, file_name
from pipeline.store import HessianStore

__all__ = ["fields_section", "slices_section"]

MAX_OUTPUTS, MAX_TERMS, MAX_DIRECTIONS = 3, 4, 2


def slices_section(store: HessianStore, slices: Sequence[Slice], change: float) -> Section:
    """The loss along eigenvectors, against the quadratic model.

    Args:
        store: The store.
        slices: On lines and planes.
        change: The multiple of the loss that decided how far they go.
    """
    symbol = store.matrix.symbol
    text = [
        f"Solid: the loss, evaluated in {store.dtype} at θ + α v with v of length 1. Dashed: "
        f"L + α gᵀv + ½ α² vᵀ{symbol}v from the store. Where the curves part, steps computed from "
        f"{symbol} stop being right.",
        f"Steps go as far as the quadratic model allows the loss to change by {change:g} times "
        "its value, or as far as ‖θ‖; a curvature below the noise floor counts as the floor.",
    ]
    pictures, tables = [], []
    for number, found in enumerate(slices, start=1):
        names = " and ".join(axis.label for axis in found.axes)
        stem = file_name("slice", str(number))
        if len(found.axes) == 1:
            figure = line_picture(found, symbol)
            caption = f"The loss and its terms along {names}."
        else:
            figure = plane_picture(found, symbol)
            caption = (
                f"The loss on the plane of {names}: colours and white level lines are actual "
                "values, dashed ones predicted at the same levels. The cross is θ."
            )
        pictures.append(Picture(stem, figure, caption))
        tables.append(Table(stem, f"Slice along {names}.", found.columns(), shown=0))
    return Section("Slices of the loss", text, pictures, tables)


def fields_section(fields: Fields, coordinates: Sequence[str]) -> Section:
    """Eigenvectors as changes of the solution and of the residuals."""
    text = [
        "What an eigenvector means for the solution: the change of u, and of each residual, for "
        "a step of length 1 along it, to first order (∂u/∂θ v and ∂r/∂θ v). The sign of an "
        "eigenvector is arbitrary."
    ]
    if fields.cut.fixed:
        where = ", ".join(f"{name} = {value:.3g}" for name, value in fields.cut.fixed.items())
        text.append(f"Solutions are shown on the cut {where}; residuals at all points.")
    pictures = [*_solutions(fields), *_residuals(fields, coordinates)]
    tables = [Table("fields", "Solution and its changes on the grid.", fields.columns(), shown=0)]
    for term in fields.points:
        caption = f"Changes of the residual of {term} at its points."
        columns = fields.residual_columns(term, coordinates)
        tables.append(Table(file_name("residual", term), caption, columns, shown=0))
    return Section("Eigenvectors as changes of the solution", text, pictures, tables)


def _solutions(fields: Fields) -> list[Picture]:
    pictures = []
    outputs = range(min(MAX_OUTPUTS, len(fields.solution)))
    names = ["u"] if len(fields.solution) == 1 else [f"u[{o}]" for o in outputs]
    for output, name in zip(outputs, names, strict=True):
        figure = solution_picture(fields.cut, fields.solution[output], f"the solution {name}", name)
        pictures.append(Picture(file_name("solution", name), figure, f"The solution {name} at θ."))
    for number, label in enumerate(fields.labels):
        for output, name in zip(outputs, names, strict=True):
            title = f"change of {name} along {label}"
            values = fields.changes[number, output]
            figure = solution_picture(fields.cut, values, title, _per_step(name))
            stem = file_name("change", name, str(number + 1))
            pictures.append(Picture(stem, figure, f"Change of {name} along {label}."))
    return pictures


def _per_step(name: str) -> str:
    return f"∂{name}/∂θ · v, for a step of length 1"


def _residuals(fields: Fields, coordinates: Sequence[str]) -> list[Picture]:
    pictures = []
    axes = list(coordinates)[:2]
    # Of one point the table says it all.
    shown = [term for term, points in fields.points.items() if len(points) > 1]
    for number, label in enumerate(fields.labels[:MAX_DIRECTIONS]):
        for term in shown[:MAX_TERMS]:
            changes = fields.residual_changes[term][number]
            for component in range(min(MAX_OUTPUTS, changes.shape[1])):
                name = "r" if changes.shape[1] == 1 else f"r[{component}]"
                figure = residual_picture(
                    fields.points[term][:, : len(axes)],
                    axes,
                    changes[:, component],
                    f"change of the residual of {plain(term)} along {label}",
                    _per_step(name),
                )
                stem = file_name("residual", term, name, str(number + 1))
                caption = f"Change of the residual {name} of {term} at its points, along {label}."
                pictures.append(Picture(stem, figure, caption))
    return pictures
