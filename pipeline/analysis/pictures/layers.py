"""Which layers curvature belongs to: layer blocks, and eigenvectors by layer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm, Normalize
from matplotlib.figure import Figure

from pipeline.analysis.pictures.style import MAGNITUDES, new_figure, plain, styled

__all__ = ["layer_block_picture", "participation_picture"]

Array = npt.NDArray[np.float64]

# More cells than this are too small for a number in each.
MAX_NUMBERED = 10
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
        _name(axes, names, names)
        _number(axes, shares, norm)
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
        _name(axes, [f"λ = {value:.3g}" for value in values], layers)
        _number(axes, weights, norm)
        axes.set(title="eigenvectors by layer", ylabel="eigenvector")
        figure.colorbar(shown, label="share of the eigenvector's squared length")
    return figure


def _name(axes: Axes, rows: Sequence[str], columns: Sequence[str]) -> None:
    axes.set_yticks(range(len(rows)), [plain(name) for name in rows])
    axes.set_xticks(
        range(len(columns)), [plain(name) for name in columns], rotation=35, ha="right",
        rotation_mode="anchor",
    )  # fmt: skip


def _number(axes: Axes, shares: Array, norm: Any) -> None:
    if shares.shape[1] > MAX_NUMBERED:
        return
    for (row, column), share in np.ndenumerate(shares):
        # The upper half of the colour map is light.
        colour = "black" if norm(share) > 0.55 else "white"
        axes.text(column, row, _percent(share), ha="center", va="center", color=colour, fontsize=8)


def _percent(share: float) -> str:
    """A share as a percentage that fits into a cell.

    Example:
        >>> [_percent(share) for share in (0.123, 0.0521, 0.0021, 0.0001, 0.0)]
        ['12%', '5.2%', '0.2%', '<0.1%', '0']
    """
    if share == 0:
        return "0"
    if share < 5e-4:
        return "<0.1%"
    return f"{100 * share:.1f}%" if share < 0.0995 else f"{100 * share:.0f}%"
