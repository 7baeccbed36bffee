"""Bytes and seconds as people write them."""

from pydantic import ByteSize, TypeAdapter, ValidationError

from pipeline.errors import ConfigError

__all__ = ["format_bytes", "format_seconds", "parse_bytes"]


def parse_bytes(text: str) -> int:
    """Bytes from a number with or without a unit, decimal or binary.

    Raises:
        ConfigError: If it is none.

    Example:
        >>> parse_bytes("4GiB"), parse_bytes("1.5 kB")
        (4294967296, 1500)
    """
    try:
        return int(TypeAdapter(ByteSize).validate_python(text))
    except ValidationError as error:
        raise ConfigError(f"{text!r} is no number of bytes; expected one as 4GiB.") from error


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
