"""Sections of a report on loss terms, and on what Gauss-Newton leaves out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from hessian_tasks.spec import HESSIAN
from pipeline.analysis.parts import open_pair
from pipeline.analysis.pictures import curvature_picture, overlaid_picture, overlap_picture
from pipeline.analysis.spectrum import Spectrum, spectrum
from pipeline.analysis.sums import exact_sums
from pipeline.analysis.terms import TermAnalysis, analyse_terms
from pipeline.curvature.gauss_newton import residual_curvature
from pipeline.report._page import Picture, Section, Table
from pipeline.store.names import describe_term
from pipeline.store.places import Place
from pipeline.store.store import HessianStore

__all__ = ["gauss_newton_section", "terms_section"]

MAX_LISTED = 10
NUM_DOMINANT = 8


def terms_section(store: HessianStore, found: Spectrum) -> Section:
    """What each loss term contributes; its spectrum if its matrix is stored.

    Args:
        store: A complete store.
        found: The spectrum of the total.
    """
    symbol = store.matrix.symbol
    columns = _declared(store)
    text = [
        f"The loss is the sum of its terms, and so is {symbol}. A term with a small share of the "
        "loss may still have most of the curvature: it then decides which step sizes are stable."
    ]
    if not any(name in store.arrays for name in columns["term"]):
        table = Table("terms", "The terms of the loss, weights included.", columns)
        reason = "the terms' own matrices, which are stored by: hessian run --per-term"
        return Section("Loss terms", text, tables=[table], left_out=reason)
    analysis = _analysed(store, found)
    spectra = _spectra(store, analysis)
    columns |= _curvatures(store, [spectra.get(name) for name in columns["term"]])
    caption = f"The terms, weights included; {symbol} is the sum of their matrices."
    picture = Picture(
        "terms",
        overlaid_picture(spectra, f"spectra of the terms' {store.matrix.plural}"),
        "The spectra of the terms on one axis. Shares are of each term's P eigenvalues.",
    )
    section = Section("Loss terms", text, [picture], [Table("terms", caption, columns)])
    return section if analysis is None else _with_subspaces(section, analysis)


def _analysed(store: HessianStore, found: Spectrum) -> TermAnalysis | None:
    if store.matrix != HESSIAN:
        return None
    # What Gauss-Newton leaves out has a section of its own.
    return analyse_terms(store.select(HESSIAN), num_dominant=NUM_DOMINANT, whole=found)


def _declared(store: HessianStore) -> dict[str, Sequence[Any]]:
    terms, loss = store.attributes["terms"], float(store.attributes["loss"])
    return {
        "term": [str(term["name"]) for term in terms],
        "kind": [describe_term(term, store.attributes) for term in terms],
        "weight": [float(term["weight"]) for term in terms],
        "loss": [float(term["loss"]) for term in terms],
        "share of the loss": [float(term["loss"]) / loss if loss else None for term in terms],
    }


def _spectra(store: HessianStore, analysis: TermAnalysis | None) -> dict[str, Spectrum]:
    if analysis is None:
        return {name: spectrum(store, name) for name in store.arrays if name is not None}
    pairs = zip(analysis.parts, analysis.spectra, strict=True)
    return {part.term: found for part, found in pairs if part.term is not None}


def _curvatures(store: HessianStore, found: Sequence[Spectrum | None]) -> dict[str, Sequence[Any]]:
    total, _ = exact_sums(store)
    return {
        "trace": [s and s.trace for s in found],
        "share of the trace": [s and s.trace / total if total else None for s in found],
        "Frobenius norm": [s and s.frobenius_norm for s in found],
        "largest eigenvalue": [s and float(s.eigenvalues[-1]) for s in found],
        "smallest eigenvalue": [s and float(s.eigenvalues[0]) for s in found],
        "negative": [s and s.inertia and s.inertia[2] for s in found],
        "noise floor": [s and s.noise_floor for s in found],
    }


def _with_subspaces(section: Section, analysis: TermAnalysis) -> Section:
    """The section with how the terms' dominant directions lie to each other."""
    labels = [part.label for part in analysis.parts]
    number = len(analysis.dominant[0].eigenvalues)
    overlap = Picture(
        "overlaps",
        overlap_picture(analysis.overlaps, labels, number),
        f"Overlap of the subspaces of the {number} eigenvalues of largest magnitude: 100% if they "
        "are the same, 0 if they are orthogonal.",
    )
    curvature = Picture(
        "curvatures",
        curvature_picture(analysis.curvatures[:, 1:], labels[1:], analysis.spectra[0].noise_floor),
        "Each term's curvature along the dominant eigenvectors of the sum. Bars on both sides of "
        "zero are terms in conflict.",
    )
    columns: dict[str, Any] = {"eigenvalue of the sum": analysis.dominant[0].eigenvalues}
    columns |= {label: analysis.curvatures[:, k] for k, label in enumerate(labels)}
    columns["conflict"] = ["yes" if conflict else "no" for conflict in analysis.conflicts]
    table = Table("curvatures", "Curvatures along the dominant eigenvectors of the sum.", columns)
    return replace(
        section,
        pictures=[*section.pictures, overlap, curvature],
        tables=[*section.tables, table],
    )


def gauss_newton_section(store: HessianStore, ggn: Place | None, found: Spectrum) -> Section:
    """How much of the Hessian the Gauss-Newton matrix has.

    Raises:
        StoreMismatchError: If the stores are not of one problem's H and G.
    """
    curvature = residual_curvature(store, ggn)
    rest = float(np.sqrt((curvature.astype(np.float64) ** 2).sum().compute()))
    other = spectrum(open_pair(store, ggn)[1])
    text = [
        "The Gauss-Newton matrix G takes first derivatives of residuals alone. What it leaves out, "
        f"H - G, has {rest / found.frobenius_norm:.2g} of the Frobenius norm of H. Negative "
        "eigenvalues of H are all in it, as G has none."
    ]
    picture = Picture(
        "gauss-newton",
        overlaid_picture({"H": found, "G": other}, "spectra of H and G"),
        "The spectra of H and of G on one axis.",
    )
    number = min(len(found.eigenvalues), len(other.eigenvalues))
    table = Table(
        "gauss-newton",
        f"The largest eigenvalues, known to ±{found.noise_floor:.2g} and ±{other.noise_floor:.2g}.",
        {
            "rank": np.arange(1, number + 1),
            "H": found.eigenvalues[::-1][:number],
            "G": other.eigenvalues[::-1][:number],
        },
        shown=MAX_LISTED,
    )
    return Section("What Gauss-Newton leaves out", text, [picture], [table])
