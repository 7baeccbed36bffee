"""The report of estimates that were kept: from them to a page."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from hessian_tasks.source import ProblemSource
from pipeline.analysis.estimators import TITLES
from pipeline.analysis.layers import participation
from pipeline.analysis.spectrum import Spectrum
from pipeline.estimates.kept import KeptEstimates
from pipeline.report._chosen import both_ends, chosen_directions, problem_name
from pipeline.report._evaluated import Curvature, evaluated_sections, rebuilt_problem
from pipeline.report._headline import estimated_headline
from pipeline.report._layers import DIAGONAL, diagonal_section, participation_section
from pipeline.report._page import Page, Section
from pipeline.report._provenance import provenance_section
from pipeline.report._spectrum import spectrum_section
from pipeline.units import format_seconds

__all__ = ["estimates_page"]

Array = npt.NDArray[np.float64]


def estimates_page(
    kept: KeptEstimates, problem: ProblemSource | str | None = None, stored_only: bool = False
) -> Page:
    """The page of kept estimates, from the arguments of :func:`~pipeline.report.write_report`."""
    found = kept.spectrum()
    values, vectors = both_ends(found)
    shown, directions = chosen_directions(values, vectors)
    rebuilt = rebuilt_problem(kept, problem, stored_only)
    sections = [
        _spectrum(kept, found),
        _diagonal(kept),
        participation_section(participation(vectors.T, kept.layout), values),
        *evaluated_sections(rebuilt, directions, lambda: _curvature(kept, found, shown)),
        _provenance(kept),
    ]
    return Page(
        title=f"{kept.matrix.title} of {problem_name(kept)}",
        subtitle=(
            f"{kept.location.name}: P = {kept.num_params:,}, estimated from "
            f"{kept.answers.num_products:,} products"
        ),
        sections=sections,
        warnings=_warnings(found),
        facts=estimated_headline(kept, found),
        source=kept.attributes["source"]["text"],
    )


def _warnings(found: Spectrum) -> list[str]:
    pairs = found.pairs
    assert pairs is not None, "estimates have them"
    missed = int(np.sum(~pairs.converged))
    if not missed:
        return []
    return [
        f"{missed} of {len(pairs.values)} eigenpairs did not converge: their residuals are up to "
        f"{pairs.residuals.max():.2g}, where {pairs.tolerance:.2g} was asked for. Their error "
        "bounds say so, but eigenvalues further out may be missing. Ask for fewer, or for a "
        "larger: hessian estimate --tolerance"
    ]


def _spectrum(kept: KeptEstimates, found: Spectrum) -> Section:
    density = kept.answers.density
    described = None if density is None else density.model_dump()
    left_out = "the density between both ends. Estimate it with: hessian estimate --density 4"
    return spectrum_section(kept.matrix, kept.num_params, found, described, left_out)


def _diagonal(kept: KeptEstimates) -> Section:
    if not kept.answers.asked.num_diagonal:
        reason = "it was not asked for. Estimate it with: hessian estimate --diagonal 100"
        return Section(DIAGONAL, left_out=reason)
    return diagonal_section(kept.layout, kept.read("diagonal"), kept.read("diagonal_error"))


def _curvature(kept: KeptEstimates, found: Spectrum, values: Array) -> Curvature | str:
    if kept.term is not None:
        return (
            f"these estimates are of term {kept.term} alone, and the loss is the sum of all "
            "terms. Estimate its matrix with: hessian estimate, without --term"
        )
    symbol, floor, worst = kept.matrix.symbol, found.noise_floor, max(kept.answers.residuals)
    notes = [
        f"The v are eigenvectors up to residuals of {worst:.2g} at most. λ is vᵀ{symbol}v "
        f"nevertheless, up to the noise floor of {floor:.2g}; what the model leaves out is "
        f"α β vᵀ{symbol}w on the plane of two, at most {found.errors.max():.2g} of α β."
    ]
    origin = "with the estimated eigenvalue λ as the curvature"
    return Curvature(symbol, {None: np.diag(values)}, origin, notes)


def _provenance(kept: KeptEstimates) -> Section:
    answers, asked = kept.answers, kept.answers.asked.model_dump()
    methods = [
        f"{name}: {TITLES[estimate.method]}, {estimate.num_products} products"
        for name, estimate in (
            ("trace", answers.trace), ("Frobenius norm", answers.frobenius_norm)
        )
    ]  # fmt: skip
    computed = {
        **{f"asked for {name}": value for name, value in asked.items()},
        "methods": "; ".join(methods),
        "products": answers.num_products,
        "of which from an interrupted process": answers.num_recorded or "",
        "computing": format_seconds(answers.seconds),
    }
    return provenance_section(kept, computed)
