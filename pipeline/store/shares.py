"""Sharing things out between threads, workers or writers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

__all__ = ["deal"]

Item = TypeVar("Item")


def deal(items: Sequence[Item], number: int) -> list[Sequence[Item]]:
    """Give items out in turns, to at most ``number`` shares, none of which is empty.

    So every share has its part of what is sorted by size or kind, and the same number gives
    the same shares.

    Example:
        >>> deal("abcde", 2), deal("ab", 3)
        (['ace', 'bd'], ['a', 'b'])
    """
    return [items[first::number] for first in range(min(number, len(items)))]
