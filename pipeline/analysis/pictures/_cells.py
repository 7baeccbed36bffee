"""Heat maps with a number in each cell."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.colors import Normalize

from pipeline.analysis.pictures._style import plain

__all__ = ["mark_cells"]

Array = npt.NDArray[np.float64]

# More cells than this are too small for a number in each.
MAX_NUMBERED = 10


def mark_cells(
    axes: Axes, shares: Array, norm: Normalize, names: tuple[Sequence[str], Sequence[str]]
) -> None:
    """Name the rows and columns of a heat map, and write each share into its cell.

    Args:
        axes: The axes, with the heat map in MAGNITUDES.
        shares: What it shows.
        norm: How shares become colours.
        names: Of the rows, and of the columns.
    """
    rows, columns = names
    axes.set_yticks(range(len(rows)), [plain(name) for name in rows])
    axes.set_xticks(
        range(len(columns)), [plain(name) for name in columns], rotation=35, ha="right",
        rotation_mode="anchor",
    )  # fmt: skip

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
