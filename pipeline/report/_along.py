"""The report of a record of training: from it to a page."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import xarray as xr

from pipeline.analysis.continuation import KnownPairs
from pipeline.analysis.layers import participation
from pipeline.analysis.pictures import (
    Course,
    curvature_course_picture,
    gradient_course_picture,
    plain,
    trace_course_picture,
)
from pipeline.analysis.subspaces import overlap
from pipeline.estimates.watched import TrainingRecord
from pipeline.report._chosen import problem_name
from pipeline.report._continued import continued_table
from pipeline.report._layers import participation_section
from pipeline.report._page import Page, Picture, Section, Table
from pipeline.report._provenance import provenance_section
from pipeline.units import format_seconds

__all__ = ["training_page"]

Array = npt.NDArray[Any]

MAX_LISTED = 12
# What grows with P is read observation by observation.
LARGE = ("eigenvector", "theta")


def training_page(record: TrainingRecord) -> Page:
    """The page of what was observed along a training."""
    everything = record.dataset()
    found = everything.drop_vars(LARGE).load()
    steps = found.step.values
    known = [_pairs(found, everything, number) for number in range(len(steps))]
    last = known[-1]
    kept = [
        _course_section(found, _overlaps(known)),
        _followed_section(found, known),
        participation_section(
            participation(last.vectors[:, ::-1], record.layout), last.values[::-1]
        ),
        _left_out(),
        provenance_section(record, _computed(found)),
    ]
    where = f"observed at {len(steps)} steps from {steps[0]:,} to {steps[-1]:,}"
    return Page(
        title=f"Training of {problem_name(record)}",
        subtitle=f"{record.location.name}: P = {record.num_params:,}, {where}",
        sections=kept,
        facts=_facts(found),
        source=record.attributes["source"]["text"],
    )


def _pairs(found: xr.Dataset, everything: xr.Dataset, number: int) -> KnownPairs:
    at = found.isel(step=number)
    vectors = everything.eigenvector[number].to_numpy()
    return KnownPairs(at.eigenvalue.to_numpy(), at.eigenvalue_error.to_numpy(), vectors)


def _num_leading(num_pairs: int) -> int:
    """How many of the eigenvectors of an observation belong to the largest eigenvalues."""
    return (num_pairs + 1) // 2


def _overlaps(known: Sequence[KnownPairs]) -> Array:
    """Mean squared cosine of the leading eigenvectors with those before; NaN of the first."""
    leading = [pairs.vectors[:, -_num_leading(len(pairs.values)) :] for pairs in known]
    return np.array([np.nan, *map(overlap, leading, leading[1:])])


def _facts(found: xr.Dataset) -> list[tuple[str, str, str]]:
    first, last = found.isel(step=0), found.isel(step=-1)

    def fact(name: str, value: Any, bound: str = "") -> tuple[str, str, str]:
        before, after = float(value(first)), float(value(last))
        was = f"{_said(before, 4)} at step {int(first.step):,}" if len(found.step) > 1 else ""
        return name, _said(after, 5), "; ".join(filter(None, [bound, was]))

    def bound(rank: int) -> str:
        return f"± {float(last.eigenvalue_error[rank]):.2g}"

    zero = abs(last.eigenvalue[0]) <= last.eigenvalue_error[0]
    return [
        fact("loss", lambda at: at.loss),
        fact("gradient norm", lambda at: at.gradient_norm),
        fact("largest eigenvalue", lambda at: at.eigenvalue[-1], bound(-1)),
        fact(
            "smallest eigenvalue",
            lambda at: at.eigenvalue[0],
            f"{bound(0)}{', so it may be zero' if zero else ''}",
        ),
        fact(
            "trace",
            lambda at: at.trace,
            f"± {2 * float(last.trace_error):.2g}, two standard errors",
        ),
        fact("gradient alignment", lambda at: at.alignment),
    ]


def _said(value: float, digits: int) -> str:
    # The alignment of no gradient.
    return "not defined" if np.isnan(value) else f"{value:.{digits}g}"


def _course_section(found: xr.Dataset, overlaps: Array) -> Section:
    course = Course(found.step.to_numpy(), found.phase.values.tolist())
    losses = {"loss": found.loss.to_numpy()}
    if len(found.term) > 1:
        losses |= {plain(str(t)): found.term_loss.sel(term=t).to_numpy() for t in found.term.values}
    values, errors = found.eigenvalue.to_numpy(), found.eigenvalue_error.to_numpy()
    shares = {"gradient in their span": found.alignment.to_numpy(), "span kept": overlaps}
    norms = found.gradient_norm.to_numpy()
    pictures = [
        Picture(
            "course",
            curvature_course_picture(course, values, errors, losses),
            "The eigenvalues at both ends with bounds on their errors, on an axis that is "
            "logarithmic both ways, and the losses. Dotted lines are where another method goes on.",
        ),
        Picture(
            "gradient",
            gradient_course_picture(course, norms, shares),
            "The norm of the gradient; the share of its square in the span of the eigenvectors of "
            "the largest eigenvalues; and how much of that span is that of the step before.",
        ),
        Picture(
            "trace",
            trace_course_picture(course, found.trace.to_numpy(), 2 * found.trace_error.to_numpy()),
            "The trace, estimated from products, with two standard errors.",
        ),
    ]
    return Section("Curvature along training", _course_words(found), pictures, _tables(found))


def _course_words(found: xr.Dataset) -> list[str]:
    top, loss = found.eigenvalue[:, -1], found.loss
    if len(found.step) == 1:
        return [f"There is one observation, of step {int(found.step[0]):,}."]
    peak = int(np.argmax(top.to_numpy()))
    text = (
        f"The loss went from {float(loss[0]):.3g} to {float(loss[-1]):.3g} and the largest "
        f"eigenvalue from {float(top[0]):.3g} to {float(top[-1]):.3g}"
    )
    if 0 < peak < len(top) - 1:
        text += f", with {float(top[peak]):.3g} at step {int(found.step[peak]):,} in between"
    stable = "Gradient descent of a rate above 2 / λ overshoots along the eigenvector of λ."
    return [f"{text}. {stable}"]


def _tables(found: xr.Dataset) -> list[Table]:
    columns: dict[str, Any] = {"step": found.step.to_numpy(), "phase": found.phase.values.tolist()}
    columns |= {"loss": found.loss.to_numpy(), "gradient norm": found.gradient_norm.to_numpy()}
    aligned = found.alignment.values.tolist()
    columns["gradient alignment"] = [None if np.isnan(share) else share for share in aligned]
    for name, rank in (("largest λ", -1), ("smallest λ", 0)):
        columns[name] = found.eigenvalue[:, rank].to_numpy()
        columns[f"± of the {name}"] = found.eigenvalue_error[:, rank].to_numpy()
    columns["trace"] = found.trace.to_numpy()
    columns["± of the trace"] = 2 * found.trace_error.to_numpy()
    columns["products"] = found.num_products.to_numpy()
    columns["seconds"] = found.seconds.to_numpy()
    spectra: dict[str, Any] = {"step": found.step.to_numpy()}
    for rank in range(found.sizes["pair"]):
        spectra[f"λ {rank + 1}"] = found.eigenvalue[:, rank].to_numpy()
        spectra[f"± {rank + 1}"] = found.eigenvalue_error[:, rank].to_numpy()
    caption = "The observations; the error of the trace is two standard errors."
    return [
        Table("observations", caption, columns, shown=MAX_LISTED),
        Table("eigenvalues", "All eigenvalues of every observation.", spectra, shown=0),
    ]


def _followed_section(found: xr.Dataset, known: Sequence[KnownPairs]) -> Section:
    title = "Which eigenvectors go on"
    if len(known) == 1:
        return Section(title, left_out="there is one observation alone.")
    steps = [f"step {int(step):,}" for step in found.step]
    text = [
        "An overlap is the squared cosine of the angle between two eigenvectors, or between the "
        "spaces of close eigenvalues that they belong to: 1 if nothing has turned. What is gone "
        "may have gone further inside the spectrum, of which only the ends are known."
    ]
    neighbours = {"from": list[int](), "to": list[int]()}
    parts = list[Table]()
    for number in range(len(known) - 1):
        parts.append(continued_table("", known[number], known[number + 1], ""))
        for key, place in (("from", number), ("to", number + 1)):
            neighbours[key] += [int(found.step[place])] * parts[-1].num_rows
    joined = {name: [v for part in parts for v in part.columns[name]] for name in parts[0].columns}
    between = f"from {steps[0]} to {steps[-1]}"
    tables = [continued_table("continued", known[0], known[-1], between)]
    caption = "The same from each observation to the next."
    tables.append(Table("continued-steps", caption, neighbours | joined, shown=MAX_LISTED))
    return Section(title, text, tables=tables)


def _left_out() -> Section:
    reason = (
        "a record of training holds the ends of the spectrum and no matrix, so there are no layer "
        "blocks, no spectrum between the ends, and no slices of the loss. Save networks on the way "
        "with: hessian train --checkpoints 5, and compute their matrices with: hessian run"
    )
    return Section("Matrix", left_out=reason)


def _computed(found: xr.Dataset) -> dict[str, Any]:
    return {
        "observations": len(found.step),
        "eigenpairs of each": found.sizes["pair"],
        "products": int(found.num_products.sum()),
        "observing": format_seconds(float(found.seconds.sum())),
    }
