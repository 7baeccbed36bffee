"""Tangents that are kept as factors, and threads that share those of one site."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

from hessian_tasks.layered.engine import LayeredEngine
from hessian_tasks.layered.multiply import _probe as probe
from hessian_tasks.layered.multiply._factored import Factored, multiply_streams
from hessian_tasks.layered.multiply.workspace import Workspace
from hessian_tasks.problems import poisson
from hessian_tasks.spec import BlockRow
from tests.layered.test_engine import of, whole

RNG = np.random.default_rng(0)


def draw(*shape: int) -> Any:
    return RNG.integers(-4, 5, shape).astype(np.float64)


def drawn(matrix: Any, lefts: list[Any]) -> Factored:
    return Factored(tuple((left, draw(5, matrix.shape[1])) for left in lefts), matrix)


@pytest.mark.parametrize("count", [1, 2, 4])
def test_forms_what_the_definition_says(count: int) -> None:
    # Small whole numbers, so that all sums are exact.
    matrix, factor = draw(3, 6), draw(5, 6)
    tangent = drawn(matrix, [draw(5, 3) for _ in range(count)])
    expected = sum(np.einsum("nj,np,jp->njp", *term, matrix) for term in tangent.terms)
    assert np.array_equal(np.asarray(tangent), expected)
    assert np.array_equal(np.asarray(tangent.columns(slice(1, 4))), expected[:, :, 1:4])
    assert np.array_equal(np.asarray(tangent.scaled(factor)), expected * factor[:, None])


def test_sums_keep_a_left_factor_once() -> None:
    matrix, shared, other = draw(3, 6), draw(5, 3), draw(5, 3)
    first, second = drawn(matrix, [shared]), drawn(matrix, [shared, other])
    total = first.plus(second)
    assert total is not None
    assert len(total.terms) == 2
    assert np.array_equal(np.asarray(total), np.asarray(first) + np.asarray(second))
    assert first.plus(drawn(matrix.copy(), [shared])) is None


def test_products_of_streams_are_outer_products() -> None:
    for count in (1, 3):
        lefts, rights = [draw(5, 2) for _ in range(count)], [draw(5, 4) for _ in range(count)]
        out = np.full((5, 2, 4), np.nan)
        multiply_streams(lefts, rights, out)
        expected = np.einsum("sni,sna->nia", lefts, rights)
        assert np.array_equal(out, expected)
        points_last = np.full((2, 4, 5), np.nan)
        multiply_streams(lefts, rights, points_last.transpose(2, 0, 1))
        assert np.array_equal(points_last.transpose(2, 0, 1), expected)


def test_memory_is_used_again_with_points_last() -> None:
    workspace = Workspace(np.dtype(np.float64), points_last=True)
    for array in (workspace.empty(2, 5, 3, 4), workspace.lend(5, 3, 4)):
        assert array.shape[-3:] == (5, 3, 4)
        assert array.strides[-3:] == (8, array.size // 3 * 8, array.size // 12 * 8)
    workspace.give_back([array])
    assert np.shares_memory(workspace.lend(60, 1), array)


def test_two_threads_compute_what_they_share_once(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = LayeredEngine(of(poisson.problem(8, 3, 20, 10, dtype="float64")))
    expected = whole(engine)
    # One neuron a group, so that threads meet at many; those of the second site that is cut.
    monkeypatch.setattr(probe, "FACTOR_BYTES", 1)
    rows = [BlockRow(0, 24, 56), BlockRow(1, 56, 96)]
    filled: list[tuple[Any, ...]] = []
    fill = probe.Prober._fill
    together = threading.Barrier(2, timeout=600)

    def counted(self: probe.Prober, matrices: Any, whole: Any, group: slice) -> None:
        filled.extend((id(self), job.name, group.start) for job, _ in matrices)
        fill(self, matrices, whole, group)

    def compute(row: BlockRow) -> Any:
        together.wait()
        return engine.block_row(row)

    monkeypatch.setattr(probe.Prober, "_fill", counted)
    engine.forget()
    with ThreadPoolExecutor(2) as pool:
        blocks = list(pool.map(compute, rows))
    assert filled
    assert len(filled) == len(set(filled))
    for row, block in zip(rows, blocks, strict=True):
        part = expected[row.start : row.stop, row.start :]
        np.testing.assert_allclose(block, part, rtol=0, atol=1e-12 * np.abs(expected).max())
