"""Locks of the operating system, which end with the process that holds them."""

from __future__ import annotations

import errno
import os
import warnings
from collections.abc import Callable
from pathlib import Path

from pipeline.errors import StoreError, StoreWarning

__all__ = ["lock_directory", "lock_file"]

# What a file system without locks answers.
NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)


def lock_directory(path: Path) -> int | None:
    """Lock a directory, unless another process or thread has: its descriptor, or None.

    Raises:
        StoreError: If this operating system has no locks.
        OSError: If it cannot be opened.
    """
    take = _taker()
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        take(descriptor)
    except BlockingIOError:
        os.close(descriptor)
        return None
    except OSError as error:
        # Network file systems lock files that are open for writing only, which no directory is.
        if error.errno not in (*NO_LOCKS, errno.EBADF, errno.EINVAL, errno.EISDIR):
            os.close(descriptor)
            raise
    return descriptor


def lock_file(file: Path) -> int | None:
    """Lock a file, unless another process or thread has: its descriptor, or None.

    Raises:
        StoreError: If something else is there, or this operating system has no locks.
        OSError: If it cannot be made or opened.
    """
    take = _taker()
    while True:
        # Whoever makes a lock makes a file: a link would make or lock one elsewhere.
        if file.is_symlink() or (file.exists() and not file.is_file()):
            raise StoreError(f"{file} is no lock, which is a file, but something else. Remove it.")
        descriptor = os.open(file, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o644)
        try:
            take(descriptor)
            # Whoever had it may have removed it since it was opened.
            if file.exists() and os.path.samestat(file.stat(), os.fstat(descriptor)):
                return descriptor
        except BlockingIOError:
            os.close(descriptor)
            return None
        except OSError as error:
            if error.errno not in NO_LOCKS:
                os.close(descriptor)
                raise
            # What runs write is whole all the same, but two may compute the same.
            warnings.warn(
                f"the file system of {file.parent} has no locks: see yourself that no other run "
                "works on this store",
                StoreWarning,
                stacklevel=2,
            )
            return descriptor
        os.close(descriptor)


def _taker() -> Callable[[int], None]:
    """What locks a descriptor at once, or raises; imported by who writes: readers lock nothing.

    Raises:
        StoreError: If this operating system has no POSIX locks.
    """
    try:
        import fcntl
    except ModuleNotFoundError as error:
        raise StoreError(
            "Stores in directories are written only where the operating system has POSIX locks, or "
            "two runs could write into one; this one has none. Compute on Linux; what is stored "
            "can be read here."
        ) from error
    return lambda descriptor: fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
