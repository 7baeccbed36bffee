"""Slices of the loss: actual values against the quadratic model."""

from __future__ import annotations

import numpy as np
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
        axes.set_ylim(*_limits(found))
        axes.set_title(f"along {plain(axis.label)}")
        axes.ticklabel_format(style="sci", scilimits=(-3, 4), useMathText=True)
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
    low, high = predicted.min(), predicted.max()
    levels = np.linspace(low, high if high > low else low + 1.0, NUM_LEVELS + 1)
    with styled():
        figure, axes = new_figure(height=4.8)
        shown = axes.contourf(
            first.steps, second.steps, actual, levels, cmap=MAGNITUDES, extend="both"
        )
        axes.contour(first.steps, second.steps, actual, levels, colors="white", linewidths=0.8)
        axes.contour(
            first.steps, second.steps, predicted, levels, colors=ORANGE, linestyles="--",
            linewidths=1.4,
        )  # fmt: skip
        axes.plot(0, 0, "+", color="white", ms=9, mew=1.5)
        axes.set(
            xlabel=f"step along {plain(first.label)}", ylabel=f"step along {plain(second.label)}"
        )
        axes.set_title(f"loss, and level lines predicted by {symbol} (dashed)")
        axes.ticklabel_format(style="sci", scilimits=(-3, 4), useMathText=True)
        colour_bar(figure, shown, "L(θ + α v + β w)")
    return figure


def _limits(found: Slice) -> tuple[float, float]:
    """Bottom and top of a picture; the loss may leave it where the model no longer holds."""
    predicted = found.predicted[None]
    here = float(predicted[len(predicted) // 2])
    room = 2 * max(float(np.ptp(predicted)), 2 * abs(here))
    curves = np.concatenate([*found.actual.values(), *found.predicted.values()])
    curves = curves[np.isfinite(curves)]
    low, high = max(curves.min(), here - room), min(curves.max(), here + room)
    margin = 0.05 * (high - low) or 1.0
    return low - margin, high + margin
