"""Spectra: eigenvalues by rank, and how many there are of each size and sign."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pipeline.analysis.pictures._style import (
    BLUE,
    COLOURS,
    GREY,
    LINES,
    ORANGE,
    name_powers,
    new_figure,
    plain,
    styled,
)
from pipeline.analysis.spectrum import Spectrum

__all__ = ["density_picture", "eigenvalue_picture", "estimated_density_picture", "overlaid_picture"]

Array = npt.NDArray[np.float64]

BINS_PER_DECADE = 4
# Curves over each other have to be calmer than bars.
OVERLAID_PER_DECADE = 2


def eigenvalue_picture(spectrum: Spectrum, title: str) -> Figure:
    """Eigenvalues by rank, positive and negative ones on one logarithmic scale."""
    with styled():
        figure, axes = new_figure()
        values, floor = spectrum.eigenvalues, spectrum.noise_floor
        positive, negative = values[values > 0][::-1], -values[values < 0]
        # Marker shapes differ in print.
        axes.plot(_ranks(positive), positive, "o", ms=3, color=BLUE, label="positive λ")
        axes.plot(_ranks(negative), negative, "^", ms=3, color=ORANGE, label="negative λ, as |λ|")
        axes.axhline(floor, color=GREY, ls="--", lw=1, label="noise floor")
        axes.set(xscale="log", yscale="log", xlabel="rank", ylabel="|λ|", title=title)
        if floor:
            axes.set_ylim(bottom=floor * 1e-2)
        axes.grid(alpha=0.3)
        axes.legend()
    return figure


def density_picture(spectrum: Spectrum, title: str) -> Figure:
    """How many eigenvalues there are in each interval, on a signed logarithmic axis."""
    with styled():
        figure, axes = new_figure()
        floor = spectrum.noise_floor
        edges = _signed_log_edges(spectrum.eigenvalues, floor)
        counts, _ = np.histogram(spectrum.eigenvalues, edges)
        middle = len(counts) // 2
        parts = [
            (slice(middle + 1, None), BLUE, "positive"),
            (slice(middle, middle + 1), GREY, "within the noise"),
            (slice(0, middle), ORANGE, "negative"),
        ]
        for part, colour, name in parts:
            cut = edges[part.start : None if part.stop is None else part.stop + 1]
            label = f"{int(counts[part].sum()):,} {name}"
            axes.stairs(counts[part], cut, baseline=0.5, fill=True, color=colour, label=label)
        axes.set(yscale="log", ylabel="eigenvalues in the interval", title=title)
        axes.set_ylim(0.5, 2.0 * max(1, counts.max()))
        floor = float(edges[len(edges) // 2])
        axes.set_xscale("symlog", linthresh=floor, linscale=0.5)
        _signed_log_axis(axes, floor, _around(edges))
        axes.legend(loc="upper left", bbox_to_anchor=(0, -0.2), ncols=3, fontsize=10)
    return figure


def estimated_density_picture(described: Mapping[str, Any], title: str) -> Figure:
    """An estimate of the density of a spectrum, with its error bars.

    Args:
        described: What :meth:`~pipeline.analysis.density.SpectralDensity.to_json` says.
        title: Title of the picture.
    """
    scale = float(described["scale"])
    values = scale * np.sinh(np.array(described["grid"]))
    density, error = np.array(described["density"]), np.array(described["density_error"])
    bottom = float(density.max()) * 1e-6
    with styled():
        figure, axes = new_figure()
        low, high = np.maximum(density - error, bottom), np.maximum(density + error, bottom)
        axes.fill_between(values, low, high, color=BLUE, alpha=0.3, lw=0, label="95 % error bars")
        axes.plot(values, np.maximum(density, bottom), color=BLUE, lw=1.8, label="estimate")
        axes.set(yscale="log", title=title, ylabel="share per unit of asinh(λ / floor)")
        axes.set_xscale("asinh", linear_width=scale)
        _signed_log_axis(axes, scale, (float(values[0]), float(values[-1])))
        axes.legend(loc="upper left", bbox_to_anchor=(0, -0.2), ncols=2, fontsize=10)
    return figure


def overlaid_picture(spectra: Mapping[str, Spectrum], title: str) -> Figure:
    """Several spectra, as shares of their eigenvalues, on one signed logarithmic axis.

    It is linear within the largest of their noise floors.
    """
    with styled():
        figure, axes = new_figure(height=4.6)
        floor = max(spectrum.noise_floor for spectrum in spectra.values())
        everything = np.concatenate([spectrum.eigenvalues for spectrum in spectra.values()])
        edges = _signed_log_edges(everything, floor, OVERLAID_PER_DECADE)
        smallest = 1.0
        for number, (name, spectrum) in enumerate(spectra.items()):
            counts, _ = np.histogram(spectrum.eigenvalues, edges)
            shares = counts / len(spectrum.eigenvalues)
            smallest = min(smallest, 1 / len(spectrum.eigenvalues))
            colour = COLOURS[number % len(COLOURS)]
            line = LINES[number % len(LINES)]
            axes.stairs(
                shares, edges, baseline=None, color=colour, ls=line, lw=1.6, label=plain(name)
            )
        axes.set(yscale="log", ylabel="share of the eigenvalues in the interval", title=title)
        axes.set_ylim(smallest / 2, 2)
        floor = float(edges[len(edges) // 2])
        axes.set_xscale("symlog", linthresh=floor, linscale=0.5)
        _signed_log_axis(axes, floor, _around(edges))
        axes.legend(loc="upper left", bbox_to_anchor=(0, -0.18), ncols=2, fontsize=10)
    return figure


def _signed_log_edges(values: Array, floor: float, per_decade: int = BINS_PER_DECADE) -> Array:
    """Edges of intervals: one from -floor to floor, and logarithmic ones beyond, both ways.

    Args:
        values: What has to lie within.
        floor: Where the logarithmic scale begins; 1 if it is zero.
        per_decade: Intervals to a power of ten.

    Returns:
        An even number of edges, ascending and symmetric.

    Example:
        >>> _signed_log_edges(np.array([5.0]), 1.0).round(2).tolist()
        [-5.62, -3.16, -1.78, -1.0, 1.0, 1.78, 3.16, 5.62]
    """
    floor = floor or 1.0
    largest = max(float(np.abs(values).max(initial=0.0)), floor * 1.0001)
    steps = int(np.floor(per_decade * np.log10(largest / floor))) + 1
    side = floor * 10 ** (np.arange(steps + 1) / per_decade)
    return np.concatenate([-side[::-1], side])


def _around(edges: Array) -> tuple[float, float]:
    """Limits half an interval beyond the edges, where the outermost bars are whole."""
    half = float(np.sqrt(edges[-1] / edges[-2]))
    return half * float(edges[0]), half * float(edges[-1])


def _signed_log_axis(axes: Axes, floor: float, limits: tuple[float, float]) -> None:
    axes.set_xlim(*limits)
    name_powers(axes.xaxis, floor, max(map(abs, limits)))
    axes.set_xlabel(f"eigenvalue λ (logarithmic beyond ±{floor:.1e})")
    axes.axvspan(-floor, floor, color=GREY, alpha=0.12, lw=0)
    axes.grid(axis="y", alpha=0.3)


def _ranks(values: Array) -> npt.NDArray[np.int64]:
    return np.arange(1, len(values) + 1)
