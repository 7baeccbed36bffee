"""Which cases of a test are tried each time, and which by ``make test-all`` alone."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest

__all__ = ["some_slow"]


def some_slow(cases: Iterable[Any], fast: Iterable[Any]) -> list[Any]:
    """Cases for ``parametrize``: all of them, those that are not among ``fast`` marked slow.

    They say the same of another size, precision or make, and each compiles graphs of its own.

    Args:
        cases: Values, or tuples of them.
        fast: Values, or first values of tuples.
    """
    wanted, found = list(fast), []
    for case in cases:
        values = case if isinstance(case, tuple) else (case,)
        marks = [] if values[0] in wanted else [pytest.mark.slow]
        found.append(pytest.param(*values, marks=marks))
    assert sum(not param.marks for param in found) >= len(wanted) > 0
    return found
