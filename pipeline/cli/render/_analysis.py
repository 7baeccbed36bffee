"""What is said of the contents of stores."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from hessian_tasks.parameters import NETWORK
from pipeline.cli.render._loss import evaluated_rows, variable_rows
from pipeline.cli.render._table import table
from pipeline.store.names import describe_term

if TYPE_CHECKING:
    from pipeline.analysis.spectrum import Spectrum
    from pipeline.analysis.statistics import MatrixStatistics
    from pipeline.store.store import HessianStore

__all__ = ["density", "info", "info_data", "spectrum", "statistics", "subject"]


def spectrum(spectrum: Spectrum) -> str:
    """Eigenvalues and what follows from them, for people."""
    values = spectrum.eigenvalues
    shown = min(5, (len(values) + 1) // 2)
    rows = [
        ("eigenvalues", f"{len(values):,}" + ("" if spectrum.complete else " of them")),
        ("largest", "  ".join(f"{value:.5g}" for value in values[::-1][:shown])),
        ("smallest", "  ".join(f"{value:.5g}" for value in values[:shown])),
        *_residuals(spectrum),
        ("noise floor", f"{spectrum.noise_floor:.2g}"),
        ("trace", f"{spectrum.trace:.6g}"),
        ("Frobenius norm", f"{spectrum.frobenius_norm:.6g}"),
    ]
    if spectrum.inertia is not None:
        above, within, below = spectrum.inertia
        rows.append(("inertia", f"{above} positive, {within} within the noise, {below} negative"))
    if spectrum.numerical_rank:
        rows += [
            ("numerical rank", f"{spectrum.numerical_rank:,} above the noise floor"),
            ("effective rank", f"{spectrum.effective_rank:.4g}, (Σ|λ|)² / Σλ² of these"),
        ]
    if len(values):
        rows.append(("condition number", spectrum.conditioning))
    return table(rows)


def _residuals(spectrum: Spectrum) -> list[tuple[str, str]]:
    pairs = spectrum.pairs
    if pairs is None or not len(pairs.values):
        return []
    missed = int((~pairs.converged).sum())
    verdict = f"{missed} of them not converged" if missed else "all converged"
    return [
        (
            "residuals",
            f"at most {pairs.residuals.max():.2g}, {verdict} (allowed {pairs.tolerance:.2g})",
        ),
        ("passes", f"{pairs.num_passes} over the matrix"),
    ]


def density(data: dict[str, Any]) -> str:
    """An estimate of the numbers of eigenvalues, for people."""

    def between(bounds: list[float]) -> str:
        return f"{bounds[0]:,.1f} to {bounds[1]:,.1f}"

    method = f"{data['num_vectors']} random vectors, {data['num_steps']} steps"
    ranges, resolved = data["ranges"], data["resolved"]
    rows = [
        ("estimated counts", f"95 % intervals, from {method}; {data['num_known']} exactly known"),
        ("  above the floor", between(ranges["above"])),
        ("  within the noise", between(ranges["within"])),
        ("  below", between(ranges["below"])),
    ]
    if resolved is not None:
        size = f"{resolved['size']:.2g}"
        rows += [
            (f"  above {size}", between(resolved["above"])),
            (f"  below -{size}", between(resolved["below"])),
        ]
    return table(rows)


def statistics(statistics: MatrixStatistics) -> str:
    """What one pass over a matrix tells, for people."""
    low, high = statistics.gershgorin_bounds
    share = statistics.layer_norms.to_numpy() ** 2
    share /= max(share.sum(), np.finfo(float).tiny)
    rows = [
        ("trace", f"{statistics.trace:.6g}"),
        ("Frobenius norm", f"{statistics.frobenius_norm:.6g}"),
        ("largest entry", f"{statistics.max_abs:.6g}"),
        ("symmetry defect", f"{statistics.symmetry_defect:.1e}"),
        ("noise floor", f"{statistics.noise_floor:.2g}"),
        ("Gershgorin", f"all eigenvalues in [{low:.5g}, {high:.5g}]"),
        ("zero rows", f"{len(statistics.zero_rows):,}"),
        ("layers", "share of the trace; of ‖·‖_F² with each layer"),
    ]
    for layer, parts in zip(statistics.layout.layers(), share, strict=True):
        trace = statistics.layer_traces[layer] / (statistics.trace or 1.0)
        rows.append(
            (f"  {layer}", f"{trace:7.2%};  " + "  ".join(f"{part:7.2%}" for part in parts))
        )
    return table(rows)


def info(store: HessianStore) -> str:
    """What a store holds and where it came from, for people."""
    attributes = store.attributes
    source, provenance = attributes["source"], attributes["provenance"]
    options = ", ".join(f"{k}={v}" for k, v in source["options"].items())
    packages = ", ".join(f"{name} {v}" for name, v in provenance["packages"].items())
    rows = [
        ("problem", f"{source['reference']}{f' ({options})' if options else ''}"),
        *subject(store),
        *variable_rows(store.layout),
        *((one.matrix.plural, ", ".join(one.arrays.values())) for one in store.each()),
        *((f"  {name}", _jacobian(store, name)) for name in store.jacobians.values()),
        ("created", f"{provenance['created']} by Python {provenance['python']}, {packages}"),
    ]
    return table(rows)


def subject(store: HessianStore) -> list[tuple[str, str]]:
    """What is differentiated, where, and how, for people: names and values."""
    attributes = store.attributes
    fixed = attributes.get("fixed") or {"weights": {}, "inference": []}
    weights = ", ".join(f"{n:,} in {layer or NETWORK}" for layer, n in fixed["weights"].items())
    terms = [{**term, "kind": describe_term(term, attributes)} for term in attributes["terms"]]
    rows = [
        *evaluated_rows(attributes["loss"], terms, store.gradient_norm),
        ("engine", ", ".join(filter(None, [store.engine, attributes.get("engine_reason")]))),
        *(("also", f"the {matrix.title}") for matrix in store.matrices[1:]),
        ("parameters", f"{store.layout.count} trainable, {store.dtype}"),
    ]
    if weights:
        rows.append(("not trained", weights))
    if fixed["inference"]:
        rows.append(("in inference mode", ", ".join(fixed["inference"])))
    return rows


def info_data(store: HessianStore) -> dict[str, Any]:
    """The same as :func:`info` for scripts: the attributes, and what follows from arrays."""
    return {**store.attributes, "gradient_norm": store.gradient_norm}


def _jacobian(store: HessianStore, name: str) -> str:
    array = store.hessian(name)
    components = array.attrs["num_components"]
    return f"{array.shape}, {components} component{'' if components == 1 else 's'} a point"
