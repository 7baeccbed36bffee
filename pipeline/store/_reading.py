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
from pipeline.store.arrays import object_key
from pipeline.store.places import Location
from pipeline.store.places.chunks import Vouch, read_chunk
from pipeline.units import format_bytes

__all__ = ["check_memory", "read_entries", "reading"]


@contextlib.contextmanager
def reading(what: str, advice: str) -> Iterator[None]:
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
    part: tuple[slice, slice],
    vouch: Vouch,
    advice: str,
) -> npt.NDArray[Any]:
    """Entries of a matrix or of a Jacobian, as they are stored, not to be changed.

    Args:
        array: The array, of two dimensions.
        location: The store that it is in.
        part: Which rows and columns.
        vouch: Raises ValueError for an object, by its key, that is not what was stored.
        advice: What to do about damage.

    Raises:
        StoreError: If a tile is damaged, or they do not fit into memory.
    """
    spans = [range(*cut.indices(n)) for cut, n in zip(part, array.shape, strict=True)]
    what = f"Rows {spans[0].start} to {spans[0].stop - 1} of {location}/{array.basename}"
    check_memory(what, math.prod(map(len, spans)) * array.dtype.itemsize)
    tiles = [
        range(span.start // side, -(-span.stop // side))
        for span, side in zip(spans, array.chunks, strict=True)
    ]
    places = list(itertools.product(*tiles))

    def read(place: tuple[int, ...]) -> tuple[tuple[slice, ...], npt.NDArray[Any]]:
        key = object_key(array.basename, place)
        with reading(f"Object {key} of {location}", advice):
            entries = read_chunk(location, key, array.chunks, array.dtype, vouch)
        return _cut(entries, place, spans)

    with reading(what, advice):
        if len(places) == 1:
            return read(places[0])[1]
        found = np.empty([len(span) for span in spans], array.dtype)

        def fill(place: tuple[int, ...]) -> None:
            target, entries = read(place)
            found[target] = entries

        location.each(fill, places)
        return found


def check_memory(what: str, needed: int) -> None:
    """See that there is memory for what will be read.

    Raises:
        StoreError: If there is not.
    """
    # Asking how much is free takes as long as reading a small tile.
    if needed > 2**28 and needed > (free := psutil.virtual_memory().available):
        raise StoreError(
            f"{what} take {format_bytes(needed)}, but only {format_bytes(free)} of memory are free."
        )


def _cut(
    entries: npt.NDArray[Any], place: tuple[int, ...], spans: Sequence[range]
) -> tuple[tuple[slice, ...], npt.NDArray[Any]]:
    """What a tile holds of some rows and columns, and where in these."""
    starts = [number * side for number, side in zip(place, entries.shape, strict=True)]
    shared = [
        range(max(span.start, start), min(span.stop, start + side))
        for span, start, side in zip(spans, starts, entries.shape, strict=True)
    ]
    return _from(shared, [span.start for span in spans]), entries[_from(shared, starts)]


def _from(spans: Sequence[range], origin: Sequence[int]) -> tuple[slice, ...]:
    """The same spans, counted from an origin."""
    return tuple(
        slice(span.start - zero, span.stop - zero) for span, zero in zip(spans, origin, strict=True)
    )
