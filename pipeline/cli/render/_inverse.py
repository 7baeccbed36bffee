"""What is said of solutions with the inverse of a stored matrix."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from pipeline.cli.render._table import table

if TYPE_CHECKING:
    from pipeline.analysis.solve import Solution

__all__ = ["solution"]

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
