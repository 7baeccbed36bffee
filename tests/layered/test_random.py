"""The layered engine against automatic differentiation on networks drawn at random."""

from __future__ import annotations

import numpy as np
import pytest

from hessian_tasks.autodiff import AutodiffEngine
from hessian_tasks.layered.engine import LayeredEngine
from hessian_tasks.layered.multiply import _probe as probe
from hessian_tasks.layered.multiply import contract, products
from hessian_tasks.loss import losses_and_gradient
from hessian_tasks.networks.models import get_theta
from hessian_tasks.spec import BlockRow
from tests.helpers.chosen import some_slow
from tests.helpers.networks import draw_problem

# Relative to the largest entry. float64: some hundred operations an entry with relative error
# 1e-16, partly cancelling.
TOLERANCES = {"float64": 1e-11, "float32": 2e-5}

# Those that are traced soonest, two of them in float32.
SMALL = (0, 3, 6, 11, 17, 18)


@pytest.mark.parametrize("seed", some_slow(range(200), SMALL))
def test_equals_autodiff_in_any_cut(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    dtype = "float32" if seed % 4 == 3 else "float64"
    problem = draw_problem(np.random.default_rng(seed), dtype)
    # The reference is in float64 for either dtype: in float32 it rounds as much as what it is
    # to judge, up to 1e-4 with derivatives of order 4. Both draws are the same function.
    reference = draw_problem(np.random.default_rng(seed), "float64")
    assert np.array_equal(get_theta(problem.model), get_theta(reference.model))
    engine, size = LayeredEngine(problem), len(get_theta(problem.model))
    expected = AutodiffEngine(reference).block_row(BlockRow(0, 0, size))
    rng = np.random.default_rng(seed)
    # So small that points, probes, factors and products are all cut.
    monkeypatch.setattr(contract, "PRODUCT_DEPTH", int(rng.integers(1, 50)))
    for module in (contract, probe, products):
        monkeypatch.setattr(module, "FACTOR_BYTES", 4 * int(rng.integers(1, 10_000)))
    monkeypatch.setattr(products, "PRODUCT_BYTES", 4 * int(rng.integers(1, 10_000)))
    monkeypatch.setattr(probe, "TANGENTS_BYTES", 4 * int(rng.integers(1, 10_000)))
    monkeypatch.setattr(probe, "KEPT_BYTES", 4 * int(rng.integers(1, 10_000)))
    start, stop = sorted(rng.choice(size + 1, 2, replace=False).tolist())
    scale = float(np.abs(expected).max())
    if scale == 0.0:
        # Nothing depends on θ, all neurons being dead. What is no part of the reference's graph
        # cancels here, and rounds as the loss does: all weights are of order one.
        scale = sum(abs(loss) for loss in losses_and_gradient(reference)[0].values())
    allowed = TOLERANCES[dtype] * scale
    for row in (BlockRow(0, 0, size), BlockRow(0, start, stop)):
        found = engine.block_row(row)
        assert found.dtype == dtype
        assert np.abs(found - expected[row.start : row.stop, row.start :]).max() <= allowed
