"""The Burgers equation in DeepXDE, with an unknown viscosity, as DeepXDE's own examples write it.

``python examples/burgers_dde.py`` trains the model and computes its Hessian at what it reached,
network and viscosity. ``hessian run examples/burgers_dde.py`` computes it at the initial ones. Each
worker runs the file again: what should happen once, as training, lies below ``__main__``.
"""

import deepxde as dde
import numpy as np

nu = dde.Variable(0.02)


def pde(x, y):
    """Residual of y_t + y y_x = nu y_xx."""
    dy_x = dde.grad.jacobian(y, x, i=0, j=0)
    dy_t = dde.grad.jacobian(y, x, i=0, j=1)
    dy_xx = dde.grad.hessian(y, x, i=0, j=0)
    return dy_t + y * dy_x - nu * dy_xx


geom = dde.geometry.Interval(-1, 1)
timedomain = dde.geometry.TimeDomain(0, 0.99)
geomtime = dde.geometry.GeometryXTime(geom, timedomain)

bc = dde.icbc.DirichletBC(geomtime, lambda x: 0, lambda _, on_boundary: on_boundary)
ic = dde.icbc.IC(geomtime, lambda x: -np.sin(np.pi * x[:, 0:1]), lambda _, on_initial: on_initial)

data = dde.data.TimePDE(
    geomtime,
    pde,
    [bc, ic],
    num_domain=400,
    num_boundary=40,
    num_initial=80,
    train_distribution="pseudo",
)
net = dde.nn.FNN([2, 20, 20, 1], "tanh", "Glorot normal")
model = dde.Model(data, net)
model.compile("adam", lr=1e-3, loss_weights=[1, 5, 5], external_trainable_variables=nu)

if __name__ == "__main__":
    from hessian_tasks.bridges.deepxde import problem
    from pipeline import compute_hessian, verify_hessian

    model.train(iterations=2000)
    found = problem(model)
    compute_hessian(found, "burgers.zarr")
    print("verified:", verify_hessian("burgers.zarr", found).passed)
