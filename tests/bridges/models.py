"""Models in DeepXDE's own style, small, untrained, compiled."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

__all__ = ["MODELS", "compiled"]

Model = Any


def compiled(dde: Any, data: Any, net: Any, **options: Any) -> Model:
    model = dde.Model(data, net)
    data.train_next_batch()
    net(data.train_x)
    # DeepXDE's biases are 0, where tanh'' = 0 hides much.
    rng = np.random.default_rng(1)
    for variable in net.trainable_variables:
        variable.assign_add(rng.normal(0.0, 0.3, variable.shape))
    model.compile("adam", lr=1e-3, verbose=0, **options)
    return model


def fnn(dde: Any, *sizes: int) -> Any:
    return dde.nn.FNN(list(sizes), "tanh", "Glorot normal")


def poisson(dde: Any) -> Model:
    square = dde.geometry.Rectangle([-1, -1], [1, 1])

    def pde(x: Any, y: Any) -> Any:
        dy_xx = dde.grad.hessian(y, x, i=0, j=0)
        dy_yy = dde.grad.hessian(y, x, i=1, j=1)
        return -dy_xx - dy_yy - 1

    bc = dde.icbc.DirichletBC(square, lambda x: x[:, :1] ** 2, lambda _, on: on)
    data = dde.data.PDE(square, pde, bc, num_domain=20, num_boundary=12)
    return compiled(dde, data, fnn(dde, 2, 6, 1), loss_weights=[0.3, 20])


def inverse(dde: Any) -> Model:
    line = dde.geometry.Interval(0, 1)
    k = dde.Variable(0.7, dtype=tf.float64)
    rate = dde.Variable(1.3, dtype=tf.float64)

    def pde(x: Any, y: Any) -> Any:
        return k * dde.grad.hessian(y, x) + rate**2 * y - tf.sin(x)

    places = np.linspace(0, 1, 7)[:, None]
    noise = 0.01 * np.random.default_rng(2).normal(size=places.shape)
    observed = dde.icbc.PointSetBC(places, np.sin(places) + noise)
    flux = dde.icbc.PointSetOperatorBC(
        places[:3], np.cos(places[:3]), lambda x, y, _: k * dde.grad.jacobian(y, x)
    )
    data = dde.data.PDE(line, pde, [observed, flux], num_domain=15, anchors=places)
    return compiled(
        dde, data, fnn(dde, 1, 6, 1), external_trainable_variables=[rate, k]
    )  # in another order than the equation's


def neumann_robin(dde: Any) -> Model:
    line = dde.geometry.Interval(-1, 1)

    def pde(x: Any, y: Any) -> Any:
        return dde.grad.hessian(y, x) - 2

    def left(x: Any, on: bool) -> bool:
        return on and bool(dde.utils.isclose(x[0], -1))

    def right(x: Any, on: bool) -> bool:
        return on and bool(dde.utils.isclose(x[0], 1))

    bcs = [
        dde.icbc.NeumannBC(line, lambda x: 2 * (x + 1), right),
        # The points come as an array of NumPy's.
        dde.icbc.RobinBC(line, lambda x, y: np.cosh(x) * y**2, left),
    ]
    return compiled(dde, dde.data.PDE(line, pde, bcs, 16, 2), fnn(dde, 1, 6, 1))


def periodic(dde: Any) -> Model:
    square = dde.geometry.Rectangle([0, 0], [1, 1])

    def pde(x: Any, y: Any) -> Any:
        return dde.grad.jacobian(y, x, j=0) + dde.grad.hessian(y, x, i=0, j=1) - y

    def left(x: Any, on: bool) -> bool:
        return on and bool(dde.utils.isclose(x[0], 0))

    bcs = [dde.icbc.PeriodicBC(square, 0, left, derivative_order=order) for order in (0, 1)]
    data = dde.data.PDE(square, pde, bcs, 12, 16, train_distribution="uniform")
    return compiled(dde, data, fnn(dde, 2, 6, 1))


def system(dde: Any) -> Model:
    time = dde.geometry.TimeDomain(0, 2)

    def ode(t: Any, y: Any) -> Any:
        a, b = y[:, 0:1], y[:, 1:]
        da, db = (dde.grad.jacobian(y, t, i=i) for i in range(2))
        return [da - a * (1 - b), db - b * (a - 1)]

    def start(_: Any, on: bool) -> bool:
        return on

    ics = [dde.icbc.IC(time, lambda t: 1.5, start), dde.icbc.IC(time, lambda t: 2, start, 1)]
    return compiled(dde, dde.data.PDE(time, ode, ics, 14, 2), fnn(dde, 1, 6, 2))


def burgers(dde: Any) -> Model:
    line, time = dde.geometry.Interval(-1, 1), dde.geometry.TimeDomain(0, 0.99)
    both = dde.geometry.GeometryXTime(line, time)

    def pde(x: Any, y: Any) -> Any:
        dy_x = dde.grad.jacobian(y, x, i=0, j=0)
        dy_t = dde.grad.jacobian(y, x, i=0, j=1)
        dy_xx = dde.grad.hessian(y, x, i=0, j=0)
        return dy_t + y * dy_x - 0.01 / np.pi * dy_xx

    bc = dde.icbc.DirichletBC(both, lambda x: 0, lambda _, on: on)
    ic = dde.icbc.IC(both, lambda x: -np.sin(np.pi * x[:, 0:1]), lambda _, on: on)
    data = dde.data.TimePDE(both, pde, [bc, ic], num_domain=25, num_boundary=8, num_initial=9)
    return compiled(dde, data, fnn(dde, 2, 6, 5, 1))


def hard_constraint(dde: Any) -> Model:
    line = dde.geometry.Interval(0, np.pi)

    def pde(x: Any, y: Any) -> Any:
        return -dde.grad.hessian(y, x) - tf.sin(x)

    net = fnn(dde, 1, 6, 1)
    net.apply_output_transform(lambda x, y: x * (np.pi - x) * y + x)
    return compiled(dde, dde.data.PDE(line, pde, [], num_domain=16), net)


def features(dde: Any) -> Model:
    disk = dde.geometry.Disk([0, 0], 1)

    def pde(x: Any, y: Any) -> Any:
        return dde.grad.hessian(y, x, i=0, j=0) * y - x[:, 0:1]

    def on_axis(x: Any, y: Any, points: Any) -> Any:
        return dde.grad.jacobian(y, x, j=1) * np.hypot(points[:, :1], points[:, 1:]) - y

    net = dde.nn.PFNN([3, [4, 4], 2], "sin", "Glorot normal")
    net.apply_feature_transform(lambda x: tf.concat([x, tf.sin(x[:, 0:1] * x[:, 1:])], 1))
    net.apply_output_transform(lambda x, y: y[:, 0:1] * y[:, 1:])
    bcs = dde.icbc.OperatorBC(disk, on_axis, lambda _, on: on)
    return compiled(dde, dde.data.PDE(disk, pde, bcs, 15, 10), net, loss_weights=[2.0, 0.5])


def auxiliary(dde: Any) -> Model:
    line = dde.geometry.Interval(0, 1)

    def pde(x: Any, y: Any, force: Any) -> Any:
        return dde.grad.hessian(y, x) - force

    bc = dde.icbc.DirichletBC(line, lambda x: 0, lambda _, on: on)
    data = dde.data.PDE(line, pde, bc, 12, 2, auxiliary_var_function=lambda x: np.exp(x))
    return compiled(dde, data, fnn(dde, 1, 6, 1))


def regularised(dde: Any) -> Model:
    line = dde.geometry.Interval(0, 1)
    net = dde.nn.FNN([1, 6, 1], "tanh", "Glorot normal", regularization=["l2", 0.1])
    bc = dde.icbc.DirichletBC(line, lambda x: x, lambda _, on: on)
    data = dde.data.PDE(line, lambda x, y: dde.grad.hessian(y, x) ** 2 - y, bc, 12, 2)
    return compiled(dde, data, net, loss_weights=[1.0, 2.0, 0.7])


def own_losses(dde: Any) -> Model:
    line = dde.geometry.Interval(0, 1)

    def log_cosh(target: Any, found: Any) -> Any:
        return tf.reduce_mean(tf.math.log(tf.cosh(found - target)))

    bc = dde.icbc.DirichletBC(line, lambda x: x, lambda _, on: on)
    data = dde.data.PDE(line, lambda x, y: dde.grad.hessian(y, x) - y**2, bc, 12, 2)
    return compiled(dde, data, fnn(dde, 1, 6, 1), loss=[log_cosh, "MSE"])


def function(dde: Any) -> Model:
    line = dde.geometry.Interval(-1, 1)
    data = dde.data.Function(line, lambda x: x * np.sin(5 * x), num_train=16, num_test=10)
    return compiled(dde, data, fnn(dde, 1, 6, 1))


def data_set(dde: Any) -> Model:
    rng = np.random.default_rng(4)
    x, y = rng.normal(size=(18, 4)), rng.normal(size=(18, 2))

    def pseudo_huber(target: Any, found: Any) -> Any:
        return tf.reduce_mean(tf.sqrt(1 + tf.square(target - found)))

    data = dde.data.DataSet(X_train=x, y_train=y, X_test=x, y_test=y, standardize=True)
    return compiled(dde, data, fnn(dde, 4, 6, 2), loss=pseudo_huber, loss_weights=[3.0])


MODELS: dict[Callable[[Any], Model], list[str]] = {
    poisson: ["pde", "dirichlet"],
    inverse: ["pde", "point_set", "point_set_operator"],
    neumann_robin: ["pde", "neumann", "robin"],
    periodic: ["pde", "periodic", "periodic_2"],
    system: ["pde", "pde_2", "ic", "ic_2"],
    burgers: ["pde", "dirichlet", "ic"],
    hard_constraint: ["pde"],
    features: ["pde", "operator"],
    auxiliary: ["pde", "dirichlet"],
    regularised: ["pde", "dirichlet", "regularization"],
    own_losses: ["pde", "dirichlet"],
    function: ["fit"],
    data_set: ["fit"],
}
