"""Slices of the loss: actual values against the quadratic model."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm, Normalize
from matplotlib.contour import ContourSet
from matplotlib.figure import Figure

from pipeline.analysis.pictures._style import (
    BLUE,
    COLOURS,
    LINES,
    MAGNITUDES,
    ORANGE,
    colour_bar,
    new_figure,
    plain,
    styled,
)
from pipeline.analysis.slices import Slice

__all__ = ["line_picture", "plane_picture"]

Array = npt.NDArray[Any]

NUM_LEVELS = 9
MAX_TERMS = 4


def line_picture(found: Slice, symbol: str) -> Figure:
    """The loss and its terms on a line.

    Args:
        found: A slice with one axis.
        symbol: Symbol of the matrix that predicts, ``"H"`` or ``"G"``.
    """
    (axis,) = found.axes
    with styled():
        figure, axes = new_figure(height=4.6)
        axes.plot(axis.steps, found.actual[None], color=BLUE, lw=2.2, label="loss")
        axes.plot(
            axis.steps, found.predicted[None], "--", color=ORANGE, lw=1.8,
            label=f"predicted by {symbol}",
        )  # fmt: skip
        terms = [term for term in found.actual if term is not None]
        for number, term in enumerate(terms[:MAX_TERMS] if len(terms) > 1 else []):
            colour, line = COLOURS[2:][number], LINES[number % len(LINES)]
            axes.plot(axis.steps, found.actual[term], color=colour, ls=line, label=plain(term))
            if term in found.predicted:
                axes.plot(
                    axis.steps[::4], found.predicted[term][::4], "x", color=colour, ms=5,
                    label=f"{plain(term)}, predicted",
                )  # fmt: skip
        axes.set(xlabel="step α, length in parameter space", ylabel="L(θ + α v)")
        _set_range(axes, found)
        axes.set_title(f"along {plain(axis.label)}")
        axes.grid(alpha=0.3)
        axes.legend(loc="upper left", bbox_to_anchor=(0, -0.17), ncols=2, fontsize=10)
    return figure


def plane_picture(found: Slice, symbol: str) -> Figure:
    """The loss on a plane, with the level lines of the quadratic model over it.

    Args:
        found: A slice with two axes.
        symbol: Symbol of the matrix that predicts.
    """
    first, second = found.axes
    actual, predicted = found.actual[None].T, found.predicted[None].T
    levels, norm = _levels(actual)
    with styled():
        figure, axes = new_figure(height=4.8)
        shown = axes.contourf(first.steps, second.steps, actual, levels, norm=norm, cmap=MAGNITUDES)
        axes.contour(
            first.steps, second.steps, actual, levels[1:-1], colors="white", linewidths=0.8
        )
        axes.contour(
            first.steps, second.steps, predicted, levels[1:-1], colors=ORANGE, linestyles="--",
            linewidths=1.4,
        )  # fmt: skip
        axes.plot(0, 0, "+", color="white", ms=9, mew=1.5)
        axes.set(
            xlabel=f"step along {plain(first.label)}", ylabel=f"step along {plain(second.label)}"
        )
        axes.set_title(f"loss, and level lines predicted by {symbol} (dashed)")
        axes.ticklabel_format(style="sci", scilimits=(-3, 4), useMathText=True)
        _bar(figure, shown, levels)
    return figure


def _spans_decades(losses: Array) -> bool:
    """Whether losses are all positive, and more than a power of ten apart."""
    return bool(losses.min() > 0 and losses.max() > 10 * losses.min())


def _levels(actual: Array) -> tuple[Array, Normalize]:
    """Level lines from the smallest to the largest loss, and how losses become colours."""
    finite = actual[np.isfinite(actual)]
    low, high = float(finite.min()), float(finite.max())
    if _spans_decades(finite):
        return np.geomspace(low, high, NUM_LEVELS + 1), LogNorm(low, high)
    high = high if high > low else low + (abs(low) or 1.0)
    return np.linspace(low, high, NUM_LEVELS + 1), Normalize(low, high)


def _bar(figure: Figure, shown: ContourSet, levels: Array) -> None:
    label = "L(θ + α v + β w)"
    if isinstance(shown.norm, LogNorm):
        figure.colorbar(shown, label=label, ticks=levels[::3], format="%.2g")
    else:
        colour_bar(figure, shown, label)


def _set_range(axes: Axes, found: Slice) -> None:
    """Show where the losses go; predictions may leave the picture."""
    total, parts = found.actual[None], np.concatenate(list(found.actual.values()))
    total, parts = total[np.isfinite(total)], parts[np.isfinite(parts)]
    high = float(parts.max())
    axes.ticklabel_format(style="sci", scilimits=(-3, 4), useMathText=True)
    if _spans_decades(total):
        axes.set_yscale("log")
        low = max(float(parts.min()), float(total.min()) / 10)
        axes.set_ylim(low / 1.3, high * 1.3)
        return
    low = float(parts.min())
    margin = 0.05 * (high - low) or 1.0
    # A loss that is never negative is not shown beside negative numbers.
    axes.set_ylim(0.0 if 0 <= low < margin else low - margin, high + margin)
