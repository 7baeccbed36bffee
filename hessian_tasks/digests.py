"""Digests by which inputs are compared."""

from __future__ import annotations

import hashlib

import numpy as np
import numpy.typing as npt

__all__ = ["digest", "digest_text"]


def digest(values: npt.ArrayLike) -> str:
    """SHA-256 of an array's dtype, shape and entries.

    Example:
        >>> digest([1.0]) == digest(np.ones(1)), digest(np.ones(1)) == digest(np.ones(1, "f4"))
        (True, False)
    """
    array = np.asarray(values)
    header = f"{array.dtype.str}{array.shape}".encode()
    found = hashlib.sha256(header)
    found.update(np.ascontiguousarray(array).tobytes())
    return found.hexdigest()


def digest_text(text: str) -> str:
    """SHA-256 of a text."""
    return hashlib.sha256(text.encode()).hexdigest()
