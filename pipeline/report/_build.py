"""The report of a store, of estimates, or of a training: from there to a page."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path

from hessian_tasks.source import ProblemSource
from pipeline.analysis.ends import spectrum_with_ends
from pipeline.analysis.layers import participation
from pipeline.analysis.parts import has_pair
from pipeline.analysis.statistics import matrix_statistics
from pipeline.analysis.summary import summarise
from pipeline.curvature.landscape import Directions, stored_curvatures
from pipeline.errors import ConfigError, StoreError
from pipeline.estimates.kept import KeptEstimates, holds_estimates
from pipeline.estimates.watched import TrainingRecord, holds_training
from pipeline.report._along import training_page
from pipeline.report._approximated import approximations_section
from pipeline.report._chosen import NUM_BOTTOM, NUM_TOP, chosen_directions, problem_name
from pipeline.report._estimated import estimates_page
from pipeline.report._evaluated import Curvature, evaluated_sections, rebuilt_problem
from pipeline.report._headline import headline, state_warnings
from pipeline.report._layers import layers_section, participation_section
from pipeline.report._measured import measured_sections
from pipeline.report._page import Page, write_page
from pipeline.report._stored import (
    certificate_section,
    matrix_section,
    provenance_section,
    spectrum_section,
)
from pipeline.report._terms import gauss_newton_section, terms_section
from pipeline.store.places import Location, Place, locate
from pipeline.store.store import HessianStore

__all__ = ["build_page", "write_report"]


def write_report(
    store: Place,
    out: str | Path | None = None,
    *,
    ggn: Place | None = None,
    problem: ProblemSource | str | None = None,
    stored_only: bool = False,
    data: str | None = None,
) -> Path:
    """Write the report of a store, of estimates, or of what was observed along a training.

    One HTML page, with its pictures and tables beside it.

    What cannot be shown is left out, and the page says why: of an incomplete store all that
    needs the missing block rows, without TensorFlow or the problem's source all that evaluates
    the problem.

    Args:
        store: The store, or what ``hessian estimate --store`` or ``hessian train --watch`` has
            kept. Of a training nothing is evaluated again.
        out: Directory of the report; ``<store>-report`` by default.
        ggn: Store of the Gauss-Newton matrix of the same inputs, to compare with; by default the
            store itself, if it holds both.
        problem: The problem's file, if it was a live object or has moved since.
        stored_only: Leave out what evaluates the problem, which imports TensorFlow and runs the
            problem's file.
        data: Name of the residual term that holds the measurements; may be left out where only one
            has data.

    Returns:
        Path of the page, ``report.html``.

    Raises:
        StoreError: If the store cannot be read or the report not be written.
        ConfigError: If ``ggn`` or ``data`` is given for what is no matrix.
        StoreMismatchError: If ``ggn`` is of other inputs.
        ProblemError, ReproductionError: If ``problem`` is not the store's problem.
    """
    location = locate(store)
    path = default_out(location) if out is None else Path(out)
    directory = location.directory
    if directory is not None and path.resolve().is_relative_to(directory.resolve()):
        raise StoreError(f"{path} lies in the store. Give the report another --out.")
    if holds_estimates(location):
        _expect_neither(ggn, data, location, "estimates")
        page = estimates_page(KeptEstimates(location), problem, stored_only)
    elif holds_training(location):
        _expect_neither(ggn, data, location, "observations along a training")
        page = training_page(TrainingRecord(location))
    else:
        page = build_page(HessianStore(location), ggn, problem, stored_only, data)
    return write_page(page, path, "report")


def _expect_neither(ggn: Place | None, data: str | None, location: Location, held: str) -> None:
    asked = (
        ("--ggn", ggn, "compares the matrices of two stores"),
        ("--data", data, "names measurements, whose uncertainty takes a matrix"),
    )
    for flag, given, what in asked:
        if given is not None:
            raise ConfigError(
                f"{flag} {what}, but {location} holds {held}. Give the store of the Hessian, or "
                f"leave out {flag}."
            )


def default_out(store: Location) -> Path:
    """Where the report of a store goes by default: beside it, or here.

    Example:
        >>> from pipeline.store.places import locate
        >>> default_out(locate("runs/poisson.zarr")).as_posix()
        'runs/poisson-report'
        >>> default_out(locate("s3://bucket/runs/poisson.zarr")).as_posix()
        'poisson-report'
    """
    beside = store.directory or Path(store.name)
    return beside.with_name(f"{store.name.removesuffix('.zarr')}-report")


def build_page(
    store: HessianStore,
    ggn: Place | None = None,
    problem: ProblemSource | str | None = None,
    stored_only: bool = False,
    data: str | None = None,
) -> Page:
    """The page of a store, from the arguments of :func:`write_report`."""
    num_missing = len(store.block_rows) - len(store.records())
    about = [certificate_section(store), provenance_section(store)]
    page = Page(
        title=f"{store.matrix.title} of {problem_name(store)}",
        subtitle=f"{store.location.name}: P = {store.num_params:,}, {store.dtype}",
        sections=[matrix_section(store), *about],
        source=store.attributes["source"]["text"],
    )
    if num_missing:
        warning = (
            f"This store is incomplete: {num_missing} of {len(store.block_rows)} block rows are "
            "missing, and with them all that needs the whole matrix. Complete it with: "
            f"{store.resume_command}"
        )
        return replace(page, warnings=[warning])
    found, values, vectors = spectrum_with_ends(store, NUM_TOP, NUM_BOTTOM)
    summary = summarise(store, found)
    _, directions = chosen_directions(values, vectors)
    rebuilt = rebuilt_problem(store, problem, stored_only)
    sections = [
        spectrum_section(store, found),
        layers_section(store, matrix_statistics(store)),
        participation_section(participation(vectors.T, store.layout), values),
        terms_section(store, found),
        *([gauss_newton_section(store, ggn, found)] if has_pair(store, ggn) else []),
        approximations_section(store, ggn),
        *evaluated_sections(rebuilt, directions, partial(_curvature, store, directions)),
        *measured_sections(store, ggn, found, rebuilt, data),
        *page.sections,
    ]
    warnings = state_warnings(summary)
    return replace(page, warnings=warnings, facts=headline(summary), sections=sections)


def _curvature(store: HessianStore, directions: Directions) -> Curvature:
    matrices = stored_curvatures(store, directions)
    return Curvature(store.matrix.symbol, matrices, "from the store")
