"""Tables of names and values."""

from collections.abc import Sequence

__all__ = ["side_by_side", "table"]


def table(rows: list[tuple[str, str]]) -> str:
    """Lines of names and values, the values aligned."""
    width = max(len(name) for name, _ in rows)
    return "\n".join(f"{name:<{width}}  {value}".rstrip() for name, value in rows)


def side_by_side(headings: Sequence[str], columns: Sequence[Sequence[str]]) -> str:
    """Lines of a heading and its value in each column.

    Example:
        >>> print(side_by_side(["P", "loss"], [["37", "0.5"], ["5,301", "1e-06"]]))
        P     37   5,301
        loss  0.5  1e-06
    """
    widths = [max(len(value) for value in column) for column in columns]
    rows = zip(*columns, strict=True)
    lines = ["  ".join(v.ljust(w) for v, w in zip(row, widths, strict=True)) for row in rows]
    return table(list(zip(headings, lines, strict=True)))
