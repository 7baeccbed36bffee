"""Copying transposed entries without losing the processor's cache lines before they are used up."""

from __future__ import annotations

from typing import Any

import numpy.typing as npt

__all__ = ["copy_entries"]

# Rows of the source that are read side by side: their cache lines stay in a core's own cache until
# all of their entries have been taken.
COLUMNS = 512


def copy_entries(target: npt.NDArray[Any], source: npt.NDArray[Any]) -> None:
    """``target[...] = source``, in blocks of columns if the source is transposed.

    Args:
        target: ``[rows, columns]`` in C order; some dozens of rows are best.
        source: Of the same shape.

    Example:
        >>> import numpy as np
        >>> target = np.zeros((2, 3))
        >>> copy_entries(target, np.arange(6.0).reshape(3, 2).T)
        >>> target
        array([[0., 2., 4.],
               [1., 3., 5.]])
    """
    columns = source.shape[1]
    transposed = abs(source.strides[0]) < abs(source.strides[1])
    step = COLUMNS if transposed else max(1, columns)
    for first in range(0, columns, step):
        target[:, first : first + step] = source[:, first : first + step]
