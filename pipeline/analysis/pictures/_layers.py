"""Which layers curvature belongs to: layer blocks, and eigenvectors by layer."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from matplotlib.colors import LogNorm, Normalize
from matplotlib.figure import Figure

from pipeline.analysis.pictures._cells import mark_cells
from pipeline.analysis.pictures._style import MAGNITUDES, new_figure, styled

__all__ = ["layer_block_picture", "participation_picture"]

Array = npt.NDArray[np.float64]

FAINTEST = 1e-6


def layer_block_picture(shares: Array, names: Sequence[str], title: str) -> Figure:
    """Each layer block's share of ``‖H‖_F²``.

    Args:
        shares: Shares of the blocks, ``[B, B]``; they add up to 1.
        names: Names of the B variables or layers.
        title: Title of the picture.
    """
    top = max(float(shares.max(initial=0.0)), FAINTEST * 10)
    norm = LogNorm(max(top * 1e-4, FAINTEST), top, clip=True)
    with styled():
        figure, axes = new_figure(6.0, 5.2, square=True)
        shown = axes.imshow(np.maximum(shares, norm.vmin or FAINTEST), norm=norm, cmap=MAGNITUDES)
        mark_cells(axes, shares, norm, (names, names))
        axes.set(title=title)
        figure.colorbar(shown, label="share of the squared Frobenius norm")
    return figure


def participation_picture(weights: Array, values: Array, layers: Sequence[str]) -> Figure:
    """How much of each eigenvector lies in each layer.

    Args:
        weights: ``Σ v_i²`` over the entries of a layer, ``[K, layers]``; rows add up to 1.
        values: The K eigenvalues.
        layers: Names of the layers.
    """
    with styled():
        figure, axes = new_figure(6.0, max(2.6, 1.5 + 0.32 * len(values)))
        norm = Normalize(0.0, 1.0)
        shown = axes.imshow(weights, norm=norm, cmap=MAGNITUDES, aspect="auto")
        mark_cells(axes, weights, norm, ([f"λ = {value:.3g}" for value in values], layers))
        axes.set(title="eigenvectors by layer", ylabel="eigenvector")
        figure.colorbar(shown, label="share of the squared length")
    return figure
