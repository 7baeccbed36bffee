"""Pictures of a stored matrix: its spectrum and its entries."""

from __future__ import annotations

from pathlib import Path

import matplotlib as mpl
import numpy as np
import numpy.typing as npt
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure

from pipeline.analysis.spectrum import Spectrum
from pipeline.store import HessianStore

__all__ = ["draw_matrix", "draw_spectrum"]

MAX_PIXELS = 500


def draw_spectrum(spectrum: Spectrum, title: str, path: str | Path) -> None:
    """Draw the eigenvalues by rank, positive and negative ones on a logarithmic scale.

    Args:
        spectrum: What to draw.
        title: Title of the picture.
        path: Where to write it; its ending decides the format.
    """
    with mpl.rc_context({"font.size": 11}):
        figure = Figure(figsize=(8, 4.5), layout="constrained")
        axes = figure.subplots()
        positive = spectrum.eigenvalues[spectrum.eigenvalues > 0][::-1]
        negative = -spectrum.eigenvalues[spectrum.eigenvalues < 0]
        # Blue and orange differ for colour-blind readers, marker shapes in print.
        axes.plot(_ranks(positive), positive, "o", ms=3, color="#0072B2", label="positive λ")
        axes.plot(
            _ranks(negative), negative, "^", ms=3, color="#D55E00", label="negative λ, as |λ|"
        )
        axes.axhline(spectrum.noise_floor, color="0.4", ls="--", lw=1, label="noise floor")
        axes.set(xscale="log", yscale="log", xlabel="rank", ylabel="|λ|", title=title)
        axes.set_ylim(bottom=spectrum.noise_floor * 1e-2)
        axes.grid(alpha=0.3)
        axes.legend()
        figure.savefig(path, dpi=150)


def _ranks(values: npt.NDArray[np.float64]) -> npt.NDArray[np.int64]:
    return np.arange(1, len(values) + 1)


def draw_matrix(store: HessianStore, path: str | Path) -> None:
    """Draw the magnitudes of the stored entries, with lines between layers.

    Every pixel shows the root mean square of the entries under it; missing block rows
    stay white.

    Args:
        store: What to draw.
        path: Where to write it; its ending decides the format.
    """
    image, cut = _coarsen(store)
    positive = image[np.isfinite(image) & (image > 0)]
    top = float(positive.max()) if len(positive) else 1.0
    bottom = max(float(positive.min()), top * 1e-8) if len(positive) else top * 1e-8
    figure = Figure(figsize=(7, 6), layout="constrained")
    axes = figure.subplots()
    extent = (0, store.num_params, store.num_params, 0)
    norm = LogNorm(vmin=bottom, vmax=max(top, bottom * 10))
    shown = axes.imshow(np.clip(image, bottom, None), norm=norm, cmap="cividis", extent=extent)
    labels = store.layout.labels()["layer"]
    starts = np.flatnonzero(np.diff(labels, prepend=-1))
    for start in starts[1:]:
        axes.axhline(start, color="white", lw=0.6)
        axes.axvline(start, color="white", lw=0.6)
    middles = (starts + np.append(starts[1:], store.num_params)) / 2
    axes.set_yticks(middles, [name.rpartition("/")[2] for name in store.layout.layers()])
    axes.set_xticks([0, store.num_params - 1])
    axes.set(xlabel="parameter", title=f"|{store.matrix.entry}|, P = {store.num_params:,}")
    figure.colorbar(shown, label=f"root mean square over {cut} × {cut} entries")
    figure.savefig(path, dpi=150)


def _coarsen(store: HessianStore) -> tuple[npt.NDArray[np.float64], int]:
    # One block row in memory at a time.
    num_params = store.num_params
    cut = -(-num_params // MAX_PIXELS)
    edges = np.arange(0, num_params, cut)
    counts = np.diff(np.append(edges, num_params))
    squares = np.zeros((len(edges), len(edges)))
    for row in store.block_rows:
        rows = store.read_part(slice(row.start, row.stop), slice(0, num_params))
        block = rows.astype(np.float64) ** 2
        columns = np.add.reduceat(block, edges, axis=1)
        np.add.at(squares, np.arange(row.start, row.stop) // cut, columns)
    return np.sqrt(squares / np.outer(counts, counts)), cut
