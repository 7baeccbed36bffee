"""Sections of a report that need the stored arrays alone, no TensorFlow."""

from __future__ import annotations

from collections.abc import Sequence

from hessian_tasks.spec import MATRICES
from pipeline.analysis.density import spectral_density
from pipeline.analysis.operator import open_operator
from pipeline.analysis.pictures import matrix_picture
from pipeline.analysis.spectrum import Spectrum
from pipeline.report import _provenance as provenance
from pipeline.report import _spectrum as spectrum
from pipeline.report._page import Picture, Section
from pipeline.store.store import HessianStore
from pipeline.units import format_bytes, format_seconds

__all__ = [
    "certificate_section",
    "matrix_section",
    "provenance_section",
    "spectrum_section",
]


def spectrum_section(store: HessianStore, found: Spectrum) -> Section:
    """The eigenvalues; what lies between those at both ends, if only these are known, estimated."""
    described = None
    if not found.complete:
        density = spectral_density(open_operator(store), known=found.pairs)
        described = density.to_json(found.noise_floor)
    return spectrum.spectrum_section(store.matrix, store.num_params, found, described)


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
    if store.self_check is not None and not store.self_check.passed:
        text.append(f"The check of the run that computed it FAILED. {store.self_check.failure}")
    if certificate is None:
        return Section(
            "Certificate", text, left_out="this store has none. Make it with: hessian verify"
        )
    errors = certificate.get("matrix_errors") or {store.matrix.name: certificate["product_errors"]}
    by_matrix = [(MATRICES[name].symbol, found) for name, found in errors.items()]
    shown = {
        "verdict": "verified" if certificate["passed"] else "FAILED",
        "time": certificate["created"],
        "missing block rows": certificate["num_missing"],
        "damaged objects": len(certificate["damaged"]),
        **{f"relative errors of {symbol} v": _errors(found) for symbol, found in by_matrix},
        "relative errors of J v": _errors(certificate.get("jacobian_errors") or []),
        "allowed": f"{certificate['tolerance']:.2g}",
        "symmetry defect": _error(certificate["symmetry_defect"]),
        "seed of the random vectors": str(certificate["seed"]),
    }
    return Section(
        "Certificate",
        text,
        tables=[provenance.pairs_table("certificate", "The last verification.", shown)],
    )


def _errors(errors: Sequence[float]) -> str:
    return ", ".join(_error(error) for error in errors)


def _error(error: float | None) -> str:
    return "" if error is None else f"{error:.2g}"


def provenance_section(store: HessianStore) -> Section:
    """Where the numbers come from: problem, engine, versions, machine, digests."""
    records = store.records().values()
    computed = {
        "engine": store.engine,
        "why this engine": store.attributes.get("engine_reason") or "",
        "block rows": f"{len(records)} of {len(store.block_rows)} stored, {store.tile} rows each",
        "computing": format_seconds(sum(r.compute_seconds for r in records)),
        "storing": format_seconds(sum(r.store_seconds for r in records)),
        "peak memory": format_bytes(max((r.peak_bytes for r in records), default=0)),
    }
    return provenance.provenance_section(store, computed)
