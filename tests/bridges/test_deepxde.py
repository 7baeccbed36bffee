"""Every component of a DeepXDE model's loss, and its Hessian, against DeepXDE's own loss."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from hessian_tasks.bridges import deepxde
from hessian_tasks.errors import ProblemError
from hessian_tasks.loss import losses_and_gradient
from hessian_tasks.loss.regularization import with_regularization
from hessian_tasks.networks.trainables import resolve
from hessian_tasks.spec import BlockRow
from pipeline.run.engines import choose_engine
from tests.bridges.models import (
    MODELS,
    burgers,
    compiled,
    fnn,
    hard_constraint,
    inverse,
    poisson,
    system,
)
from tests.helpers.chosen import some_slow
from tests.helpers.oracles import dense_hessian, dense_jacobian


def own_losses(dde: Any, model: Any) -> Any:
    """DeepXDE's own weighted losses, in a graph."""
    dde.gradients.clear()
    data = model.data
    given = [data.train_x, data.train_y, getattr(data, "train_aux_vars", None)]
    return model.outputs_losses_train.python_function(
        *[None if array is None else tf.constant(array) for array in given]
    )[1]


def parameters(model: Any) -> list[Any]:
    """θ: the network's weights and then the variables, in the order of DeepXDE's training."""
    weights = [weight.value for weight in model.net.trainable_weights]
    return weights + model.external_trainable_variables


@pytest.mark.parametrize("make", MODELS, ids=lambda make: make.__name__)
def test_losses_are_those_of_deepxdes_own_loss(dde: Any, make: Callable[[Any], Any]) -> None:
    model = make(dde)
    problem = with_regularization(resolve(deepxde.problem(model)))
    own = tf.function(lambda: own_losses(dde, model), autograph=False)().numpy()
    losses, _ = losses_and_gradient(problem)
    assert list(losses) == MODELS[make]
    # Sums of some dozens of float64 terms, with second derivatives inside.
    assert list(losses.values()) == pytest.approx(own.tolist(), rel=1e-12)


@pytest.mark.parametrize(
    "make", some_slow(MODELS, [inverse, hard_constraint]), ids=lambda make: make.__name__
)
def test_the_hessian_is_that_of_deepxdes_own_loss(dde: Any, make: Callable[[Any], Any]) -> None:
    model = make(dde)
    problem = with_regularization(resolve(deepxde.problem(model)))
    expected = dense_hessian(parameters(model), lambda: tf.reduce_sum(own_losses(dde, model)))
    engine, choice = choose_engine(problem, "auto")
    assert (choice.name, choice.reason) == ("layered", "")
    found = engine.block_row(BlockRow(0, 0, len(expected)))
    # Both sum and round, the derivatives by the inputs in other orders.
    assert np.abs(found - expected).max() <= 1e-10 * np.abs(expected).max()


def test_gauss_newton_is_made_of_the_equations_residuals(dde: Any) -> None:
    model = system(dde)
    problem = resolve(deepxde.problem(model))
    engine, choice = choose_engine(problem, "ggn")
    assert [residuals.term for residuals in choice.residuals] == ["pde", "pde_2"]
    assert choice.left_out == {}
    data = model.data
    x = tf.constant(data.train_x)

    def residuals() -> Any:
        dde.gradients.clear()
        y = model.net(x)
        conditions = sum(data.num_bcs)
        start = sum(data.num_bcs[:1])
        errors = [f[conditions:] for f in data.pde(x, y)]
        errors += [y[:start, :1] - 1.5, y[start:conditions, 1:] - 2.0]
        # Means of squares as one sum of squares.
        return tf.concat([error / np.sqrt(error.shape[0]) for error in errors], axis=0)

    _, slopes = dense_jacobian(problem, residuals)
    jacobian = slopes[:, 0]
    expected = 2 * jacobian.T @ jacobian
    found = engine.block_row(BlockRow(0, 0, len(expected)))
    # As for the Hessian.
    assert np.abs(found - expected).max() <= 1e-10 * np.abs(expected).max()


def test_variables_are_called_as_the_equation_calls_them(dde: Any) -> None:
    model = inverse(dde)
    problem = deepxde.problem(model)
    rate, k = model.external_trainable_variables
    assert list(problem.parameters.items()) == [("rate", rate), ("k", k)]
    assert problem.coordinates == ("x",)
    assert deepxde.problem(burgers(dde)).coordinates == ("x", "t")


def test_a_model_is_left_as_it_was(dde: Any) -> None:
    model = burgers(dde)
    data, before = model.data, [weight.numpy() for weight in model.net.trainable_weights]
    points = data.train_x
    deepxde.problem(model)
    assert model.data is data
    assert data.train_x is points
    after = [weight.numpy() for weight in model.net.trainable_weights]
    assert all(map(np.array_equal, before, after))


def test_float32_models_are_read(library: Any) -> None:
    problem = resolve(deepxde.problem(burgers(library)))
    losses, gradient = losses_and_gradient(problem)
    assert list(losses) == MODELS[burgers]
    assert gradient.dtype == np.float32


def _uncompiled(dde: Any) -> Any:
    return dde.Model(poisson(dde).data, fnn(dde, 2, 3, 1))


def _dropout(dde: Any) -> Any:
    net = dde.nn.FNN([2, 3, 1], "tanh", "Glorot normal", dropout_rate=0.1)
    return compiled(dde, poisson(dde).data, net)


def _online(dde: Any) -> Any:
    line = dde.geometry.Interval(0, 1)
    data = dde.data.Function(line, np.sin, 5, 5, train_distribution="pseudo", online=True)
    return compiled(dde, data, fnn(dde, 1, 3, 1))


def _triple(dde: Any) -> Any:
    rng = np.random.default_rng(0)
    x = (rng.normal(size=(6, 3)), rng.normal(size=(6, 1)))
    data = dde.data.Triple(x, x[1], x, x[1])
    net = dde.nn.DeepONet([3, 4, 4], [1, 4, 4], "tanh", "Glorot normal")
    model = dde.Model(data, net)
    model.compile("adam", lr=1e-3, verbose=0)
    return model


def _integral(dde: Any) -> Any:
    line = dde.geometry.Interval(0, 1)
    bc = dde.icbc.DirichletBC(line, lambda x: x, lambda _, on: on)
    data = dde.data.PDE(line, lambda x, y: y - tf.reduce_mean(y), bc, 7, 2)
    return compiled(dde, data, fnn(dde, 1, 3, 1))


def _no_points(dde: Any) -> Any:
    line = dde.geometry.Interval(0, 1)
    bc = dde.icbc.DirichletBC(line, lambda x: x, lambda _, on: on)
    return compiled(dde, dde.data.PDE(line, lambda x, y: y, bc, 7), fnn(dde, 1, 3, 1))


def _weights(dde: Any) -> Any:
    return compiled(dde, poisson(dde).data, fnn(dde, 2, 3, 1), loss_weights=[1.0, 2.0, 3.0])


REFUSED: dict[Callable[[Any], Any], str] = {
    (lambda dde: dde.nn): r"Expected a dde.Model of DeepXDE, got a module",
    _uncompiled: r"not compiled.*Call model.compile",
    _dropout: r"layer Dropout.*dropout_rate=0",
    _online: r"online=True.*Build it with online=False",
    _triple: r"a Triple, which computes its loss by itself.*Declare that loss as a LossTerm",
    _integral: r"'pde' is [\d.e-]+, but DeepXDE's own loss has [\d.e-]+ there: its code sees other",
    _no_points: r"'dirichlet' of the DeepXDE model has no training points",
    _weights: r"DeepXDE's own loss of the model fails: .*[Ii]ncompatible shapes|Dimensions must",
}


@pytest.mark.parametrize("make", REFUSED, ids=lambda make: make.__name__)
def test_what_is_not_read_is_refused(dde: Any, make: Callable[[Any], Any]) -> None:
    with pytest.raises(ProblemError, match=REFUSED[make]):
        deepxde.problem(make(dde))


def test_a_network_of_another_float_type_than_deepxdes_is_refused(dde: Any) -> None:
    keras.config.set_dtype_policy("float32")
    model = poisson(dde)
    with pytest.raises(ProblemError, match="weights in float32, but DeepXDE computes in float64"):
        deepxde.problem(model)


def test_forward_mode_and_other_backends_are_refused(
    dde: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = poisson(dde)
    with monkeypatch.context() as patch:
        patch.setattr(dde.config, "autodiff", "forward")
        with pytest.raises(ProblemError, match="set_default_autodiff"):
            deepxde.problem(model)
    monkeypatch.setattr(dde.backend, "backend_name", "pytorch")
    with pytest.raises(ProblemError, match=r"'pytorch'.*Set DDE_BACKEND=tensorflow"):
        deepxde.problem(model)
