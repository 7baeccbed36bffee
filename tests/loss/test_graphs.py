"""What is left of problems that were computed: nothing that grows from one to the next."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from tensorflow.python.framework import ops

from hessian_tasks import DensityTerm, LossTerm, Problem, ResidualTerm
from hessian_tasks.autodiff import AutodiffEngine, hessian_vector_product
from hessian_tasks.autodiff.generalised import gauss_newton_vector_product
from hessian_tasks.autodiff.products import ShardProducts, cut_points
from hessian_tasks.layered.engine import LayeredEngine
from hessian_tasks.spec import GAUSS_NEWTON, BlockRow
from pipeline.run.engines import choose_engine
from tests.helpers.chosen import some_slow

X = np.random.default_rng(0).uniform(-1, 1, (5, 1))


def looped(model: Any) -> Any:
    """Differentiates the network, and in a loop, whose body is a graph of its own."""
    points = tf.constant(X)
    with tf.GradientTape() as tape:
        tape.watch(points)
        u = model(points)
    slope = tape.gradient(u, points)
    powers = tf.while_loop(lambda k, s: k < 2, lambda k, s: (k + 1, s * u), (0, slope))[1]
    return tf.reduce_mean(powers)


def problem() -> Problem:
    # Of swish TensorFlow has a custom gradient; the others are those of stand-ins for the network.
    dense = [keras.layers.Dense(width, dtype="float64") for width in (2, 1)]
    dense[0].activation = tf.nn.swish
    terms = [
        ResidualTerm("pde", X, lambda x, u: u.d("xx") - u.value),
        DensityTerm("energy", X, lambda x, u: tf.exp(u.d("x"))),
        LossTerm("own", looped),
    ]
    return Problem(keras.Sequential([keras.Input((1,), dtype="float64"), *dense]), terms, "x")


def layered(problem: Problem) -> Any:
    return LayeredEngine(problem).block_row(BlockRow(0, 0, 7))


def by_tapes(problem: Problem) -> Any:
    return AutodiffEngine(problem).block_row(BlockRow(0, 0, 7))


def kept(problem: Problem) -> Any:
    return choose_engine(problem, "ggn")[0].block_row(BlockRow(0, 0, 7))


def products(problem: Problem) -> Any:
    shards = ShardProducts(problem, GAUSS_NEWTON)
    return sum(shards(shard, np.eye(7)) for shard in cut_points(problem))


def verified(problem: Problem) -> Any:
    hessian_vector_product(problem, np.eye(7)[:1])
    return gauss_newton_vector_product(problem, np.eye(7)[:1])


@pytest.mark.parametrize(
    "compute",
    some_slow([layered, by_tapes, kept, products, verified], [layered, products]),
)
def test_no_custom_gradient_is_kept(compute: Any) -> None:
    """TensorFlow has a table of them, and by it their graphs and the data of these."""
    before = set(ops.gradient_registry.list())
    compute(problem())
    assert set(ops.gradient_registry.list()) == before
