"""How the loss terms' curvatures relate: subspaces, and directions they share or fight over."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from pipeline.analysis.pictures._cells import mark_cells
from pipeline.analysis.pictures._style import (
    COLOURS,
    GREY,
    MAGNITUDES,
    name_powers,
    new_figure,
    plain,
    styled,
)

__all__ = ["curvature_picture", "overlap_picture"]

Array = npt.NDArray[np.float64]


def overlap_picture(overlaps: Array, labels: Sequence[str], number: int) -> Figure:
    """How much the dominant subspaces of the parts have in common.

    Args:
        overlaps: Mean squared cosines ``[n, n]``.
        labels: Names of the parts.
        number: Dimension of the subspaces.
    """
    with styled():
        figure, axes = new_figure(6.0, 4.6, square=True)
        norm = Normalize(0.0, 1.0)
        shown = axes.imshow(overlaps, norm=norm, cmap=MAGNITUDES)
        mark_cells(axes, overlaps, norm, (labels, labels))
        axes.set(title=f"overlap of the {number} dominant eigenvectors")
        figure.colorbar(shown, label="mean squared cosine")
    return figure


def curvature_picture(curvatures: Array, terms: Sequence[str], floor: float) -> Figure:
    """The terms' curvatures along the dominant eigenvectors of their sum.

    Args:
        curvatures: ``vᵀ H_k v`` ``[eigenvectors, terms]``.
        terms: Names of the terms.
        floor: Noise floor, within which the axis is linear.
    """
    ranks = np.arange(1, len(curvatures) + 1)
    width = 0.8 / len(terms)
    with styled():
        figure, axes = new_figure(height=4.4)
        for number, (term, values) in enumerate(zip(terms, curvatures.T, strict=True)):
            places = ranks + width * (number - (len(terms) - 1) / 2)
            colour = COLOURS[number % len(COLOURS)]
            axes.bar(places, values, 0.9 * width, color=colour, label=plain(term))
        axes.axhline(0, color=GREY, lw=0.8)
        floor = floor or 1.0
        axes.set_yscale("symlog", linthresh=floor)
        name_powers(axes.yaxis, floor, float(np.abs(curvatures).max(initial=10 * floor)))
        axes.set(
            xlabel="dominant eigenvector of the sum, by rank", ylabel="curvature vᵀ H v of the term"
        )
        axes.set(title="which term curves the dominant directions", xticks=ranks)
        axes.grid(axis="y", alpha=0.3)
        axes.legend(loc="upper left", bbox_to_anchor=(0, -0.17), ncols=3, fontsize=10)
    return figure
