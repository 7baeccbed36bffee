"""Trying again what failed for a reason that passes: network file systems fail now and then."""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Awaitable, Callable
from typing import TypeVar

from zarr.abc.store import ByteRequest
from zarr.core.buffer import Buffer, BufferPrototype
from zarr.storage import LocalStore

__all__ = ["RetryingFiles"]

Result = TypeVar("Result")

# What passes; a full disk, a quota or a missing permission does not.
PASSING = {errno.EIO, errno.EAGAIN, errno.EINTR, errno.ESTALE, errno.ETIMEDOUT, errno.EBUSY}
# If one operation in ten fails, one in ten million fails so often.
ATTEMPTS = 7
FIRST_SECONDS = 0.02


class RetryingFiles(LocalStore):
    """Reads and writes an object again where that failed for a reason that passes.

    Both may be done twice: an object is written whole, under a temporary name. Waits 0.02 s after
    the first failure, and twice as long after each further one.
    """

    async def get(
        self,
        key: str,
        prototype: BufferPrototype | None = None,
        byte_range: ByteRequest | None = None,
    ) -> Buffer | None:
        """Read an object."""
        return await _retry(lambda: LocalStore.get(self, key, prototype, byte_range))

    async def set(self, key: str, value: Buffer) -> None:
        """Write an object."""
        await _retry(lambda: LocalStore.set(self, key, value))


async def _retry(operation: Callable[[], Awaitable[Result]]) -> Result:
    for attempt in range(ATTEMPTS - 1):
        try:
            return await operation()
        except OSError as error:
            if error.errno not in PASSING:
                raise
        await asyncio.sleep(FIRST_SECONDS * 2**attempt)
    return await operation()
