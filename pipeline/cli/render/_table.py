"""Tables of names and values."""

from collections.abc import Callable, Sequence

__all__ = ["columns", "table"]

# Wider lines would be broken where terminals end.
MAX_COLUMNS = 100


def table(rows: list[tuple[str, str]]) -> str:
    """Lines of names and values, the values aligned."""
    width = max(len(name) for name, _ in rows)
    return "\n".join(f"{name:<{width}}  {value}".rstrip() for name, value in rows)


def columns(rows: Sequence[Sequence[str]], limit: int = MAX_COLUMNS) -> str:
    """Lines of cells, the first cell of each to the left and the others to the right.

    What is wider than ``limit`` is continued below, each part with the first cells.

    Example:
        >>> print(columns([("", "trace"), ("pde", "1.5")]))
             trace
        pde    1.5
        >>> print(columns([("", "trace", "norm"), ("pde", "1.5", "2.5")], limit=12))
             trace
        pde    1.5
        <BLANKLINE>
             norm
        pde   2.5
    """
    aligned = [_aligned(cells, str.rjust) for cells in zip(*rows, strict=True)]
    first = _aligned([row[0] for row in rows], str.ljust)
    parts, width = [[first]], len(first[0])
    for column in aligned[1:]:
        if width + 2 + len(column[0]) > limit and len(parts[-1]) > 1:
            parts.append([first])
            width = len(first[0])
        parts[-1].append(column)
        width += 2 + len(column[0])
    return "\n\n".join(_lines(part) for part in parts)


def _aligned(cells: Sequence[str], align: Callable[[str, int], str]) -> list[str]:
    width = max(map(len, cells))
    return [align(cell, width) for cell in cells]


def _lines(part: Sequence[Sequence[str]]) -> str:
    return "\n".join("  ".join(cells).rstrip() for cells in zip(*part, strict=True))
