"""Reading stored arrays: whatever damage makes of it becomes one clear error.

Zarr, its codecs and the file system raise errors of many kinds for damaged objects, and a store may
declare arrays that no machine can hold.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import psutil
import zarr

from pipeline.errors import StoreError
from pipeline.units import format_bytes

__all__ = ["VERIFY", "read_entries", "reading"]

VERIFY = "What is damaged is found by: hessian verify"


@contextlib.contextmanager
def reading(what: str, advice: str = VERIFY) -> Iterator[None]:
    """Turn errors of reading into a StoreError.

    Args:
        what: What is read, and where it is.
        advice: What to do about damage.
    """
    try:
        yield
    except StoreError:
        raise
    except MemoryError as error:
        raise StoreError(f"{what} does not fit into memory.") from error
    except (OSError, KeyError, ValueError, TypeError, RuntimeError) as error:
        line = f"{type(error).__name__}: {error}".partition("\n")[0][:300]
        raise StoreError(f"{what} cannot be read: {line}. {advice}") from error


def read_entries(
    array: zarr.Array[Any], rows: slice, columns: slice, place: str, advice: str = VERIFY
) -> npt.NDArray[Any]:
    """Entries of a matrix or of a Jacobian, as they are stored.

    Args:
        array: The array, of two dimensions.
        rows: Which rows.
        columns: Which columns.
        place: Where the array is, for messages.
        advice: What to do about damage.

    Raises:
        StoreError: If a tile is damaged, or they do not fit into memory.
    """
    what = f"Rows {rows.start} to {rows.stop - 1} of {place}"
    sizes = [
        len(range(*part.indices(n))) for part, n in zip((rows, columns), array.shape, strict=True)
    ]
    needed = math.prod(sizes) * array.dtype.itemsize
    # Asking how much is free takes as long as reading a small tile.
    if needed > 2**28 and needed > (free := psutil.virtual_memory().available):
        raise StoreError(
            f"{what} take {format_bytes(needed)}, but only {format_bytes(free)} of memory are free."
        )
    with reading(what, advice):
        return np.asarray(array[rows, columns])
