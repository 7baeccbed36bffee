"""How entries become objects: as they are, in C order, and a CRC-32C of them.

These are Zarr's codecs ``bytes`` (little-endian) and ``crc32c``, so that whatever reads Zarr reads
the objects, and finds damage. Zarr's own encoder copies a chunk three times, on one thread for all
of a process; here it is copied once, into a buffer that is kept for the next.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import google_crc32c
import numpy as np
import numpy.typing as npt

from pipeline.shares import deal
from pipeline.storage.location import Location

__all__ = ["CHECKSUM_BYTES", "ChunkBuffer", "checksum", "write_chunks"]

CHECKSUM_BYTES = 4
# Columns that are transposed at once, so that the cache lines of their rows and of the rows that
# they become are used up before they are lost.
STRIP = 64


class ChunkBuffer:
    """The bytes of one chunk and of its checksum, to be used for one chunk after the other.

    Example:
        >>> buffer = ChunkBuffer((2, 2), np.dtype("float32"))
        >>> found = buffer.encode(np.array([[1, 2], [3, 4]], dtype="float32").T)
        >>> hex(found), buffer.data[-4:].hex()
        ('0xadb18773', '7387b1ad')
    """

    def __init__(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
        """Make room.

        Args:
            shape: Shape of a chunk, of two dimensions.
            dtype: Dtype of its entries.
        """
        stored = dtype.newbyteorder("<")
        size = int(np.prod(shape)) * stored.itemsize
        self._bytes = np.empty(size + CHECKSUM_BYTES, np.uint8)
        self._entries = self._bytes[:size].view(stored).reshape(shape)

    @property
    def data(self) -> memoryview:
        """The object, until the next chunk is encoded."""
        return self._bytes.data

    def encode(self, part: npt.NDArray[Any]) -> int:
        """Take in the entries of a chunk.

        Args:
            part: All of them, or those inside of the array at its end; the rest becomes NaN, which
                is the fill value.

        Returns:
            CRC-32C of the contents, which the object ends with.
        """
        rows, columns = part.shape
        entries = self._entries
        entries[rows:] = np.nan
        entries[:rows, columns:] = np.nan
        transposed = abs(part.strides[0]) < abs(part.strides[1])
        step = STRIP if transposed else max(1, columns)
        for start in range(0, columns, step):
            strip = slice(start, min(start + step, columns))
            entries[:rows, strip] = part[:, strip]
        found = int(google_crc32c.value(self._bytes[:-CHECKSUM_BYTES]))
        self._bytes[-CHECKSUM_BYTES:].view("<u4")[0] = found
        return found


def checksum(data: bytes) -> int | None:
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


def write_chunks(
    location: Location,
    parts: Mapping[str, npt.NDArray[Any]],
    shape: tuple[int, ...],
    dtype: np.dtype[Any],
) -> dict[str, int]:
    """Write whole chunks, as many at once as is good for the place.

    Args:
        location: Where the store is.
        parts: Entries by key, see :meth:`ChunkBuffer.encode`.
        shape: Shape of a chunk.
        dtype: Dtype of its entries.

    Returns:
        CRC-32C of the contents that were meant to be written, by key.

    Raises:
        OSError: If a file cannot be written; see :meth:`Location.writing`.
        StoreError: If a server cannot be written to.
    """

    def write(share: Sequence[str]) -> dict[str, int]:
        buffer = ChunkBuffer(shape, dtype)
        found = {}
        for key in share:
            found[key] = buffer.encode(parts[key])
            location.write(key, buffer.data)
        return found

    found = location.each(write, deal(list(parts), location.num_writers))
    return {key: value for share in found for key, value in share.items()}
