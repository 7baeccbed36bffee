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
from pipeline.store.places import Location
from pipeline.store.places.chunks import read_chunk
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

    with reading(what, advice):
        if len(places) == 1:
            return _read_tile(array, location, places[0], spans)[1]
        found = np.empty([len(span) for span in spans], array.dtype)

        def fill(place: tuple[int, ...]) -> None:
            target, entries = _read_tile(array, location, place, spans)
            found[target] = entries

        location.each(fill, places)
        return found


def _check_memory(what: str, needed: int) -> None:
    # Asking how much is free takes as long as reading a small tile.
    if needed > 2**28 and needed > (free := psutil.virtual_memory().available):
        raise StoreError(
            f"{what} take {format_bytes(needed)}, but only {format_bytes(free)} of memory are free."
        )


def _read_tile(
    array: zarr.Array[Any], location: Location, place: tuple[int, ...], spans: Sequence[range]
) -> tuple[tuple[slice, ...], npt.NDArray[Any]]:
    """What a tile holds of some rows and columns, and where in these; NaN where there is none."""
    key = f"{array.basename}/{array.metadata.encode_chunk_key(place)}"
    found = read_chunk(location, key, array.chunks, array.dtype)
    starts = [number * side for number, side in zip(place, array.chunks, strict=True)]
    shared = [
        range(max(span.start, start), min(span.stop, start + side))
        for span, start, side in zip(spans, starts, array.chunks, strict=True)
    ]
    if found is None:
        found = np.full(array.chunks, np.nan, array.dtype)
    return _from(shared, [span.start for span in spans]), found[_from(shared, starts)]


def _from(spans: Sequence[range], origin: Sequence[int]) -> tuple[slice, ...]:
    """The same spans, counted from an origin."""
    return tuple(
        slice(span.start - zero, span.stop - zero) for span, zero in zip(spans, origin, strict=True)
    )
