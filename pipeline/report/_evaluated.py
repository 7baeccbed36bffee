"""Sections of a report that evaluate the problem: slices, and changes of the solution."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from hessian_tasks.process import configure_tensorflow
from hessian_tasks.source import ProblemSource
from pipeline.analysis.fields import Fields
from pipeline.analysis.pictures import (
    line_picture,
    plain,
    plane_picture,
    residual_picture,
    solution_picture,
)
from pipeline.analysis.slices import Slice
from pipeline.api import rebuild_problem
from pipeline.curvature.landscape import Directions, loss_slices, solution_changes
from pipeline.errors import HessianError
from pipeline.report._page import Picture, Section, Table, file_name
from pipeline.store.opened import HoldsInputs

if TYPE_CHECKING:
    from hessian_tasks.problem import Problem

__all__ = ["Curvature", "evaluated_sections", "rebuilt_problem"]

Array = npt.NDArray[np.float64]

SLICES, CHANGES = "Slices of the loss", "Eigenvectors as changes of the solution"
# Slices end where the loss has changed by this multiple of itself.
CHANGE = 2.0
MAX_OUTPUTS, MAX_TERMS, MAX_DIRECTIONS = 3, 4, 2


@dataclass(frozen=True)
class Curvature:
    """What quadratic models along some directions are made of.

    Attributes:
        symbol: Symbol of the matrix, ``"H"`` or ``"G"``.
        matrices: As :func:`~pipeline.curvature.landscape.loss_slices` takes them.
        origin: What ``vᵀ H v`` is, in a sentence.
        notes: What else has to be said of it.
    """

    symbol: str
    matrices: Mapping[str | None, Array]
    origin: str
    notes: Sequence[str] = ()


def rebuilt_problem(
    source: HoldsInputs, problem: ProblemSource | str | None, stored_only: bool
) -> Problem | str:
    """The problem, or why it is not to be had; an error if it was asked for by name.

    Args:
        source: What has its inputs.
        problem: Its file, if that has moved.
        stored_only: Whether nothing is to be evaluated.

    Raises:
        ProblemError, ReproductionError: If ``problem`` is not the problem.
    """
    if stored_only:
        return "--stored-only was given."
    try:
        configure_tensorflow()
        return rebuild_problem(source, problem)
    except ImportError as error:
        return f"it evaluates the problem, which needs TensorFlow ({error})."
    except HessianError as error:
        if problem is not None:
            raise
        return f"it evaluates the problem, which cannot be rebuilt: {error} (--problem FILE)"


def evaluated_sections(
    rebuilt: Problem | str,
    directions: Directions,
    curvature: Callable[[], Curvature | str],
) -> list[Section]:
    """Slices of the loss, and changes of the solution.

    Args:
        rebuilt: The problem, or why both are left out.
        directions: Eigenvectors.
        curvature: Gives the curvatures along them, or why there are no slices.
    """
    if isinstance(rebuilt, str):
        return [Section(title, left_out=rebuilt) for title in (SLICES, CHANGES)]
    found = curvature()
    if isinstance(found, str):
        slices = Section(SLICES, left_out=found)
    else:
        cuts = loss_slices(rebuilt, directions, found.matrices, CHANGE)
        slices = slices_section(found, cuts, rebuilt)
    fields = solution_changes(rebuilt, directions)
    if fields is None:
        reason = "no term of the loss declares a residual at collocation points."
        return [slices, Section(CHANGES, left_out=reason)]
    return [slices, fields_section(fields, rebuilt.coordinates)]


def slices_section(curvature: Curvature, slices: Sequence[Slice], problem: Problem) -> Section:
    """The loss along eigenvectors, against the quadratic model.

    Args:
        curvature: What the model is made of.
        slices: On lines and planes.
        problem: The problem.
    """
    from hessian_tasks.networks.models import dtype_of

    symbol = curvature.symbol
    text = [
        f"Solid: the loss, evaluated in {dtype_of(problem.model)} at θ + α v with v of length 1. "
        f"Dashed: L + α gᵀv + ½ α² vᵀ{symbol}v, {curvature.origin}. Where the curves part, steps "
        f"computed from {symbol} stop being right.",
        f"A slice ends where the loss, on either side, has changed by {CHANGE:g} times its value "
        "at θ, or at ‖θ‖. Its axis is logarithmic where the loss spans decades.",
        *curvature.notes,
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
    return Section(SLICES, text, pictures, tables)


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
    return Section(CHANGES, text, pictures, tables)


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
