"""PyTorch: ``torch.func``, and the Hessians of curvlinops and PyHessian."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from case import Array, Case, Indices
from torch.func import grad, jvp, vjp, vmap
from ways import RowWay, Way, batches_for

torch.set_num_threads(len(os.sched_getaffinity(0)))


def _network(weights: list[Any], points: Any) -> Any:
    for kernel, bias in zip(weights[:-2:2], weights[1:-2:2], strict=True):
        points = torch.tanh(points @ kernel + bias)
    return points @ weights[-2] + weights[-1]


def _laplacian(weights: list[Any], points: Any) -> Any:
    def second(axis: int) -> Any:
        direction = torch.zeros_like(points)
        direction[:, axis] = 1

        def first(p: Any) -> Any:
            return jvp(lambda q: _network(weights, q), (p,), (direction,))[1]

        return jvp(first, (points,), (direction,))[1]

    return second(0) + second(1)


def _loss(case: Case) -> Callable[[Any], Any]:
    interior, boundary = torch.tensor(case.interior), torch.tensor(case.boundary)
    source = torch.tensor(case.source)

    def loss(theta: Any) -> Any:
        parts = zip(torch.split(theta, case.sizes), case.shapes, strict=True)
        weights = [part.reshape(shape) for part, shape in parts]
        residual = _laplacian(weights, interior) - source
        return (residual**2).mean() + (_network(weights, boundary) ** 2).mean()

    return loss


def _func_ways(
    case: Case, batches: list[int], product: Callable[[Callable[[Any], Any], Any], Any]
) -> dict[str, Way]:
    theta, gradient = torch.tensor(case.theta), grad(_loss(case))

    def rows(vectors: Any) -> Any:
        return vmap(product(gradient, theta))(vectors)

    def call(indices: Indices) -> Array:
        vectors = torch.zeros(len(indices), case.num_params, dtype=theta.dtype)
        vectors[torch.arange(len(indices)), torch.from_numpy(indices)] = 1
        return np.asarray(rows(vectors).detach().numpy())

    sizes = batches_for(case.num_params, batches)
    return {f"{batch} rows": RowWay(case.num_params, batch, call) for batch in sizes}


def forward_over_reverse(case: Case, batches: list[int]) -> dict[str, Way]:
    """``vmap`` of ``jvp(grad)``."""
    return _func_ways(
        case, batches, lambda gradient, theta: lambda v: jvp(gradient, (theta,), (v,))[1]
    )


def reverse_over_reverse(case: Case, batches: list[int]) -> dict[str, Way]:
    """``vmap`` of ``vjp(grad)``."""

    def product(gradient: Callable[[Any], Any], theta: Any) -> Callable[[Any], Any]:
        pull_back = vjp(gradient, theta)[1]
        return lambda vector: pull_back(vector)[0]

    return _func_ways(case, batches, product)


class Residuals(torch.nn.Module):
    """The residuals as a network's outputs, for libraries that want a model and a criterion.

    Their mean of squares over all points is the loss.
    """

    def __init__(self, case: Case) -> None:
        super().__init__()
        self.weights = torch.nn.ParameterList([torch.tensor(w) for w in case.split()])
        self.num_interior = len(case.interior)
        num_points = len(case.interior) + len(case.boundary)
        self.scales = [(num_points / len(p)) ** 0.5 for p in (case.interior, case.boundary)]
        self.register_buffer("source", torch.tensor(case.source))

    def forward(self, points: Any) -> Any:
        weights = list(self.weights)
        residual = _laplacian(weights, points[: self.num_interior]) - self.source
        outputs = _network(weights, points[self.num_interior :])
        return torch.cat([self.scales[0] * residual, self.scales[1] * outputs])


def _as_data(case: Case) -> tuple[Any, Any]:
    points = torch.tensor(np.concatenate([case.interior, case.boundary]))
    return points, torch.zeros_like(points[:, :1])


def curvlinops(case: Case, batches: list[int]) -> dict[str, Way]:
    """``HessianLinearOperator`` times a batch of one-hot columns."""
    from curvlinops import HessianLinearOperator

    model = Residuals(case)
    operator = HessianLinearOperator(
        model,
        torch.nn.MSELoss(),
        list(model.parameters()),
        [_as_data(case)],
        check_deterministic=False,
    )

    def rows(indices: Indices) -> Array:
        columns = torch.zeros(case.num_params, len(indices), dtype=operator.dtype)
        columns[torch.from_numpy(indices), torch.arange(len(indices))] = 1
        return np.asarray((operator @ columns).detach().numpy().T)

    sizes = batches_for(case.num_params, batches)
    return {f"{batch} rows": RowWay(case.num_params, batch, rows) for batch in sizes}


def pyhessian(case: Case, batches: list[int]) -> dict[str, Way]:
    """PyHessian's Hessian-vector product, which takes one vector at a time.

    Its class differentiates the loss once, and all products share that graph.
    """
    from pyhessian import hessian
    from pyhessian.utils import hessian_vector_product

    found = hessian(Residuals(case), torch.nn.MSELoss(), data=_as_data(case), cuda=False)

    def row(index: int) -> Array:
        one_hot = torch.zeros(case.num_params, dtype=found.params[0].dtype)
        one_hot[index] = 1
        parts = zip(one_hot.split(case.sizes), case.shapes, strict=True)
        vector = [part.reshape(shape) for part, shape in parts]
        product = hessian_vector_product(found.gradsH, found.params, vector)
        return np.concatenate([part.detach().numpy().reshape(-1) for part in product])

    def rows(indices: Indices) -> Array:
        return np.stack([row(index) for index in indices])

    return {"1 row": RowWay(case.num_params, 1, rows)}
