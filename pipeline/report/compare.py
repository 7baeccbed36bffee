"""Stores and estimates side by side: checkpoints along training, widths, or problems."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import TypeAlias

from pipeline.analysis.continuation import CONTINUES, KnownPairs
from pipeline.analysis.pictures import overlaid_picture
from pipeline.analysis.spectrum import spectrum
from pipeline.analysis.summary import Summary, summarise
from pipeline.errors import ConfigError
from pipeline.estimates.kept import KeptEstimates, holds_estimates
from pipeline.report._continued import continued_table
from pipeline.report._page import Page, Picture, Section, Table, write_page
from pipeline.store.places import Place, locate
from pipeline.store.store import HessianStore

__all__ = ["comparison_table", "continued_tables", "open_all", "summarise_all", "write_comparison"]

Compared: TypeAlias = HessianStore | KeptEstimates

# Eigenvectors at each end of a matrix that are followed to the next.
NUM_FOLLOWED = 10


def open_all(stores: Sequence[Place]) -> list[Compared]:
    """Open stores, or estimates that were kept.

    Args:
        stores: Where they are.

    Raises:
        ConfigError: If there are fewer than two, or the same one twice.
        StoreError: If one cannot be read.
    """
    places = [locate(store).resolve() for store in stores]
    if len(set(places)) < max(2, len(places)):
        raise ConfigError(
            f"Got {', '.join(str(s) for s in stores)} to compare; expected two or more stores, "
            "each once."
        )
    return [
        KeptEstimates(place) if holds_estimates(place) else HessianStore(place)
        for place in map(locate, stores)
    ]


def summarise_all(opened: Sequence[Compared]) -> list[Summary]:
    """Sum up stores and estimates, one after the other.

    Raises:
        StoreError: If one cannot be read or is not complete.
    """
    return [_estimated(one) if isinstance(one, KeptEstimates) else summarise(one) for one in opened]


def _estimated(kept: KeptEstimates) -> Summary:
    return Summary(
        name=kept.location.name,
        matrix=kept.matrix.title,
        num_params=kept.num_params,
        dtype=kept.metadata["theta"].data_type,
        loss=float(kept.attributes["loss"]),
        gradient_norm=kept.gradient_norm,
        spectrum=kept.spectrum(),
        trace_error=2 * kept.answers.trace.standard_error,
        verified=None,
        estimated=True,
    )


def continued_tables(opened: Sequence[Compared]) -> list[Table]:
    """Which eigenvectors continue which, from each to the next of networks of the same shapes.

    Raises:
        StoreError: If one cannot be read or is not complete.
    """
    names = _distinct([one.location.name for one in opened])
    shapes = [[variable.shape for variable in one.layout.variables] for one in opened]
    known: dict[int, KnownPairs] = {}
    tables = []
    for k, after in itertools.pairwise(range(len(opened))):
        if shapes[k] == shapes[after]:
            one, other = (known.setdefault(n, _known(opened[n])) for n in (k, after))
            between = f"from {names[k]} to {names[after]}"
            tables.append(continued_table(f"continued-{after}", one, other, between))
    return tables


def _known(one: Compared) -> KnownPairs:
    found = one.spectrum() if isinstance(one, KeptEstimates) else spectrum(one, None, NUM_FOLLOWED)
    assert found.vectors is not None, "of extreme eigenvalues"
    return KnownPairs(found.eigenvalues, found.errors, found.vectors)


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
    columns["verified"] = ["estimated" if s.estimated else words[s.verified] for s in summaries]
    caption = (
        "Each λ is known to ± the noise floor; negative counts eigenvalues below it, the condition "
        "number and the effective rank take those above it in size. Of estimates, the error of the "
        "trace is two standard errors."
    )
    return Table("comparison", caption, columns)


def write_comparison(
    summaries: Sequence[Summary], continued: Sequence[Table] | None, out: str | Path
) -> Path:
    """Write the comparison as a page, with its picture and tables beside it.

    Args:
        summaries: Of the stores, from :func:`summarise_all`.
        continued: From :func:`continued_tables`, if it was asked for.
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
    if continued is not None:
        sections.append(_continued(continued, len(names) - 1))
    page = Page("Comparison of stores", ", ".join(names), sections, _warnings(summaries))
    return write_page(page, Path(out), "comparison")


def _continued(tables: Sequence[Table], number: int) -> Section:
    text = [
        "An overlap is the squared cosine of the angle between two eigenvectors, or between the "
        "spaces of close eigenvalues that they belong to: 1 if nothing has turned. A direction "
        "that goes on with another eigenvalue has become stiffer or flatter; one that is gone has "
        "mixed with many others, or is not among those known: there was no overlap of "
        f"{CONTINUES} or more for it. Eigenvalues closer than ten times their errors have no "
        "vectors of their own."
    ]
    missing = number - len(tables)
    left_out = ""
    if missing:
        left_out = (
            f"{missing} of {number} pairs of neighbours, whose networks have other shapes, so that "
            "their directions cannot be compared."
        )
    return Section("Eigenvectors", text, tables=tables, left_out=left_out)


def _warnings(summaries: Sequence[Summary]) -> list[str]:
    unverified = [s.name for s in summaries if not (s.verified or s.estimated)]
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
