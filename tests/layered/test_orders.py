"""Derivatives of high order: as far as they are supported they are right, beyond they are refused.

Of sin they have a closed form, u = Σ v sin(w x + b) has u⁽¹²⁾ = Σ v w¹² sin(w x + b), whose
Hessian is computed by dense automatic differentiation.
"""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from hessian_tasks import Problem, ProblemError, ResidualTerm, jets, mlp
from hessian_tasks.layered.engine import LayeredEngine
from hessian_tasks.layered.expand._composition import stream_polynomials
from hessian_tasks.layered.expand._streams import Streams
from hessian_tasks.loss import losses_and_gradient
from hessian_tasks.networks.models import get_theta, set_theta
from hessian_tasks.spec import BlockRow

POINTS = np.linspace(-1.0, 1.0, 5)[:, None]


def of_order(order: int, network: Any) -> Problem:
    return Problem(network, [ResidualTerm("r", POINTS, lambda x, u: u.d("x" * order) - 1.0)], "x")


def test_order_12_of_sin_has_the_hessian_of_its_closed_form() -> None:
    dense, width = keras.layers.Dense, 3
    network = keras.Sequential([
        keras.Input((1,), dtype="float64"),
        dense(width, tf.sin, dtype="float64"), dense(1, dtype="float64"),
    ])  # fmt: skip
    theta = np.random.default_rng(0).uniform(0.5, 1.0, get_theta(network).shape)
    set_theta(network, theta)
    engine = LayeredEngine(of_order(12, network))
    found = engine.block_row(BlockRow(0, 0, len(theta)), None)

    with tf.GradientTape() as outer:
        weights = tf.constant(theta)
        outer.watch(weights)
        with tf.GradientTape() as inner:
            inner.watch(weights)
            w, b, v, _ = tf.split(weights, [width, width, width, 1])
            residual = tf.reduce_sum(v * w**12 * tf.sin(w * POINTS + b), axis=1) - 1.0
            loss = tf.reduce_mean(residual**2)
        gradient = inner.gradient(loss, weights)
    expected = outer.jacobian(gradient, weights).numpy()
    # Sums of fewer than 100 terms in float64, of one sign each but for four digits.
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-10 * np.abs(expected).max())


@pytest.mark.parametrize(("order", "bell", "partitions"), [(4, 15, 5), (12, 4213597, 77)])
def test_a_composition_has_a_term_for_every_partition(
    order: int, bell: int, partitions: int
) -> None:
    """Of a set there are as many partitions as Bell numbers say; of its size those that differ."""
    streams = Streams(tuple((0,) * length for length in range(order + 1)))
    polynomial = stream_polynomials(streams, 1)[-1]
    assert (sum(polynomial.values()), len(polynomial)) == (bell, partitions)


def test_orders_are_computed_to_the_limit_and_refused_above(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Order 3 adds 67 operations here, order 4 115.
    monkeypatch.setattr(jets, "MAX_OPERATIONS", 100)
    network = mlp(1, width=2, depth=1, dtype="float64")
    assert losses_and_gradient(of_order(4, network))[0]["r"] > 0
    with pytest.raises(ProblemError, match=r"order 12, but order 4 is the highest .* output w"):
        losses_and_gradient(of_order(12, network))


@pytest.mark.slow
def test_order_9_of_tanh_is_the_highest() -> None:
    network = mlp(1, width=2, depth=1, dtype="float64")
    assert losses_and_gradient(of_order(9, network))[0]["r"] > 0
    with pytest.raises(ProblemError, match="order 10, but order 9 is the highest"):
        losses_and_gradient(of_order(10, network))
