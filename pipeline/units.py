"""Bytes and seconds as people write them."""

import math
from typing import Annotated, Any, TypeAlias

from pydantic import AfterValidator, BeforeValidator, ByteSize, TypeAdapter, ValidationError

from pipeline.errors import ConfigError
from pipeline.text import shown

__all__ = ["Bytes", "format_bytes", "format_seconds", "memory_option", "parse_bytes"]

MAX_BYTES = 2**60


def _finite(given: Any) -> Any:
    # pydantic takes any float, and True for 1.
    if isinstance(given, bool) or (isinstance(given, float) and not 0 < given <= MAX_BYTES):
        raise ValueError("expected a number of bytes, as 4GiB")
    return given


def _bounded(size: ByteSize) -> ByteSize:
    if not 0 < size <= MAX_BYTES:
        raise ValueError(f"expected at least 1 byte, and at most {MAX_BYTES:,}")
    return size


Bytes: TypeAlias = Annotated[ByteSize, BeforeValidator(_finite), AfterValidator(_bounded)]
"""Memory, as a field of settings."""


def parse_bytes(text: str) -> int:
    """Bytes from a number with or without a unit, decimal or binary.

    Raises:
        ConfigError: If it is none.

    Example:
        >>> parse_bytes("4GiB"), parse_bytes("1.5 kB")
        (4294967296, 1500)
    """
    try:
        return int(TypeAdapter(Bytes).validate_python(text))
    except ValidationError as error:
        raise ConfigError(f"{shown(text)} is no number of bytes; expected one as 4GiB.") from error


def memory_option(num_bytes: int) -> str:
    """The option of a command that allows so much memory, in full MiB.

    Example:
        >>> memory_option(2**30 + 1)
        '--memory 1025MiB'
    """
    return f"--memory {math.ceil(num_bytes / 2**20)}MiB"


def format_bytes(num_bytes: float) -> str:
    """Bytes with a binary unit and three digits.

    Example:
        >>> format_bytes(112_402_404), format_bytes(512)
        ('107 MiB', '512 B')
    """
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(num_bytes) < 999.5:  # would be written as 1e+03
            return f"{num_bytes:.3g} {unit}"
        num_bytes /= 1024
    return f"{num_bytes:.3g} TiB"


def format_seconds(seconds: float) -> str:
    """A duration with a unit that suits it.

    Example:
        >>> format_seconds(0.0123), format_seconds(75), format_seconds(7325)
        ('0.012 s', '1 min 15 s', '2 h 2 min')
    """
    if seconds < 59.95:  # would be written as 60.0
        return f"{seconds:.1f} s" if seconds >= 1 else f"{seconds:.2g} s"
    if seconds < 3600:
        return f"{int(seconds // 60)} min {int(seconds % 60)} s"
    return f"{int(seconds // 3600)} h {int(seconds % 3600 // 60)} min"
