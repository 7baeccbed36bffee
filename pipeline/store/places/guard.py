"""Bounds on what is read from a store, which may come from a stranger.

Zarr reads whatever the metadata say. Here a Zarr store shows only the arrays that have been
vetted, and gives an object only if it has the size of one of their chunks. Chunks are not
compressed, so that nothing expands.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any

from zarr.abc.store import ByteRequest, Store
from zarr.core.buffer import Buffer, BufferPrototype

from pipeline.errors import StoreError

__all__ = ["MAX_METADATA_BYTES", "GuardedStore", "check_size"]

# The root's attributes hold the parameter table and the problem's text; records have one line for
# every tile of a block row. Both are a few MiB where there are a million tiles.
MAX_METADATA_BYTES = 32 * 2**20


def check_size(what: str, found: int, expected: int) -> None:
    """See that an object has the size of a chunk.

    Raises:
        StoreError: If it does not.
    """
    if found != expected:
        raise StoreError(
            f"{what} is damaged, or made to do harm: it has {found} bytes, where {expected} are "
            "expected."
        )


class GuardedStore(Store):
    """What a Zarr store gets by being guarded, to be mixed in before it.

    Attributes:
        object_bytes: Size of a chunk's object, by the name of the array; arrays that are not in it
            are not there.
        vouch: Whether an object of an array is what was stored at its key; raises StoreError if
            something else was.
    """

    object_bytes: Mapping[str, int]
    vouch: Callable[[str, bytes | memoryview | None], bool]

    def __init__(self, *arguments: Any, **keywords: Any) -> None:
        """As the Zarr store; shows no array yet."""
        super().__init__(*arguments, **keywords)
        self.object_bytes = {}
        self.vouch = _believe

    def limit(self, key: str) -> int:
        """The largest size that an object may have."""
        name, _, rest = key.partition("/")
        if rest in ("", "zarr.json"):
            return MAX_METADATA_BYTES
        return self.object_bytes.get(name, 0)

    async def get(
        self,
        key: str,
        prototype: BufferPrototype,
        byte_range: ByteRequest | None = None,
    ) -> Buffer | None:
        """An object of a vetted array.

        Raises:
            StoreError: If it does not have the size of a chunk, or is not what was stored.
        """
        name, _, rest = key.partition("/")
        if rest and name not in self.object_bytes:
            return None
        found = await self.fetch(key, prototype, byte_range)
        if rest in ("", "zarr.json"):
            return found
        if found is None:
            self.vouch(key, None)
            return None
        check_size(f"Object {key} of {self}", len(found), self.object_bytes[name])
        return found if self.vouch(key, found.as_numpy_array().data) else None

    async def fetch(
        self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None
    ) -> Buffer | None:
        """An object of the place, if it is no larger than it can be."""
        return await super().get(key, prototype, byte_range)  # type: ignore[safe-super]

    async def list_dir(self, prefix: str) -> AsyncIterator[str]:
        """Names below a prefix; of the root those of vetted arrays, without asking the place."""
        if not prefix.strip("/"):
            for name in ("zarr.json", *self.object_bytes):
                yield name
            return
        async for name in super().list_dir(prefix):  # type: ignore[safe-super]
            yield name


def _believe(key: str, data: bytes | memoryview | None) -> bool:
    """What vouches for objects until they are known."""
    return True
