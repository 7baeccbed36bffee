"""Loss terms that see the network only through its values at given points.

Such a loss, a cross-entropy or a periodic boundary condition, is ℓ(u¹, …, uᶜ) for the network's
values at the points of its C calls, see :mod:`hessian_tasks.layered.calls`.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import tensorflow as tf

from hessian_tasks.errors import NotLayeredError
from hessian_tasks.jets import Tensor
from hessian_tasks.layered.calls import Calls
from hessian_tasks.layered.expansion import Expansion, expand_value, output_jets
from hessian_tasks.layered.linearise import linearise
from hessian_tasks.layered.network import Array, Network
from hessian_tasks.layered.quadratic import differentiate_twice
from hessian_tasks.layered.streams import Streams
from hessian_tasks.loss import term_loss
from hessian_tasks.models import trainable_variables
from hessian_tasks.problem import LossTerm, Problem

__all__ = ["expand_loss"]

VALUE = Streams(((),))


def expand_loss(problem: Problem, network: Network, term: LossTerm) -> list[Expansion]:
    """Expand a loss term.

    Args:
        problem: The problem, its model resolved to a Keras model.
        network: The network.
        term: The term.

    Returns:
        One expansion for each call of the network, the first of them with the rows of all.

    Raises:
        NotLayeredError: If the loss is not of this kind.
    """
    try:
        points = _find_points(problem, network, term)
        calls = [linearise(network, p, VALUE) for p in points]
        jets = [output_jets(network, at.wires, at.num_points, VALUE, [()]) for at in calls]
        values = np.concatenate(jets, axis=1)
        slope, bend = differentiate_twice(partial(_loss, problem, term), values)
    except NotLayeredError:
        raise
    except Exception as error:
        # Whatever the loss does that the stand-in cannot; autodiff tells if it is a mistake.
        reason = f"cannot be traced by the network's values ({type(error).__name__})"
        raise NotLayeredError(reason) from error
    if len(calls) == 1:
        return [expand_value(calls[0], slope, bend)]
    return Calls(calls, [0]).expand(slope, bend)


def _find_points(problem: Problem, network: Network, term: LossTerm) -> list[Array]:
    def trace() -> list[Tensor]:
        calls = _Calls(problem.model, None)
        term_loss(replace(problem, model=calls), term)
        return calls.points

    found = tf.function(trace, autograph=False).get_concrete_function()()
    points = [np.asarray(tensor.numpy(), network.dtype) for tensor in found]
    if not points:
        raise NotLayeredError("does not call the network")
    if len({p.shape for p in points}) > 1:
        raise NotLayeredError("calls the network at different numbers of points")
    return points


def _loss(problem: Problem, term: LossTerm, values: Tensor) -> tuple[Tensor]:
    loss = term_loss(replace(problem, model=_Calls(problem.model, values)), term)
    direct = tf.gradients(loss, trainable_variables(problem.model))
    if any(gradient is not None for gradient in direct):
        raise NotLayeredError("depends on the weights other than through the network's values")
    return (loss,)


class _Calls:
    """Stands for the network in a loss: keeps the points of each call, gives known values.

    A derivative of these values with respect to the points is an error, not zero.
    """

    def __init__(self, model: Any, values: Tensor | None) -> None:
        self._model = model
        self._values = values
        self.points: list[Tensor] = []

    def __call__(self, points: Tensor, training: bool | None = None) -> Tensor:
        if training:
            raise NotLayeredError("calls the network with training=True")
        points = tf.convert_to_tensor(points)
        self.points.append(points)
        if self._values is None:
            return self._model(points)
        return self._values[:, len(self.points) - 1] + _no_derivative(points, self._values)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)


def _no_derivative(points: Tensor, values: Tensor) -> Tensor:
    @tf.custom_gradient  # type: ignore[untyped-decorator]
    def zeros(_: Tensor) -> tuple[Tensor, Any]:
        def refuse(*_: Tensor) -> Tensor:
            raise NotLayeredError("differentiates the network")

        return tf.zeros_like(values[:, 0]), refuse

    return zeros(points)
