"""Where this software comes from: the loss of a PINN, as a notebook had it.

The notebook's loss is kept as it was written, ``tf.gradients`` and Keras losses and all;
``problem()`` hands it over in a few lines. ``python examples/notebook_loss.py`` computes the
Hessian of that, and of the same loss declared by its residuals, and finds them equal;
``hessian run examples/notebook_loss.py`` computes it into a store.
"""

import tempfile

import keras
import numpy as np
import tensorflow as tf

from hessian_tasks import LossTerm, Problem, ResidualTerm
from pipeline import compute_hessian

pi = np.pi
seed = 1234
# Keras takes float32 for every layer, input and loss that is not told otherwise.
dtype = "float64"


# %% Points: Δu = f on [-1, 1]², u = 0 on the side y = 1

Xpde = tf.random.stateless_uniform([1000, 2], seed=[seed, 0], dtype=dtype)
Xpde = 2 * Xpde - 1

Xdirichlet = tf.random.stateless_uniform([1000, 1], seed=[seed, 1], dtype=dtype)
Xdirichlet = tf.concat([Xdirichlet, tf.ones_like(Xdirichlet)], axis=1)


# %% Model


def make_model(width):
    """Three hidden layers."""
    keras.utils.set_random_seed(seed)
    return keras.Sequential(
        [
            keras.Input((2,), dtype=dtype),
            keras.layers.Dense(width, activation="tanh", name="layer1", dtype=dtype),
            keras.layers.Dense(width, activation="tanh", name="layer2", dtype=dtype),
            keras.layers.Dense(width, activation="tanh", name="layer4", dtype=dtype),
            keras.layers.Dense(1, name="layer3", dtype=dtype),
        ]
    )


# %% Equation


def f(X):
    """RHS aka source term."""
    x, y = X[:, 0:1], X[:, 1:2]
    return -(pi**2) / 2 * tf.sin(pi * (x + 1) / 2) * tf.sin(pi * (y + 1) / 2)


class MyPDE:
    """The PDE, as a class with a function ``residuals``."""

    def residuals(self, X, model):
        """Residuals of the PDE at each data point."""
        x, y = X[:, 0:1], X[:, 1:2]
        # making predictions
        u = model(tf.concat([x, y], axis=1))
        # first derivatives
        u_x = tf.gradients(u, x)[0]
        u_y = tf.gradients(u, y)[0]
        # second derivatives
        u_xx = tf.gradients(u_x, x)[0]
        u_yy = tf.gradients(u_y, y)[0]
        # values of source term
        fvals = f(X)
        return u_xx + u_yy - fvals


pde = MyPDE()


# %% Boundary condition


def func(X):
    """Value of the solution on the boundary."""
    return tf.zeros([X.shape[0], 1], X.dtype)


def dirichlet_residuals(X, model):
    """Residuals of the Dirichlet condition at each data point."""
    return func(X) - model(X)


# %% Loss

mse = keras.losses.MeanSquaredError(dtype=dtype)


def get_losses(model, Xpde, pde, Xdirichlet, dirichlet_residuals):
    """Compute loss of PDE + Dirichlet."""
    loss_pde = mse(0, pde.residuals(Xpde, model))
    loss_dirichlet = mse(0, dirichlet_residuals(Xdirichlet, model))
    return loss_pde, loss_dirichlet


# %% The problem: the loss above, called with the points that it is given


def problem(width=10):
    """The notebook's loss, taken as it is."""

    def loss_total(model, Xpde, Xdirichlet):
        return tf.reduce_sum(get_losses(model, Xpde, pde, Xdirichlet, dirichlet_residuals))

    data = {"Xpde": Xpde, "Xdirichlet": Xdirichlet}
    return Problem(make_model(width), [LossTerm("loss_total", loss_total, data=data)])


def declared(width=10):
    """The same loss by its residuals; each term then has a Hessian of its own."""
    return Problem(
        model=make_model(width),
        coordinates="xy",
        terms=[
            ResidualTerm("pde", Xpde, lambda x, u: u.d("xx") + u.d("yy") - f(x)),
            ResidualTerm("dirichlet", Xdirichlet, lambda x, u: u.value),
        ],
    )


# %% The Hessian, both ways


def main():
    """Compute both and compare them."""
    with tempfile.TemporaryDirectory() as directory:
        dataset = compute_hessian(problem(), f"{directory}/notebook.zarr")
        notebook = dataset.hessian.to_numpy()
        residuals = compute_hessian(declared(), f"{directory}/declared.zarr").hessian.to_numpy()
    difference = np.abs(notebook - residuals).max() / np.abs(notebook).max()
    eigenvalues = np.linalg.eigvalsh(notebook)
    print(f"Hessian {notebook.shape[0]} x {notebook.shape[1]}, {notebook.dtype}")
    print(f"eigenvalues from {eigenvalues[0]:.3g} to {eigenvalues[-1]:.3g}")
    print(f"the notebook's loss and the declared one differ by {difference:.1e}")
    # Both are sums over 2000 points in float64; more than rounding would be another loss.
    assert difference < 1e-10


if __name__ == "__main__":
    main()
