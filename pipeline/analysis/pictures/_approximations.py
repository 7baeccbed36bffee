"""Approximations of a matrix beside each other: what each loses."""

from __future__ import annotations

from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator

from pipeline.analysis.approximations import Approximations
from pipeline.analysis.pictures._style import BLUE, COLOURS, GREY, ORANGE, new_figure, styled

__all__ = ["approximations_picture"]


def approximations_picture(found: Approximations, title: str) -> Figure:
    """Error, error of the spectrum and lost decrease of each, on a logarithmic axis.

    What is less than the error of the stored matrix cannot be told from it, and is drawn there.
    """
    least = found.relative_error or 1e-16
    lost: dict[str, list[float | None]] = {
        "error, ‖A - B‖ / ‖A‖": [one.error for one in found.found],
        "spectrum, max |Δλ| / ‖A‖₂": [one.spectrum for one in found.found],
        "decrease lost by the step": [one.lost for one in found.found],
    }
    with styled():
        figure, axes = new_figure(height=2.0 + 0.3 * len(found.found))
        marks = zip(lost.items(), (BLUE, ORANGE, COLOURS[2]), "os^", (-0.15, 0, 0.15), strict=True)
        for (label, values), colour, mark, shift in marks:
            known = [(row, value) for row, value in enumerate(values) if value is not None]
            places = [max(value, least) for _, value in known]
            rows = [row + shift for row, _ in known]
            axes.plot(places, rows, mark, color=colour, ms=5, label=label)
        told = [value for values in lost.values() for value in values if value is not None]
        if min(told) <= least:
            axes.axvline(least, color=GREY, ls="--", lw=1, label="error of the stored matrix")
        axes.set(xscale="log", xlabel="share", title=title)
        axes.xaxis.set_major_locator(LogLocator(numticks=7))
        axes.set_yticks(range(len(found.found)), [one.name for one in found.found])
        axes.invert_yaxis()
        axes.grid(alpha=0.3)
        figure.legend(loc="outside lower left", ncols=2, fontsize=10)
    return figure
