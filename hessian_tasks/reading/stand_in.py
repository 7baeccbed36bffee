"""A stand-in for the network: known numbers in the place of its value and derivatives.

A loss that is given the stand-in becomes a function of these numbers, the jets, instead of the
weights. Its own code may differentiate the network, by tapes or ``tf.gradients``, to any order:
the gradient of a known derivative u_α with respect to the points is the contraction of the
incoming cotangent with the next ones,

    (∂u_α/∂x)ᵀ c = (Σ_q c_q u_{α+e_1,q}, …, Σ_q c_q u_{α+e_d,q})     at every point,

which are known, too, and have such gradients themselves.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import tensorflow as tf

from hessian_tasks.errors import NotLayeredError
from hessian_tasks.jets import Derivatives, Index, Tensor
from hessian_tasks.loss import View
from hessian_tasks.models import dtype_of
from hessian_tasks.trainables import networks_of

__all__ = ["Calls", "StandIn", "view_of_stand_ins"]

Known = Callable[[int, Index, Tensor], Tensor]


@dataclass
class Calls:
    """What a loss asks of networks.

    Attributes:
        networks: Name of the network of every call.
        points: The points ``[N, d]`` of every call.
        asked: The derivatives that were asked for, with the number of the call.
        given: What was given, in the same order.
    """

    networks: list[str] = field(default_factory=list)
    points: list[Tensor] = field(default_factory=list)
    asked: list[tuple[int, Index]] = field(default_factory=list)
    given: list[Tensor] = field(default_factory=list)


def view_of_stand_ins(model: Any, known: Known) -> tuple[View, Calls]:
    """What a loss term sees of stand-ins for all networks, and what it will have asked of them.

    Args:
        model: The resolved problem's model.
        known: Gives a derivative ``[N, outputs]`` from the number of the call, its axes, and
            the points.
    """
    calls = Calls()
    stand_ins = {n: StandIn(n, network, known, calls) for n, network in networks_of(model).items()}
    return View(stand_ins, {n: s.evaluate for n, s in stand_ins.items()}), calls


class StandIn:
    """Gives what is known of a network, and notes what it was asked for."""

    def __init__(self, name: str, model: Any, known: Known, calls: Calls) -> None:
        """Stand for a network.

        Args:
            name: Its name.
            model: The network; its attributes are those of the stand-in.
            known: What is known, see :func:`view_of_stand_ins`.
            calls: Where to note.
        """
        self._name = name
        self._model = model
        self._known = known
        self._calls = calls

    def __call__(
        self, inputs: Tensor, training: bool | None = None, mask: Tensor | None = None
    ) -> Tensor:
        """The known value, as the network is called by a loss.

        Raises:
            NotLayeredError: If it is called as in training, or at points that are no matrix.
        """
        if training:
            raise NotLayeredError("calls the network with training=True")
        if mask is not None:
            raise NotLayeredError("calls the network with a mask")
        if isinstance(inputs, list | tuple):
            if len(inputs) != len(self._model.inputs):
                raise NotLayeredError(f"calls the network with {len(inputs)} inputs")
            inputs = tf.concat([tf.convert_to_tensor(part) for part in inputs], axis=1)
        return self.evaluate(inputs)(())

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)

    def evaluate(self, points: Tensor) -> Derivatives:
        """The known derivatives at points.

        Raises:
            NotLayeredError: If the points are no matrix of known size.
        """
        points = tf.cast(tf.convert_to_tensor(points), dtype_of(self._model))
        if points.shape.rank != 2 or not points.shape.is_fully_defined():
            raise NotLayeredError(f"calls the network at points of shape {points.shape}")
        call = len(self._calls.points)
        self._calls.networks.append(self._name)
        self._calls.points.append(points)
        return lambda index: self._wrap(call, points, index)

    def _wrap(self, call: int, points: Tensor, index: Index) -> Tensor:
        value = self._known(call, index, points)
        self._calls.asked.append((call, index))
        self._calls.given.append(value)

        @tf.custom_gradient  # type: ignore[untyped-decorator]
        def known(points: Tensor, value: Tensor) -> tuple[Tensor, Any]:
            def pull_back(cotangent: Tensor) -> tuple[Tensor, Tensor]:
                cotangent = tf.convert_to_tensor(cotangent)
                columns = []
                for axis in range(points.shape[1]):
                    slope = self._wrap(call, points, tuple(sorted((*index, axis))))
                    columns.append(tf.reduce_sum(cotangent * slope, axis=1, keepdims=True))
                return tf.concat(columns, axis=1), cotangent

            return tf.identity(value), pull_back

        return known(points, value)
