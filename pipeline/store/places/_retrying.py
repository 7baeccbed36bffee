"""Trying again what failed for a reason that passes: network file systems fail now and then."""

from __future__ import annotations

import asyncio
import errno
import re
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

from zarr.abc.store import ByteRequest
from zarr.core.buffer import Buffer, BufferPrototype
from zarr.storage import LocalStore

__all__ = ["RetryingFiles", "retry", "retry_request"]

Result = TypeVar("Result")

# What passes; a full disk, a quota or a missing permission does not.
PASSING = {errno.EIO, errno.EAGAIN, errno.EINTR, errno.ESTALE, errno.ETIMEDOUT, errno.EBUSY}
# If one operation in ten fails, one in ten million fails so often.
PAUSES = [0.02 * 2**number for number in range(6)]


class RetryingFiles(LocalStore):
    """Reads an object again where that failed for a reason that passes."""

    async def get(
        self,
        key: str,
        prototype: BufferPrototype | None = None,
        byte_range: ByteRequest | None = None,
    ) -> Buffer | None:
        """Read an object."""
        return await _retry(lambda: LocalStore.get(self, key, prototype, byte_range))


def retry(operation: Callable[[], Result]) -> Result:
    """Do it again where it failed for a reason that passes; it may be done twice."""
    return _again(operation, _passes)


def retry_request(operation: Callable[[], Result]) -> Result:
    """Ask a server again where obstore does not; it may be done twice.

    It does not where a listing breaks off, nor for a POST, as which it deletes.
    """
    return _again(operation, _was_not_repeated)


def _again(operation: Callable[[], Result], passes: Callable[[Exception], bool]) -> Result:
    for pause in PAUSES:
        try:
            return operation()
        except Exception as error:
            if not passes(error):
                raise
        time.sleep(pause)
    return operation()


def _passes(error: Exception) -> bool:
    return isinstance(error, OSError) and error.errno in PASSING


def _was_not_repeated(error: Exception) -> bool:
    from obstore.exceptions import GenericError

    return isinstance(error, GenericError) and bool(
        re.search("response body|retries: 0", str(error))
    )


async def _retry(operation: Callable[[], Awaitable[Result]]) -> Result:
    for pause in PAUSES:
        try:
            return await operation()
        except OSError as error:
            if not _passes(error):
                raise
        await asyncio.sleep(pause)
    return await operation()
