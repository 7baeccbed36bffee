"""Eigenvectors as changes of the solution and of the residual."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from pipeline.analysis.fields import Cut
from pipeline.analysis.pictures._style import (
    BLUE,
    GREY,
    SIGNED,
    colour_bar,
    new_figure,
    plain,
    styled,
)

__all__ = ["residual_picture", "solution_picture"]

Array = npt.NDArray[np.float64]


def solution_picture(cut: Cut, values: Array, title: str, quantity: str) -> Figure:
    """A function of the network on a line or a plane.

    Args:
        cut: Where.
        values: Its values, of the cut's shape.
        title: Title of the picture.
        quantity: What the values are, with their unit.
    """
    with styled():
        figure, axes = new_figure()
        if len(cut.names) == 1:
            axes.plot(cut.ticks[0], values, color=BLUE, lw=2)
            axes.axhline(0, color=GREY, lw=0.8)
            axes.set_ylabel(quantity)
        else:
            shown = axes.pcolormesh(
                *cut.ticks, values.T, cmap=SIGNED, norm=_around_zero(values), shading="gouraud",
                rasterized=True,
            )  # fmt: skip
            colour_bar(figure, shown, quantity)
        _name_axes(axes, list(cut.names), title)
    return figure


def residual_picture(
    points: Array, coordinates: list[str], values: Array, title: str, quantity: str
) -> Figure:
    """A residual's values at its collocation points.

    Args:
        points: The points ``[N, d]``; at most two coordinates.
        coordinates: Names of these coordinates.
        values: ``[N]``.
        title: Title of the picture.
        quantity: What the values are, with their unit.
    """
    with styled():
        figure, axes = new_figure()
        if len(coordinates) == 1:
            axes.plot(points[:, 0], values, ".", color=BLUE, ms=4)
            axes.axhline(0, color=GREY, lw=0.8)
            axes.set_ylabel(quantity)
        else:
            # The strongest lie on top.
            order = np.argsort(np.abs(values))
            shown = axes.scatter(
                points[order, 0],
                points[order, 1],
                c=values[order], s=14, cmap=SIGNED, norm=_around_zero(values),
                edgecolors=GREY, linewidths=0.2, rasterized=True,
            )  # fmt: skip
            colour_bar(figure, shown, quantity)
        _name_axes(axes, coordinates, title)
    return figure


def _around_zero(values: Array) -> Normalize:
    largest = float(np.abs(values[np.isfinite(values)]).max(initial=0.0)) or 1.0
    return Normalize(-largest, largest)


def _name_axes(axes: Axes, names: list[str], title: str) -> None:
    axes.set_xlabel(plain(names[0]))
    axes.locator_params(nbins=5)
    if len(names) == 2:
        axes.set_ylabel(plain(names[1]))
    else:
        axes.ticklabel_format(axis="y", style="sci", scilimits=(-2, 3), useMathText=True)
        axes.grid(alpha=0.3)
    axes.set_title(title)
