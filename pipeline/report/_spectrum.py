"""The section of a report on the spectrum: all eigenvalues, or those at both ends."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from hessian_tasks.spec import Matrix
from pipeline.analysis.pictures import (
    density_picture,
    eigenvalue_picture,
    estimated_density_picture,
)
from pipeline.analysis.spectrum import Spectrum
from pipeline.report._page import Picture, Section, Table

__all__ = ["spectrum_section"]

MAX_LISTED = 10


def spectrum_section(
    matrix: Matrix,
    num_params: int,
    found: Spectrum,
    described: Mapping[str, Any] | None = None,
    left_out: str = "",
) -> Section:
    """How many eigenvalues there are of each size and sign, and which, by rank.

    Args:
        matrix: Of which matrix.
        num_params: P.
        found: The eigenvalues.
        described: Of a spectrum that is not complete the density between both ends, as
            :meth:`~pipeline.analysis.density.SpectralDensity.to_json` says, if it is known.
        left_out: Why it is not.
    """
    symbol, title = matrix.symbol, matrix.title
    text = [
        f"An eigenvalue λ of {symbol} is the curvature of the loss along its eigenvector. Large "
        "positive ones are stiff directions, negative ones lead downhill to second order, and "
        "those within the noise floor (grey) are flat as far as the precision can tell. The "
        "spread of the coloured part is what slows gradient descent down.",
    ]
    by_rank = Picture(
        "eigenvalues",
        eigenvalue_picture(found, f"eigenvalues of the {title} by rank"),
        "Eigenvalues by rank, on logarithmic axes: circles are positive, triangles negative. A "
        "mirrored bulk below the dashed line is rounding, not curvature.",
    )
    density_title = f"density of the spectrum, P = {num_params:,}"
    listed = _eigenvalues(title, num_params, found)
    if found.complete:
        density = Picture(
            "density",
            density_picture(found, density_title),
            "Number of eigenvalues in each quarter of a decade, for either sign. The axis is "
            "logarithmic both ways from the noise floor.",
        )
        return Section("Spectrum", text, [density, by_rank], [listed])
    if described is None:
        return Section("Spectrum", text, [by_rank], [listed], left_out)
    density, counts = _estimated(described, density_title)
    return Section("Spectrum", text, [density, by_rank], [counts, listed])


def _eigenvalues(title: str, num_params: int, found: Spectrum) -> Table:
    values = found.eigenvalues[::-1]
    ranks = np.arange(1, len(values) + 1)
    if not found.complete:
        ranks[len(values) // 2 :] += num_params - len(values)
    columns = {"rank": ranks, "eigenvalue": values, "±": found.errors[::-1]}
    caption = f"Eigenvalues of the {title}, largest first, and their error bounds"
    if found.pairs is not None:
        columns["residual"] = found.pairs.residuals[::-1]
        caption += ": the residual ‖A u - λ u‖ and the noise floor together"
    return Table("eigenvalues", f"{caption}.", columns, shown=MAX_LISTED)


def _estimated(described: Mapping[str, Any], title: str) -> tuple[Picture, Table]:
    """An estimate of the eigenvalues between those that are known."""
    density = Picture(
        "density",
        estimated_density_picture(described, title),
        "Share of the eigenvalues by size and sign, estimated by stochastic Lanczos quadrature; "
        "the band is where it lies with 95 % confidence.",
    )
    return density, _counts(described)


def _counts(described: Mapping[str, Any]) -> Table:
    ranges = {f"{name} the noise floor": found for name, found in _ranges(described).items()}
    resolved = described.get("resolved")
    if resolved is not None:
        size = resolved["size"]
        ranges[f"below -{size:.2g}"] = resolved["below"]
        ranges[f"above {size:.2g}"] = resolved["above"]
    low, high = zip(*ranges.values(), strict=True)
    return Table(
        "counts",
        "Estimated numbers of eigenvalues: 95 % intervals. Where most of them are close to the "
        "noise floor, products do not tell on which side.",
        {"eigenvalues": list(ranges), "at least": list(low), "at most": list(high)},
    )


def _ranges(described: Mapping[str, Any]) -> dict[str, Any]:
    """The intervals of counts; estimates from before they were kept have half widths."""
    if described.get("ranges") is not None:
        return dict(described["ranges"])
    counts, errors = described["counts"], described["errors"]
    return {name: (max(0.0, n - errors[name]), n + errors[name]) for name, n in counts.items()}
