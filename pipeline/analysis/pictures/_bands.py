"""A solution with its standard deviation."""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure

from pipeline.analysis.fields import Band
from pipeline.analysis.pictures._style import (
    BLUE,
    GREY,
    MAGNITUDES,
    colour_bar,
    new_figure,
    plain,
    styled,
)

__all__ = ["band_picture"]


def band_picture(band: Band, title: str) -> Figure:
    """The first output ± 2 standard deviations on a line, or its standard deviation on a plane."""
    cut, data, solution, deviation = band.cut, band.data, band.solution[0], band.deviation[0]
    with styled():
        figure, axes = new_figure()
        if len(cut.names) == 1:
            (ticks,) = cut.ticks
            low, high = solution - 2 * deviation, solution + 2 * deviation
            axes.fill_between(
                ticks, low, high, color=BLUE, alpha=0.25, lw=0, label="± 2 standard deviations"
            )
            axes.plot(ticks, solution, color=BLUE, lw=1.5, label="u")
            bottom = float(low.min()) - 0.05 * float(np.ptp([low, high]))
            axes.plot(data[:, 0], np.full(len(data), bottom), "|", color=GREY, ms=8, label="data")
            axes.grid(alpha=0.3)
            axes.legend()
        else:
            shown = axes.pcolormesh(
                *cut.ticks, deviation.T, cmap=MAGNITUDES, shading="gouraud", rasterized=True
            )
            axes.plot(data[:, 0], data[:, 1], ".", color="white", ms=4, mec=GREY, mew=0.4)
            colour_bar(figure, shown, "standard deviation of u")
            axes.set_ylabel(plain(cut.names[1]))
        axes.set_xlabel(plain(cut.names[0]))
        axes.set_title(title)
    return figure
