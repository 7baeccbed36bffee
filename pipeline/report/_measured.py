"""Sections of a report on measurements: what they leave unknown, and which of them decide."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from hessian_tasks.errors import HessianError, ProblemError
from pipeline.analysis.parts import has_pair, open_pair
from pipeline.analysis.pictures import band_picture, plain, residual_picture
from pipeline.analysis.spectrum import Spectrum
from pipeline.curvature.influence import Influence, influence_of
from pipeline.curvature.measurements import measured_at
from pipeline.curvature.uncertainty import Uncertainty, uncertainty_of
from pipeline.report._chosen import asked_by, too_large
from pipeline.report._page import Picture, Section, Table, file_name
from pipeline.store.places import Place
from pipeline.store.store import HessianStore

if TYPE_CHECKING:
    from hessian_tasks.problem import Problem

__all__ = ["measured_sections"]

UNCERTAINTY, INFLUENCE = "Uncertainty", "Influence of single points"
COMMANDS = {UNCERTAINTY: "uncertainty", INFLUENCE: "influence"}
ASK = "Ask for it with:"
MAX_LISTED, MAX_PARAMETERS = 10, 3


def measured_sections(
    store: HessianStore,
    ggn: Place | None,
    found: Spectrum,
    rebuilt: Problem | str,
    data: str | None,
) -> list[Section]:
    """How well parameters and the solution are known, and which points decide that.

    Args:
        store: A complete store.
        ggn: A store of the Gauss-Newton matrix, if that is another.
        found: The spectrum of the store's first matrix.
        rebuilt: Its problem, or why both are left out.
        data: Name of the term that holds the measurements; the one with data by default.
    """
    negative = found.inertia[2] if found.inertia else 0
    if not (negative and has_pair(store, ggn)):
        return _sections(store, rebuilt, data)
    why = (
        f"H has {negative:,} negative eigenvalues beyond its noise, so that θ is no minimum to "
        "second order: this is by the Gauss-Newton matrix G."
    )
    return _sections(open_pair(store, ggn)[1], rebuilt, data, why)


def _sections(
    store: HessianStore, rebuilt: Problem | str, data: str | None, why: str = ""
) -> list[Section]:
    if isinstance(rebuilt, str):
        return [Section(title, left_out=rebuilt) for title in COMMANDS]
    if reason := too_large(store):
        return [_left_out(title, reason, store) for title in COMMANDS]
    try:
        at = measured_at(store, rebuilt, data, 0.0)
    except HessianError as error:
        return [_left_out(title, f"{error} {ASK}", store) for title in COMMANDS]
    try:
        known = uncertainty_section(uncertainty_of(at), why)
    except ProblemError as error:
        known = _left_out(UNCERTAINTY, f"{error} {ASK}", store)
    return [known, influence_section(influence_of(at), why)]


def _left_out(title: str, reason: str, store: HessianStore) -> Section:
    return Section(title, left_out=f"{reason} {asked_by(COMMANDS[title], store)}")


def uncertainty_section(found: Uncertainty, why: str = "") -> Section:
    """Parameters with standard errors, what is not identified, and the band of the solution."""
    noise, band = found.noise, found.band
    text = [
        f"To second order around θ, the measurements of {noise.term}, {noise.count:,} residuals, "
        f"determine {noise.effective:.3g} parameters, and their errors have the standard deviation "
        f"σ = {noise.sigma:.3g}. Of the solution, that leaves a standard deviation of "
        f"{band.deviation.mean():.2g} in the mean over {', '.join(band.cut.names)}, and of "
        f"{band.deviation.max():.2g} at most. {why}".strip(),
        _unknown(found),
    ]
    shown = (
        "The solution u ± 2 standard deviations, and where there are measurements."
        if len(band.cut.names) == 1
        else "The standard deviation of the solution u; dots are measurements."
    )
    picture = Picture("band", band_picture(band, "how well the solution is known"), shown)
    grid = "The solution on the grid, its standard deviations, and these at least."
    tables = [*_parameters(found), Table("band", grid, band.columns(), shown=0)]
    return Section(UNCERTAINTY, text, [picture], tables)


def _unknown(found: Uncertainty) -> str:
    """What the measurements do not tell."""
    number = found.inverse.left_out.shape[1]
    if not number:
        return "No direction of θ is within the noise of the matrix: all that is shown is known."
    known = float(np.mean(found.band.at_least <= 1.01 * found.band.deviation))
    free = [one.name for one in found.parameters if not one.identified]
    said = f"Not identified: {', '.join(free)}." if free else ""
    return (
        f"{number:,} directions of θ cannot be told from singular within the noise of the matrix, "
        f"and are left out; at {known:.0%} of the grid the solution has next to no part in them. "
        f"{said}".strip()
    )


def _parameters(found: Uncertainty) -> list[Table]:
    several = found.parameters
    if not several:
        return []
    columns: dict[str, Any] = {
        "parameter": [one.name for one in several],
        "value": [one.value for one in several],
        "standard error": [one.standard_error for one in several],
        "± of that, by rounding": [one.rounding for one in several],
        "at least": [one.at_least for one in several],
        "identified": ["yes" if one.identified else "no" for one in several],
        "to the minimum": [one.offset for one in several],
    }
    caption = (
        "The parameters of the problem; at least: with what is left out; to the minimum: of the "
        "quadratic model, in standard errors."
    )
    tables = [Table("uncertainty", caption, columns)]
    if len(several) > 1:
        shared: dict[str, Any] = {"parameter": columns["parameter"]}
        rows = zip(several, found.correlations, strict=True)
        shared |= {f"with {one.name}": row for one, row in rows}
        tables.append(Table("correlations", "Correlations of their errors.", shared))
    return tables


def influence_section(found: Influence, why: str = "") -> Section:
    """Which points change the parameters and the solution most where they are left out."""
    first = next(iter(found.changes))
    alone = int(np.count_nonzero(np.isinf(found.changes[first])))
    text = [
        f"What changes where one of the {len(found.points):,} points of {found.term} is left out, "
        "to second order around θ. A point's leverage is the number of parameters that it "
        f"determines by itself: {found.leverage.max():.2g} at most. {why}".strip(),
    ]
    within = np.abs(found.changes[first]) <= found.rounding[first]
    if within.any():
        text.append(
            f"Rounding in the stored matrix may make as much as the change of {first} at "
            f"{int(within.sum()):,} points."
        )
    if alone:
        text.append(f"{alone:,} points alone determine what they do: without them it is free.")
    order = found.strongest(len(found.points), first)
    columns = {name: values[order] for name, values in found.columns().items()}
    caption = f"The points, those that change {first} most at the top, and what they change."
    table = Table("influence", caption, columns, shown=MAX_LISTED)
    return Section(INFLUENCE, text, _maps(found), [table])


def _maps(found: Influence) -> list[Picture]:
    axes, (*parameters, solution) = list(found.coordinates[:2]), found.changes
    pictures = []
    # Of one point the table says it all.
    names = [*parameters[:MAX_PARAMETERS], solution] if len(found.points) > 1 else []
    for name in names:
        title = f"without one point of {plain(found.term)}"
        points = found.points[:, : len(axes)]
        figure = residual_picture(
            points, axes, found.changes[name], title, f"change of {plain(name)}"
        )
        caption = f"By how much {name} changes where the point is left out."
        pictures.append(Picture(file_name("influence", name), figure, caption))
    return pictures
