"""Tables of names and values."""

__all__ = ["table"]


def table(rows: list[tuple[str, str]]) -> str:
    """Lines of names and values, the values aligned."""
    width = max(len(name) for name, _ in rows)
    return "\n".join(f"{name:<{width}}  {value}".rstrip() for name, value in rows)
