"""How entries become objects: as they are, in C order, and a CRC-32C of them.

These are Zarr's codecs ``bytes`` (little-endian) and ``crc32c``, so that whatever reads Zarr reads
the objects, and finds damage. Zarr's own encoder copies a chunk three times, on one thread for all
of a process; here it goes by in pieces that stay in the processor's cache from the block row to the
file.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeAlias

import google_crc32c
import numpy as np
import numpy.typing as npt

from pipeline.store.places.guard import check_size
from pipeline.store.places.location import Location
from pipeline.store.shares import deal
from pipeline.store.transposing import copy_entries

__all__ = [
    "CHECKSUM_BYTES",
    "Chunk",
    "checksum",
    "read_chunk",
    "with_checksum",
    "write_chunks",
]

CHECKSUM_BYTES = 4
# Half of the cache that a core of a server's processor has for itself, or a quarter.
PIECE_BYTES = 512 * 2**10


# Whether an object, None for a missing one, is what was stored at its key; raises ValueError if
# something else was. Where nothing is recorded as stored, there is nothing.
Vouch: TypeAlias = Callable[[str, bytes | memoryview | None], bool]


class Chunk:
    """The bytes of a chunk and of its checksum, piece by piece.

    Attributes:
        checksum: CRC-32C of the contents, once all pieces were asked for.

    Example:
        >>> chunk = Chunk(np.array([[1, 2], [3, 4]], dtype="float32").T, (2, 2))
        >>> b"".join(bytes(piece) for piece in chunk)[-4:].hex(), hex(chunk.checksum)
        ('7387b1ad', '0xadb18773')
    """

    def __init__(self, part: npt.NDArray[Any], shape: tuple[int, ...]) -> None:
        """Of a part of an array.

        Args:
            part: All entries of the chunk, or those inside of the array at its end; the rest
                becomes NaN, which is the fill value.
            shape: Shape of the chunk, of two dimensions.
        """
        self._part, self._shape = part, shape
        self.checksum = 0

    def __iter__(self) -> Iterator[memoryview]:
        """The pieces; each is good until the next is asked for."""
        columns = self._part.shape[1]
        height, width = self._shape
        dtype = self._part.dtype.newbyteorder("<")
        strip = np.empty((max(1, PIECE_BYTES // (width * dtype.itemsize)), width), dtype)
        strip[:, columns:] = np.nan
        found = 0
        for start in range(0, height, len(strip)):
            piece = strip[: height - start]
            inside = self._part[start : start + len(piece)]
            copy_entries(piece[: len(inside), :columns], inside)
            piece[len(inside) :] = np.nan
            contents = piece.reshape(-1).view(np.uint8)
            found = google_crc32c.extend(found, contents)
            yield contents.data
        self.checksum = found
        yield memoryview(found.to_bytes(CHECKSUM_BYTES, "little"))


def with_checksum(contents: bytes) -> bytes:
    """The object of these contents.

    Example:
        >>> checksum(with_checksum(b"contents")) == google_crc32c.value(b"contents")
        True
    """
    return contents + int(google_crc32c.value(contents)).to_bytes(CHECKSUM_BYTES, "little")


def checksum(data: bytes | memoryview) -> int | None:
    """CRC-32C of the contents of an object, or None if it does not end with it.

    Not that of the object as a whole, which is the same whatever the contents are.

    Example:
        >>> data = bytes.fromhex("0000803f0000404000000040000080407387b1ad")
        >>> checksum(data) == 0xADB18773, checksum(data[1:])
        (True, None)
    """
    contents = np.frombuffer(data, np.uint8)[:-CHECKSUM_BYTES]
    found = int(google_crc32c.value(contents))
    return found if data[-CHECKSUM_BYTES:] == found.to_bytes(CHECKSUM_BYTES, "little") else None


def read_chunk(
    location: Location, key: str, shape: tuple[int, ...], dtype: np.dtype[Any], vouch: Vouch
) -> npt.NDArray[Any]:
    """The entries of a chunk, not to be changed; NaN if it is not recorded as stored.

    Zarr's own decoder does this on one thread for all of a process.

    Args:
        location: Where the store is.
        key: Key of the object.
        shape: Shape of a chunk.
        dtype: Dtype of its entries, floating-point.
        vouch: Says whether the object is what was stored.

    Raises:
        StoreError: If the object cannot be read, or does not have the size of a chunk.
        ValueError: If it is damaged.
    """
    stored = dtype.newbyteorder("<")
    size = math.prod(shape) * stored.itemsize + CHECKSUM_BYTES
    try:
        data = location.read(key, size)
    except FileNotFoundError:
        vouch(key, None)
        return np.full(shape, np.nan, dtype)
    check_size(f"Object {key} of {location}", len(data), size)
    try:
        recorded = vouch(key, data)
    except ValueError:
        # Network file systems hand out wrong bytes now and then: what is damaged is so twice.
        data = location.read(key, size)
        recorded = vouch(key, data)
    if not recorded:
        return np.full(shape, np.nan, dtype)
    return np.frombuffer(data, stored, math.prod(shape)).reshape(shape)


def write_chunks(
    location: Location,
    parts: Mapping[str, npt.NDArray[Any]],
    shape: tuple[int, ...],
) -> dict[str, int]:
    """Write whole chunks, as many at once as is good for the place.

    Args:
        location: Where the store is.
        parts: Entries by key, see :class:`Chunk`.
        shape: Shape of a chunk.

    Returns:
        CRC-32C of the contents that were meant to be written, by key.

    Raises:
        OSError: If a file cannot be written; see :meth:`Location.writing`.
        StoreError: If a server cannot be written to.
    """

    def write(share: Sequence[str]) -> dict[str, int]:
        chunks = {key: Chunk(parts[key], shape) for key in share}
        for key, chunk in chunks.items():
            location.write_pieces(key, chunk)
        return {key: chunk.checksum for key, chunk in chunks.items()}

    found = location.each(write, deal(list(parts), location.num_writers))
    return {key: value for share in found for key, value in share.items()}
