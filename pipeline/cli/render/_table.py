"""Tables of names and values."""

from collections.abc import Sequence

__all__ = ["columns", "table"]


def table(rows: list[tuple[str, str]]) -> str:
    """Lines of names and values, the values aligned."""
    width = max(len(name) for name, _ in rows)
    return "\n".join(f"{name:<{width}}  {value}".rstrip() for name, value in rows)


def columns(rows: Sequence[Sequence[str]]) -> str:
    """Lines of cells, the first cell of each to the left and the others to the right.

    Example:
        >>> print(columns([("", "trace"), ("pde", "1.5")]))
             trace
        pde    1.5
    """
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]) for row in rows
    ]
    return "\n".join(line.rstrip() for line in lines)
