"""Losses drawn at random, on all engines, against dense automatic differentiation."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from hessian_tasks.autodiff import AutodiffEngine, hessian_vector_product
from hessian_tasks.autodiff.generalised import gauss_newton_vector_product
from hessian_tasks.autodiff.products import ShardProducts, cut_points
from hessian_tasks.errors import ProblemError
from hessian_tasks.layered.engine import LayeredEngine
from hessian_tasks.loss import losses_and_gradient, term_values
from hessian_tasks.networks.models import get_theta, parameter_layout
from hessian_tasks.networks.trainables import (
    Trainables,
    held_of,
    networks_of,
    parameters_of,
    resolve,
)
from hessian_tasks.problem import Problem, ResidualTerm
from hessian_tasks.spec import GAUSS_NEWTON, HESSIAN, BlockRow, Matrix
from pipeline.errors import PlanError
from pipeline.run.engines import choose_engine, uses_numpy
from tests.helpers.oracles import dense_jacobian, linearised_hessian
from tests.reading.hostile import HOSTILE, draw_hostile
from tests.reading.losses import draw_losses

Array = npt.NDArray[Any]

# Those with small graphs: what takes long is compiling.
FAST = (3, 4)
SEEDS = [
    pytest.param(seed, marks=[] if seed in FAST else [pytest.mark.slow]) for seed in range(192)
]
# Those that came out wrong once are always tried, some of them in test_written.
ALWAYS = ["undeclared", "small coupling"]
KINDS = [
    pytest.param(kind, seed, marks=[pytest.mark.slow] if seed or kind not in ALWAYS else [])
    for kind in HOSTILE
    for seed in range(4)
]


def whole(engine: Any) -> Array:
    return np.asarray(engine.block_row(BlockRow(0, 0, engine.layout.num_params)))


def sharded(problem: Problem, matrix: Matrix = HESSIAN) -> Array:
    products, size = ShardProducts(problem, matrix), len(get_theta(problem.model))
    shards = cut_points(problem, max_batch=3, num_shards=2)
    return np.asarray(sum(products(shard, np.eye(size)) for shard in shards))


def dense(problem: Problem) -> Array:
    """The Hessian by all variables, cut to those of θ."""
    held = {variable.position for variable in held_of(problem.model)}
    everything = Trainables(networks_of(problem.model), parameters_of(problem.model))
    full = replace(problem, model=everything, only=None)
    table = parameter_layout(everything).variables
    at = [k for i, v in enumerate(table) if i not in held for k in range(v.offset, v.stop)]
    return hessian_vector_product(full, np.eye(table[-1].stop)[at])[:, at]


def gauss_newton(problem: Problem) -> Array:
    """Of residuals ``2 w / (N C) JᵀJ``, of other losses by the definition."""
    (term,) = problem.terms
    if isinstance(term, ResidualTerm):
        values, rows = dense_jacobian(problem, lambda: term_values(problem, term))
        flat = rows.reshape(values.size, -1)
        return np.asarray(2 * term.weight / values.size * flat.T @ flat)
    return linearised_hessian(problem)


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
        assert_close_gauss_newton((declared, written)[seed // 4 % 2], scale)


def assert_close_gauss_newton(problem: Problem, scale: float) -> None:
    engine, choice = choose_engine(problem, "ggn")
    assert (choice.left_out, uses_numpy(engine)) == ({}, True)
    expected = gauss_newton(problem)
    assert_close(whole(engine), expected, scale)
    assert_close(sharded(problem, GAUSS_NEWTON), expected, scale)
    product = gauss_newton_vector_product(problem, np.eye(len(expected)))
    assert_close(product, expected, scale)


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
    try:
        engine, _ = choose_engine(problem, "ggn")
    except PlanError:
        return
    assert_close(whole(engine), gauss_newton(problem), 0.0)
