"""Sections of a report that need the stored arrays alone, no TensorFlow."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from pipeline.analysis.density import spectral_density
from pipeline.analysis.operator import open_operator
from pipeline.analysis.pictures import (
    density_picture,
    eigenvalue_picture,
    estimated_density_picture,
    matrix_picture,
)
from pipeline.analysis.spectrum import Spectrum
from pipeline.report.page import Picture, Section, Table
from pipeline.store import HessianStore
from pipeline.units import format_bytes, format_seconds

__all__ = [
    "certificate_section",
    "matrix_section",
    "provenance_section",
    "spectrum_section",
]

MAX_LISTED = 10


def spectrum_section(store: HessianStore, found: Spectrum) -> Section:
    """All eigenvalues: how many of each size and sign, and by rank."""
    symbol, title = store.matrix.symbol, store.matrix.title
    text = [
        f"An eigenvalue λ of {symbol} is the curvature of the loss along its eigenvector. Large "
        "positive ones are stiff directions, negative ones lead downhill to second order, and "
        "those within the noise floor (grey) are flat as far as the stored precision can tell. "
        "The spread of the coloured part is what slows gradient descent down.",
    ]
    by_rank = Picture(
        "eigenvalues",
        eigenvalue_picture(found, f"eigenvalues of the {title} by rank"),
        "Eigenvalues by rank, on logarithmic axes: circles are positive, triangles negative. A "
        "mirrored bulk below the dashed line is rounding, not curvature.",
    )
    if not found.complete:
        return _estimated(
            store, found, Section("Spectrum", text, [by_rank], [_eigenvalues(store, found)])
        )
    density = Picture(
        "density",
        density_picture(found, f"density of the spectrum, P = {store.num_params:,}"),
        "Number of eigenvalues in each quarter of a decade, for either sign. The axis is "
        "logarithmic both ways from the noise floor.",
    )
    return Section("Spectrum", text, [density, by_rank], [_eigenvalues(store, found)])


def _eigenvalues(store: HessianStore, found: Spectrum) -> Table:
    values = found.eigenvalues[::-1]
    ranks = np.arange(1, len(values) + 1)
    if not found.complete:
        ranks[len(values) // 2 :] += store.num_params - len(values)
    return Table(
        "eigenvalues",
        f"Eigenvalues of the {store.matrix.title}, largest first, and their error bounds.",
        {
            "rank": ranks,
            "eigenvalue": values,
            "±": np.full(len(values), found.noise_floor),
        },
        shown=MAX_LISTED,
    )


def _estimated(store: HessianStore, found: Spectrum, section: Section) -> Section:
    """The section with an estimate of the eigenvalues between those that are known."""
    estimate = spectral_density(open_operator(store), known=found.pairs)
    described = estimate.to_json(found.noise_floor)
    density = Picture(
        "density",
        estimated_density_picture(described, f"density of the spectrum, P = {store.num_params:,}"),
        "Share of the eigenvalues by size and sign, estimated by stochastic Lanczos quadrature; "
        "the band is where it lies with 95 % confidence.",
    )
    counts = Table(
        "counts",
        "Estimated numbers of eigenvalues, with half widths of 95 % confidence intervals.",
        {
            "eigenvalues": [f"{name} the noise floor" for name in described["counts"]],
            "estimate": list(described["counts"].values()),
            "±": list(described["errors"].values()),
        },
    )
    return replace(section, pictures=[density, *section.pictures], tables=[counts, *section.tables])


def matrix_section(store: HessianStore) -> Section:
    """The entries."""
    picture = Picture(
        "matrix",
        matrix_picture(store),
        "Magnitudes of the entries; each pixel is a root mean square, lines separate layers. "
        "Missing block rows are white.",
    )
    text = [
        "Row and column r belong to entry r of the flattened weights. Bright off-diagonal "
        "blocks couple layers, so that what one layer should do depends on another.",
    ]
    return Section("Matrix", text, [picture])


def certificate_section(store: HessianStore) -> Section:
    """What the last verification found."""
    certificate = store.attributes.get("certificate")
    text = [
        "The certificate compares the stored array with products by automatic differentiation "
        "along another path: the relative error of H v for random v estimates that of the whole "
        "array in the Frobenius norm. The noise floor follows from it."
    ]
    if certificate is None:
        return Section(
            "Certificate", text, left_out="this store has none. Make it with: hessian verify"
        )
    shown = {
        "verdict": "verified" if certificate["passed"] else "FAILED",
        "time": certificate["created"],
        "missing block rows": certificate["num_missing"],
        "damaged objects": len(certificate["damaged"]),
        "relative errors of the products": _errors(certificate["product_errors"]),
        "relative errors of J v": _errors(certificate.get("jacobian_errors") or []),
        "allowed": f"{certificate['tolerance']:.2g}",
        "symmetry defect": _error(certificate["symmetry_defect"]),
        "seed of the random vectors": str(certificate["seed"]),
    }
    return Section(
        "Certificate", text, tables=[_pairs("certificate", "The last verification.", shown)]
    )


def _errors(errors: Sequence[float]) -> str:
    return ", ".join(_error(error) for error in errors)


def _error(error: float | None) -> str:
    return "" if error is None else f"{error:.2g}"


def provenance_section(store: HessianStore) -> Section:
    """Where the numbers come from: problem, engine, versions, machine, digests."""
    attributes = store.attributes
    source, provenance = attributes["source"], attributes["provenance"]
    records = store.records().values()
    shown = {
        "store": store.location.name,
        "problem": source["reference"],
        **{f"option {name}": value for name, value in source["options"].items()},
        "engine": store.engine,
        "why this engine": attributes.get("engine_reason") or "",
        "block rows": f"{len(records)} of {len(store.block_rows)} stored, {store.tile} rows each",
        "computing": format_seconds(sum(r.compute_seconds for r in records)),
        "storing": format_seconds(sum(r.store_seconds for r in records)),
        "peak memory": format_bytes(max((r.peak_bytes for r in records), default=0)),
        "created": provenance["created"],
        **{name: provenance[name] for name in provenance if name not in ("created", "packages")},
        **{f"version of {name}": v for name, v in provenance["packages"].items()},
    }
    digests = attributes["fingerprint"]
    tables = [
        _pairs("provenance", "Where this store comes from.", shown),
        _pairs("digests", "SHA-256 of the inputs, or their values.", digests),
    ]
    text = ["A run that resumes this store, or a comparison with another, checks these digests."]
    return Section("Provenance", text, tables=tables)


def _pairs(name: str, caption: str, values: dict[str, Any]) -> Table:
    kept = {key: str(value) for key, value in values.items() if value not in ("", None)}
    return Table(name, caption, {"what": list(kept), "value": list(kept.values())})
