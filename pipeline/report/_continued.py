"""The table that says which eigenvectors continue which, at other weights of one network."""

from __future__ import annotations

from typing import Any

from pipeline.analysis.continuation import Continued, KnownPairs, continuations
from pipeline.report._page import Table

__all__ = ["continued_table"]


def continued_table(name: str, first: KnownPairs, second: KnownPairs, between: str) -> Table:
    """Eigenvalues before and after, and how far their eigenvectors overlap.

    Args:
        name: Stem of the table's file.
        first: Eigenpairs before.
        second: Eigenpairs after.
        between: From what to what, for the caption.
    """
    one, other = first.resolved(), second.resolved()
    found = continuations(one, other)
    left_out = len(first.values) - len(one.values) + len(second.values) - len(other.values)
    caption = (
        f"Eigenvalues {between}, by eigenvectors that go on, of the {len(first.values)} and "
        f"{len(second.values)} that are known"
    )
    caption += f"; {left_out} cannot be told from zero and are left out." if left_out else "."
    columns: dict[str, list[Any]] = {
        "before": [_value(one, pair.before) for pair in found],
        "after": [_value(other, pair.after) for pair in found],
        "overlap": [pair.overlap for pair in found],
        "what": [_words(pair) for pair in found],
    }
    return Table(name, caption, columns)


def _value(known: KnownPairs, position: int | None) -> float | None:
    return None if position is None else float(known.values[position])


def _words(pair: Continued) -> str:
    if pair.after is None:
        return "gone"
    if pair.before is None:
        return "new"
    one, other = pair.dimensions
    spaces = "" if max(one, other) == 1 else f", in spaces of {one} and {other} dimensions"
    return f"goes on{spaces}"
