"""Reading stored arrays: whatever damage makes of it becomes one clear error.

Zarr, its codecs and the file system raise errors of many kinds for damaged objects, and a store may
declare arrays that no machine can hold. Matrices are read past Zarr, tile by tile.
"""

from __future__ import annotations

import contextlib
import itertools
import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import psutil
import zarr

from pipeline.errors import StoreError
from pipeline.storage import Location
from pipeline.storage.chunks import read_chunk
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
    array: zarr.Array[Any],
    location: Location,
    rows: slice,
    columns: slice,
    advice: str = VERIFY,
) -> npt.NDArray[Any]:
    """Entries of a matrix or of a Jacobian, as they are stored, not to be changed.

    Args:
        array: The array, of two dimensions.
        location: The store that it is in.
        rows: Which rows.
        columns: Which columns.
        advice: What to do about damage.

    Raises:
        StoreError: If a tile is damaged, or they do not fit into memory.
    """
    spans = [range(*part.indices(n)) for part, n in zip((rows, columns), array.shape, strict=True)]
    what = f"Rows {spans[0].start} to {spans[0].stop - 1} of {location}/{array.basename}"
    _check_memory(what, math.prod(map(len, spans)) * array.dtype.itemsize)
    tiles = [
        range(span.start // side, -(-span.stop // side))
        for span, side in zip(spans, array.chunks, strict=True)
    ]
    places = list(itertools.product(*tiles))

    def read(place: tuple[int, ...]) -> npt.NDArray[Any]:
        return _read_tile(array, location, place, spans)

    with reading(what, advice):
        if len(places) == 1:
            return read(places[0])
        # Side by side and below each other.
        parts = location.each(read, places)
        width = len(tiles[1])
        return np.block([parts[first : first + width] for first in range(0, len(parts), width)])


def _check_memory(what: str, needed: int) -> None:
    # Asking how much is free takes as long as reading a small tile.
    if needed > 2**28 and needed > (free := psutil.virtual_memory().available):
        raise StoreError(
            f"{what} take {format_bytes(needed)}, but only {format_bytes(free)} of memory are free."
        )


def _read_tile(
    array: zarr.Array[Any], location: Location, place: tuple[int, ...], spans: Sequence[range]
) -> npt.NDArray[Any]:
    """What a tile holds of some rows and columns; NaN where there is no tile."""
    key = f"{array.basename}/{array.metadata.encode_chunk_key(place)}"
    found = read_chunk(location, key, array.chunks, array.dtype)
    inside = tuple(
        slice(max(span.start - number * side, 0), min(span.stop - number * side, side))
        for span, number, side in zip(spans, place, array.chunks, strict=True)
    )
    if found is None:
        return np.full([part.stop - part.start for part in inside], np.nan, array.dtype)
    return found[inside]
