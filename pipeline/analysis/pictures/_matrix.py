"""The entries of a stored matrix, with lines between layers."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure

from pipeline.analysis.pictures._style import MAGNITUDES, new_figure, plain, styled
from pipeline.store.store import HessianStore

__all__ = ["matrix_picture"]

MAX_PIXELS = 500
# Layers whose middles are closer than this share of P would have names on top of each other.
CLOSEST_NAMES = 0.035


def matrix_picture(store: HessianStore, name: str | None = None) -> Figure:
    """Draw the magnitudes of the stored entries, with lines between layers.

    Every pixel shows the root mean square of the entries under it; missing block rows
    stay white.

    Args:
        store: What to draw.
        name: Name of the array, by default the total's.
    """
    image, cut = _coarsen(store, name)
    positive = image[np.isfinite(image) & (image > 0)]
    top = float(positive.max()) if len(positive) else 1.0
    bottom = max(float(positive.min()), top * 1e-8) if len(positive) else top * 1e-8
    with styled():
        figure, axes = new_figure(6.0, 4.8, square=True)
        extent = (0, store.num_params, store.num_params, 0)
        norm = LogNorm(vmin=bottom, vmax=max(top, bottom * 10))
        shown = axes.imshow(np.clip(image, bottom, None), norm=norm, cmap=MAGNITUDES, extent=extent)
        _mark_layers(axes, store)
        axes.set_xticks([0, store.num_params - 1])
        axes.set(xlabel="parameter", title=f"|{store.matrix.entry}|, P = {store.num_params:,}")
        entries = f"root mean square over {cut} × {cut} entries" if cut > 1 else "magnitude"
        figure.colorbar(shown, label=entries)
    return figure


def _mark_layers(axes: Axes, store: HessianStore) -> None:
    layers = store.layout.labels()["layer"]
    starts = np.flatnonzero(np.diff(layers, prepend=-1))
    for start in starts[1:]:
        axes.axhline(start, color="white", lw=0.6)
        axes.axvline(start, color="white", lw=0.6)
    middles = (starts + np.append(starts[1:], store.num_params)) / 2
    # A layer whose variables are apart in θ has several runs of rows.
    names = [plain(store.layout.layers()[code].rpartition("/")[2]) for code in layers[starts]]
    shown: list[int] = []
    for number, middle in enumerate(middles):
        if not shown or middle - middles[shown[-1]] > CLOSEST_NAMES * store.num_params:
            shown.append(number)
    axes.set_yticks(middles[shown], [names[number] for number in shown])


def _coarsen(store: HessianStore, name: str | None) -> tuple[npt.NDArray[np.float64], int]:
    # One block row in memory at a time.
    num_params = store.num_params
    cut = -(-num_params // MAX_PIXELS)
    edges = np.arange(0, num_params, cut)
    counts = np.diff(np.append(edges, num_params))
    squares = np.zeros((len(edges), len(edges)))
    for row in store.block_rows:
        rows = store.read_part(slice(row.start, row.stop), slice(0, num_params), name)
        block = rows.astype(np.float64) ** 2
        columns = np.add.reduceat(block, edges, axis=1)
        np.add.at(squares, np.arange(row.start, row.stop) // cut, columns)
    return np.sqrt(squares / np.outer(counts, counts)), cut
