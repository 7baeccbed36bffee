"""Bounds on what is read from a store, which may come from a stranger.

Zarr reads whatever the metadata say. Here a Zarr store shows only the arrays that have been
vetted, gives objects no larger than these can be, and refuses frames that would expand beyond
them.
"""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import AsyncIterator, Mapping
from typing import Any

from zarr.abc.store import ByteRequest, Store
from zarr.core.buffer import Buffer, BufferPrototype

from pipeline.errors import StoreError

__all__ = ["MAX_METADATA_BYTES", "GuardedStore", "expanded_bytes"]

# The root's attributes hold the parameter table and the problem's text; records have one line for
# every tile of a block row. Both are a few MiB where there are a million tiles.
MAX_METADATA_BYTES = 32 * 2**20

_MAGIC = b"\x28\xb5\x2f\xfd"


def expanded_bytes(frame: bytes) -> int | None:
    r"""How many bytes a Zstandard frame says that it holds, or None if it does not say.

    See RFC 8878, section 3.1.1.1.

    Example:
        >>> expanded_bytes(b"\x28\xb5\x2f\xfd\x60\x00\x01")
        512
    """
    if len(frame) < 5 or frame[:4] != _MAGIC:
        return None
    descriptor = frame[4]
    single_segment = descriptor >> 5 & 1
    size = {0: single_segment, 1: 2, 2: 4, 3: 8}[descriptor >> 6]
    start = 5 + (1 - single_segment) + (0, 1, 2, 4)[descriptor & 3]
    field = frame[start : start + size]
    if not size or len(field) < size:
        return None
    return int.from_bytes(field, "little") + (256 if size == 2 else 0)


class GuardedStore(Store):
    """What a Zarr store gets by being guarded, to be mixed in before it.

    Attributes:
        chunk_bytes: Largest size of a chunk, by the name of the array; arrays that are not in it
            are not there. None as long as nothing has been vetted.
        written: CRC-32 of the objects that were written, by key, until they are taken out.
    """

    chunk_bytes: Mapping[str, int]
    written: dict[str, int]

    def __init__(self, *arguments: Any, **keywords: Any) -> None:
        """As the Zarr store; shows no array yet."""
        super().__init__(*arguments, **keywords)
        self.chunk_bytes = {}
        self.written = {}

    def limit(self, key: str) -> int:
        """The largest size that an object may have."""
        name, _, rest = key.partition("/")
        if rest in ("", "zarr.json"):
            return MAX_METADATA_BYTES
        # What cannot be compressed grows a little.
        return self.chunk_bytes.get(name, 0) * 129 // 128 + 1024

    async def get(
        self,
        key: str,
        prototype: BufferPrototype,
        byte_range: ByteRequest | None = None,
    ) -> Buffer | None:
        """An object of a vetted array.

        Raises:
            StoreError: If it is larger than it can be, or expands beyond that.
        """
        name, _, rest = key.partition("/")
        if rest and name not in self.chunk_bytes:
            return None
        found = await self.fetch(key, prototype, byte_range)
        if found is None or rest in ("", "zarr.json"):
            return found
        expanded = expanded_bytes(bytes(found.as_numpy_array()[:18].tobytes()))
        if expanded is None or expanded > self.chunk_bytes[name]:
            raise StoreError(
                f"Object {key} of {self} is damaged, or made to do harm: it holds "
                f"{'no size' if expanded is None else f'{expanded} bytes'}, where at most "
                f"{self.chunk_bytes[name]} bytes are expected."
            )
        return found

    async def fetch(
        self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None
    ) -> Buffer | None:
        """An object of the place, if it is no larger than it can be."""
        return await super().get(key, prototype, byte_range)  # type: ignore[safe-super]

    async def list_dir(self, prefix: str) -> AsyncIterator[str]:
        """Names below a prefix; of the root only those of vetted arrays."""
        async for name in super().list_dir(prefix):  # type: ignore[safe-super]
            if prefix.strip("/") or name == "zarr.json" or name in self.chunk_bytes:
                yield name

    async def set(self, key: str, value: Buffer) -> None:
        """Write an object, and keep the checksum of what was meant to be written."""
        await super().set(key, value)  # type: ignore[safe-super]
        self.written[key] = await asyncio.to_thread(zlib.crc32, value.as_buffer_like())
