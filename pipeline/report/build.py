"""The report of a store: from the store to a page."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from pipeline.analysis.layers import participation
from pipeline.analysis.spectrum import Spectrum, spectrum
from pipeline.analysis.statistics import matrix_statistics
from pipeline.analysis.summary import summarise
from pipeline.api import rebuild_problem
from pipeline.errors import HessianError, StoreError
from pipeline.landscape import Directions, loss_slices, solution_changes
from pipeline.report.evaluated import fields_section, slices_section
from pipeline.report.headline import headline, state_warnings
from pipeline.report.layers import layers_section, participation_section
from pipeline.report.page import Page, Section, write_page
from pipeline.report.stored import (
    certificate_section,
    matrix_section,
    provenance_section,
    spectrum_section,
)
from pipeline.report.terms import gauss_newton_section, terms_section
from pipeline.storage import Location, Place
from pipeline.store import HessianStore

if TYPE_CHECKING:
    from hessian_tasks.problem import Problem

__all__ = ["build_page", "write_report"]

Array = npt.NDArray[np.float64]

NUM_TOP, NUM_BOTTOM = 5, 3
# Slices end where the quadratic model has changed by this multiple of the loss.
CHANGE = 2.0


def write_report(
    store: Place,
    out: str | Path | None = None,
    *,
    ggn: Place | None = None,
    problem: str | None = None,
    stored_only: bool = False,
) -> Path:
    """Write the report of a store: one HTML page, its pictures and its tables.

    What cannot be shown is left out, and the page says why: of an incomplete store all that
    needs the missing block rows, without TensorFlow or the problem's source all that evaluates
    the problem.

    Args:
        store: Directory of the store.
        out: Directory of the report; ``<store>-report`` by default.
        ggn: Store of the Gauss-Newton matrix of the same inputs, to compare with.
        problem: The problem's file, if it was a live object or has moved since.
        stored_only: Leave out what evaluates the problem, which imports TensorFlow and runs the
            problem's file.

    Returns:
        Path of the page, ``report.html``.

    Raises:
        StoreError: If the store cannot be read or the report not be written.
        StoreMismatchError: If ``ggn`` is of other inputs.
        ProblemError, ReproductionError: If ``problem`` is not the store's problem.
    """
    opened = HessianStore(store)
    path = default_out(opened.location) if out is None else Path(out)
    directory = opened.location.directory
    if directory is not None and path.resolve().is_relative_to(directory.resolve()):
        raise StoreError(f"{path} lies in the store. Give the report another --out.")
    return write_page(build_page(opened, ggn, problem, stored_only), path, "report")


def default_out(store: Location) -> Path:
    """Where the report of a store goes by default: beside it, or here.

    Example:
        >>> from pipeline.storage import locate
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
    problem: str | None = None,
    stored_only: bool = False,
) -> Page:
    """The page of a store, from the arguments of :func:`write_report`."""
    num_missing = len(store.block_rows) - len(store.records())
    about = [certificate_section(store), provenance_section(store)]
    page = Page(
        title=f"{store.matrix.title} of {_problem_name(store)}",
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
    found = spectrum(store, vectors=True)
    summary = summarise(store, found)
    values, vectors = _both_ends(found)
    sections = [
        spectrum_section(store, found),
        layers_section(store, matrix_statistics(store)),
        participation_section(participation(vectors.T, store.layout), values),
        terms_section(store),
        *([gauss_newton_section(store, ggn, found)] if ggn is not None else []),
        *_evaluated(store, found, _directions(store, values, vectors), problem, stored_only),
        *page.sections,
    ]
    warnings = state_warnings(summary)
    return replace(page, warnings=warnings, facts=headline(summary), sections=sections)


def _problem_name(store: HessianStore) -> str:
    # A file's directories are in the provenance.
    return Path(str(store.attributes["source"]["reference"])).name


def _directions(store: HessianStore, values: Array, vectors: Array) -> Directions:
    """The two stiffest eigenvectors and the one that leads most steeply downhill."""
    chosen = sorted({0, min(1, len(values) - 1), len(values) - 1})
    ranks = [*[1, 2][: len(chosen) - 1], store.num_params]
    labels = [f"v{rank} (λ = {values[k]:.3g})" for rank, k in zip(ranks, chosen, strict=True)]
    return Directions(labels, vectors[chosen])


def _evaluated(
    store: HessianStore,
    found: Spectrum,
    directions: Directions,
    problem: str | None,
    stored_only: bool,
) -> list[Section]:
    titles = ("Slices of the loss", "Eigenvectors as changes of the solution")
    rebuilt = "--stored-only was given." if stored_only else _rebuild(store, problem)
    if isinstance(rebuilt, str):
        return [Section(title, left_out=rebuilt) for title in titles]
    slices = loss_slices(store, rebuilt, directions, found.noise_floor, CHANGE)
    fields = solution_changes(rebuilt, directions)
    if fields is None:
        reason = "no term of the loss declares a residual at collocation points."
        return [slices_section(store, slices, CHANGE), Section(titles[1], left_out=reason)]
    return [slices_section(store, slices, CHANGE), fields_section(fields, rebuilt.coordinates)]


def _rebuild(store: HessianStore, problem: str | None) -> Problem | str:
    """The problem, or why it is not to be had; an error if it was asked for by name."""
    from hessian_tasks.process import configure_tensorflow

    try:
        configure_tensorflow()
        return rebuild_problem(store, problem)
    except ImportError as error:
        return f"it evaluates the problem, which needs TensorFlow ({error})."
    except HessianError as error:
        if problem is not None:
            raise
        return f"it evaluates the problem, which cannot be rebuilt: {error} (--problem FILE)"


def _both_ends(found: Spectrum) -> tuple[Array, Array]:
    """The largest and the smallest eigenvalues, in that order, and eigenvectors ``[K, P]``."""
    assert found.vectors is not None, "asked for"
    number = len(found.eigenvalues)
    order = np.arange(number)[::-1]
    if number > NUM_TOP + NUM_BOTTOM:
        order = np.concatenate([order[:NUM_TOP], order[-NUM_BOTTOM:]])
    return found.eigenvalues[order], found.vectors.T[order]
