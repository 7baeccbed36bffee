"""Stores side by side: checkpoints along training, widths, or problems."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pipeline.analysis.pictures import overlaid_picture
from pipeline.analysis.summary import Summary, summarise
from pipeline.errors import ConfigError
from pipeline.report._page import Page, Picture, Section, Table, write_page
from pipeline.store.places import Place, locate
from pipeline.store.store import HessianStore

__all__ = ["comparison_table", "summarise_all", "write_comparison"]


def summarise_all(stores: Sequence[Place]) -> list[Summary]:
    """Sum up stores, one after the other.

    Args:
        stores: Where they are; complete ones.

    Raises:
        ConfigError: If there are fewer than two, or the same one twice.
        StoreError: If one cannot be read or is not complete.
    """
    places = [locate(store).resolve() for store in stores]
    if len(set(places)) < max(2, len(places)):
        raise ConfigError(
            f"Got {', '.join(str(s) for s in stores)} to compare; expected two or more stores, "
            "each once."
        )
    return [summarise(HessianStore(store)) for store in stores]


def comparison_table(summaries: Sequence[Summary]) -> Table:
    """The stores' numbers, one row a store."""
    rows = [summary.to_json() for summary in summaries]
    headings = {
        "store": "store",
        "P": "num_params",
        "loss": "loss",
        "gradient norm": "gradient_norm",
        "largest λ": "largest",
        "smallest λ": "smallest",
        "noise floor": "noise_floor",
        "negative": "num_negative",
        "condition number": "condition_number",
        "effective rank": "effective_rank",
        "trace": "trace",
        "error of the trace": "trace_error",
        "Frobenius norm": "frobenius_norm",
        "verified": "verified",
    }
    columns = {heading: [row[key] for row in rows] for heading, key in headings.items()}
    columns["store"] = _distinct([summary.name for summary in summaries])
    words = {True: "yes", False: "FAILED", None: "no"}
    columns["verified"] = [words[found] for found in columns["verified"]]
    caption = (
        "Each λ is known to ± the noise floor; negative counts eigenvalues below it, the condition "
        "number and the effective rank take those above it in size."
    )
    return Table("comparison", caption, columns)


def write_comparison(summaries: Sequence[Summary], out: str | Path) -> Path:
    """Write the comparison as a page, with its picture and table beside it.

    Args:
        summaries: Of the stores, from :func:`summarise_all`.
        out: Directory; made if need be.

    Returns:
        Path of the page, ``comparison.html``.

    Raises:
        StoreError: If it cannot be written.
    """
    names = _distinct([summary.name for summary in summaries])
    spectra = {n: s.spectrum for n, s in zip(names, summaries, strict=True)}
    picture = Picture(
        "spectra",
        overlaid_picture(spectra, "densities of the spectra"),
        "Share of each matrix's eigenvalues in each half of a decade, for either sign. The axis "
        "is logarithmic both ways from the largest of the noise floors.",
    )
    partial = [n for n, s in spectra.items() if not s.complete]
    left_out = f"only extreme eigenvalues are known of {', '.join(partial)}." if partial else ""
    text = [
        "Curves that reach further right are stiffer. What lies left of the grey band are "
        "directions of negative curvature."
    ]
    sections = [Section("Spectra", text, [picture], left_out=left_out)]
    sections.insert(0, Section("In numbers", tables=[comparison_table(summaries)]))
    page = Page("Comparison of stores", ", ".join(names), sections, _warnings(summaries))
    return write_page(page, Path(out), "comparison")


def _warnings(summaries: Sequence[Summary]) -> list[str]:
    unverified = [s.name for s in summaries if not s.verified]
    matrices = {s.matrix for s in summaries}
    warnings = []
    if unverified:
        warnings.append(f"Not verified: {', '.join(unverified)}. Verify them with: hessian verify")
    if len(matrices) > 1:
        warnings.append(f"These stores hold different matrices: {', '.join(sorted(matrices))}.")
    return warnings


def _distinct(names: Sequence[str]) -> list[str]:
    # Checkpoints in different directories may well have one name.
    return [f"{n} ({k})" if names.count(n) > 1 else n for k, n in enumerate(names, start=1)]
