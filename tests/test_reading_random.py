"""Losses drawn at random, on all engines, against dense automatic differentiation."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from hessian_tasks.autodiff import AutodiffEngine, hessian_vector_product
from hessian_tasks.autodiff.products import ShardProducts, cut_points
from hessian_tasks.errors import ProblemError
from hessian_tasks.layered.engine import LayeredEngine
from hessian_tasks.loss import losses_and_gradient
from hessian_tasks.networks.models import get_theta
from hessian_tasks.networks.trainables import resolve
from hessian_tasks.problem import Problem
from hessian_tasks.spec import HESSIAN, BlockRow
from pipeline.run.engines import choose_engine
from tests.losses import HOSTILE, draw_hostile, draw_losses

Array = npt.NDArray[Any]

# Those with small graphs: what takes long is compiling.
FAST = (0, 3, 4, 5)
SEEDS = [
    pytest.param(seed, marks=[] if seed in FAST else [pytest.mark.slow]) for seed in range(192)
]
# Those that came out wrong once are always tried.
ALWAYS = [
    "held points", "chosen points", "weights' gradients", "forwards", "one by one", "undeclared",
    "reversed", "small coupling",
]  # fmt: skip
KINDS = [
    pytest.param(kind, seed, marks=[pytest.mark.slow] if seed or kind not in ALWAYS else [])
    for kind in HOSTILE
    for seed in range(4)
]


def whole(engine: Any) -> Array:
    return np.asarray(engine.block_row(BlockRow(0, 0, engine.layout.num_params)))


def sharded(problem: Problem) -> Array:
    products, size = ShardProducts(problem, HESSIAN), len(get_theta(problem.model))
    shards = cut_points(problem, max_batch=3, num_shards=2)
    return np.asarray(sum(products(shard, np.eye(size)) for shard in shards))


def dense(problem: Problem) -> Array:
    return hessian_vector_product(problem, np.eye(len(get_theta(problem.model))))


def assert_close(found: Array, expected: Array, scale: float) -> None:
    # Some hundred operations an entry with relative error 1e-16, partly cancelling.
    assert np.abs(found - expected).max() <= 1e-11 * max(float(np.abs(expected).max()), scale)


@pytest.mark.parametrize("seed", SEEDS)
def test_jets_and_tapes_agree_on_all_engines(seed: int) -> None:
    declared, written = map(resolve, draw_losses(np.random.default_rng(seed)))
    losses, _ = losses_and_gradient(declared)
    # Where nothing depends on θ, as of dead neurons: weights are of order one.
    scale = 1e-3 * abs(losses["own"])
    expected = dense(declared)
    for problem in (declared, written):
        engine = LayeredEngine(problem)
        assert engine.left_out == {}
        assert_close(whole(engine), expected, scale)
    if seed % 2 or seed not in FAST:
        assert_close(dense(written), expected, scale)
        assert_close(whole(AutodiffEngine(declared)), expected, scale)
    if seed % 2 == 0 or seed not in FAST:
        assert_close(sharded(declared), expected, scale)


@pytest.mark.parametrize(("kind", "seed"), KINDS)
def test_nothing_wrong_passes(kind: str, seed: int) -> None:
    number = 1000 * list(HOSTILE).index(kind) + seed
    problem = resolve(draw_hostile(np.random.default_rng(number), kind))
    if kind == "undeclared":
        with pytest.raises(ProblemError, match="reads the trainable variable"):
            losses_and_gradient(problem)
        return
    engine, _ = choose_engine(problem, "auto")
    assert_close(whole(engine), dense(problem), 0.0)
