"""The command, held up at work: python held.py rows NUMBER ARGUMENTS, or products NUMBER ARGUMENTS.

After so many block rows, or vectors that were multiplied, each further one waits until standard
input is closed. A test that interrupts it does so before its end, whatever else the machine does.
"""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable
from typing import Any

from pipeline.cli import main


def hold() -> None:
    sys.stdin.read()


def hold_rows(number: int) -> None:
    from pipeline.run._blocks import BlockTask

    begin, begun = BlockTask.__call__, itertools.count()

    def call(task: BlockTask, row: Any) -> Any:
        if next(begun) >= number:
            hold()
        return begin(task, row)

    BlockTask.__call__ = call  # type: ignore[method-assign]


def hold_products(number: int) -> None:
    from pipeline.estimates import operator

    whole = operator.threaded_product

    def threaded(*arguments: Any) -> Callable[[Any], Any]:
        product, widths = whole(*arguments), []

        def multiply(vectors: Any) -> Any:
            if sum(widths) >= number:
                hold()
            widths.append(vectors.shape[1])
            return product(vectors)

        return multiply

    operator.threaded_product = threaded


if __name__ == "__main__":
    _, kind, number, *arguments = sys.argv
    {"rows": hold_rows, "products": hold_products}[kind](int(number))
    sys.argv = ["hessian", *arguments]
    main()
