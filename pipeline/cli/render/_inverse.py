"""What is said with the inverse of a stored matrix: solutions, and error bars."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from pipeline.cli.render._table import columns, table

if TYPE_CHECKING:
    from pipeline.analysis.solve import Solution
    from pipeline.curvature.influence import Influence
    from pipeline.curvature.uncertainty import Estimated, Uncertainty

__all__ = ["influence", "solution", "uncertainty"]

# Layers in which directions that were left out mostly lie.
NUM_LAYERS = 3


def solution(found: Solution) -> str:
    """A solution and how much of it is known, for people."""
    inverse = found.inverse
    error = inverse.relative_error
    known = f"at most {error:.1e} of its length, to first order" if error < 1 else "not known"
    rows = [
        ("method", f"{inverse.method}, damping {inverse.damping:g}"),
        ("length", f"{np.linalg.norm(found.x):.6g}"),
        ("residual", f"{found.residual:.1e} of the right-hand side"),
        ("error", known),
        ("noise floor", f"{inverse.noise_floor:.2g}, smallest |λ + μ| {inverse.smallest:.2g}"),
    ]
    if found.num_left_out:
        layers = sorted(found.layers_left_out.items(), key=lambda item: -item[1])[:NUM_LAYERS]
        share = f"{found.share_left_out:.2%} of the right-hand side"
        rows += [
            ("left out", f"{found.num_left_out:,} directions within the noise, with {share}"),
            ("  mostly in", ", ".join(f"{name} {weight:.0%}" for name, weight in layers)),
        ]
    return table(rows)


def uncertainty(found: Uncertainty) -> str:
    """Standard errors of the parameters, and how well the solution is known, for people."""
    noise, band = found.noise, found.band
    how = "given"
    if noise.effective is not None:
        how = f"from the residuals, with {noise.effective:.3g} parameters determined by them"
    inverse = found.inverse
    rows = [
        ("data", f"{noise.term}: {noise.count:,} residuals, σ = {noise.sigma:.3g} ({how})"),
        ("method", f"{inverse.method}, damping {inverse.damping:g}"),
        ("solution", f"standard deviation {band.deviation.mean():.2g} in the mean over "
         f"{', '.join(band.cut.names)}, {band.deviation.max():.2g} at most"),
    ]  # fmt: skip
    if inverse.left_out.shape[1]:
        number = f"{inverse.left_out.shape[1]:,} directions within the noise"
        known = float(np.mean(band.at_least <= 1.01 * band.deviation))
        rows.append(
            ("left out", f"{number}; without part in the solution at {known:.0%} of points")
        )
    parts = [table(rows)]
    if found.parameters:
        lines = [
            [p.name, measured(p.value, p.standard_error), *_doubts(p)] for p in found.parameters
        ]
        parts.append(
            columns([["parameter", "± standard error", "rounding", "to the minimum"], *lines])
        )
    if len(found.parameters) > 1:
        names = [p.name for p in found.parameters]
        cells = [[f"{value:.2f}" for value in row] for row in found.correlations]
        lines = [[name, *row] for name, row in zip(names, cells, strict=True)]
        parts.append(columns([["correlations", *names], *lines]))
    parts += [_unidentified(p) for p in found.parameters if not p.identified]
    return "\n\n".join(parts)


def influence(found: Influence, quantity: str, number: int) -> str:
    """The points that change most of a quantity where they are left out, for people."""
    inverse = found.inverse
    rows = [
        ("points", f"{found.term}: {len(found.points):,}, of which these change {quantity} most"),
        ("method", f"{inverse.method}, damping {inverse.damping:g}"),
        ("leverage", f"{found.leverage.sum():.3g} in all, {found.leverage.max():.2g} at most"),
    ]
    if inverse.left_out.shape[1]:
        rows.append(("left out", f"{inverse.left_out.shape[1]:,} directions within the noise"))
    names = list(found.changes)
    head = [", ".join(found.coordinates), "residual", "leverage", *(f"Δ {name}" for name in names)]
    lines = [
        [
            ", ".join(f"{x:.4g}" for x in found.points[i]),
            f"{found.residuals[i, 0]:.3g}"
            if found.residuals.shape[1] == 1
            else f"{np.linalg.norm(found.residuals[i]):.3g}",
            f"{found.leverage[i]:.2g}",
            *(_change(found.changes[name][i], found.rounding[name][i]) for name in names),
        ]
        for i in found.strongest(number, quantity)
    ]
    return "\n\n".join([table(rows), columns([head, *lines])])


def _change(value: float, rounding: float) -> str:
    # Nothing of it is known.
    return f"{value:.3g}" if abs(value) > rounding else f"within ± {rounding:.1g}"


def _doubts(found: Estimated) -> list[str]:
    return [f"± {found.rounding:.1g}", f"{found.offset:.2g} standard errors"]


def _unidentified(found: Estimated) -> str:
    return (
        f"The standard error of {found.name} is at least {found.at_least:.2g}: it has part in "
        "directions that cannot be told from singular. More data, float64 where it is float32, "
        "or a damping that stands for what is known before would tell."
    )


def measured(value: float, error: float) -> str:
    """A value and its standard error, both to the second digit of the error.

    Example:
        >>> measured(0.0100963, 0.000412), measured(1234.5, 67.8), measured(2.0, 0.0)
        ('0.01010 ± 0.00041', '1234 ± 68', '2 ± 0')
    """
    if not 0 < error < np.inf:
        return f"{value:.6g} ± {error:g}"
    decimals = max(0, 1 - int(np.floor(np.log10(error))))
    return f"{value:.{decimals}f} ± {error:.{decimals}f}"
