"""The Burgers equation in DeepXDE, as DeepXDE's own examples write it.

``python examples/burgers_dde.py`` trains and saves the weights; then

``hessian run examples/burgers_dde.py --weights burgers-2000.weights.h5 --store burgers.zarr``

computes the Hessian of the trained model. The file is run again by the command, and by every
worker: what should happen once, such as training, lies below ``__main__``; and the seed makes every
run draw the training points that the model was trained at.
"""

import deepxde as dde
import numpy as np

dde.config.set_random_seed(1)


def pde(x, y):
    """Residual of y_t + y y_x = 0.01/pi y_xx."""
    dy_x = dde.grad.jacobian(y, x, i=0, j=0)
    dy_t = dde.grad.jacobian(y, x, i=0, j=1)
    dy_xx = dde.grad.hessian(y, x, i=0, j=0)
    return dy_t + y * dy_x - 0.01 / np.pi * dy_xx


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
)
net = dde.nn.FNN([2, 20, 20, 1], "tanh", "Glorot normal")
model = dde.Model(data, net)
model.compile("adam", lr=1e-3, loss_weights=[1, 5, 5])

if __name__ == "__main__":
    model.train(iterations=2000)
    model.save("burgers")
