"""Trials: how many rows are tried, and what of a problem is prepared how often."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hessian_tasks.frozen import FrozenInputs
from hessian_tasks.layered.engine import LayeredEngine
from hessian_tasks.problem import Problem
from hessian_tasks.spec import HESSIAN, BlockRow
from pipeline.run import _references, _trial
from pipeline.run.products import plain_product
from tests.helpers.runs import Run


@pytest.fixture
def tried(monkeypatch: pytest.MonkeyPatch) -> list[BlockRow]:
    """The block rows that engines compute by layers."""
    rows: list[BlockRow] = []
    compute = LayeredEngine.block_row

    def block_row(self: LayeredEngine, row: BlockRow, *arguments: Any) -> Any:
        rows.append(row)
        return compute(self, row, *arguments)

    monkeypatch.setattr(LayeredEngine, "block_row", block_row)
    return rows


def test_only_who_waits_by_the_time_takes_it_of_another_row(
    tiny_problem: Callable[..., Problem], tried: list[BlockRow]
) -> None:
    engine = LayeredEngine(tiny_problem())
    first, short, long = engine.trial_rows()
    for timed, expected in ((True, [first, short, long]), (False, [first, long])):
        tried.clear()
        cost = _trial.measure([engine], False, 1, 1, timed=timed)
        assert tried == expected
        assert cost.reserved_bytes > 0


def test_a_run_on_threads_tries_two_block_rows(
    tmp_path: Path, run: Run, inputs: FrozenInputs, tried: list[BlockRow]
) -> None:
    events = run(tmp_path / "h.zarr", inputs)
    assert len(tried) == 2 + events[0].plan.num_block_rows


def test_references_are_warmed_up_by_one_product_each(
    tiny_problem: Callable[..., Problem], monkeypatch: pytest.MonkeyPatch
) -> None:
    products: list[Any] = []

    def count(*arguments: Any) -> Any:
        product = plain_product(*arguments)

        def call(vectors: Any) -> Any:
            products.append(vectors)
            return product(vectors)

        return call

    monkeypatch.setattr(_references, "plain_product", count)
    references = _references.References(tiny_problem(), HESSIAN)
    assert [vectors.shape for vectors in products] == 2 * [(1, 25)]
    references(np.ones((1, 25)))
    # Each whole, and in two parts.
    assert len(products) == 2 + 2 * 3
