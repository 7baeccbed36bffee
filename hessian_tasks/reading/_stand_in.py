"""A stand-in for the network: known numbers in the place of its value and derivatives.

A loss that is given the stand-in becomes a function of these numbers, the jets, instead of the
weights. Its own code may differentiate the network, by tapes or ``tf.gradients``, to any order:
the gradient of a known derivative u_α with respect to the points is the contraction of the
incoming cotangent with the next ones,

    (∂u_α/∂x)ᵀ c = (Σ_q c_q u_{α+e_1,q}, …, Σ_q c_q u_{α+e_d,q})     at every point,

which are known, too, and have such gradients themselves.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from itertools import accumulate, combinations, pairwise
from typing import Any

import tensorflow as tf

from hessian_tasks.errors import NotLayeredError
from hessian_tasks.jets import Derivatives, Index, Tensor
from hessian_tasks.loss.terms import View
from hessian_tasks.networks.inputs import Inputs
from hessian_tasks.networks.models import dtype_of
from hessian_tasks.networks.trainables import networks_of

__all__ = ["MAX_COLUMNS", "Calls", "Known", "below", "view_of_stand_ins"]

# Columns of an input by which the stand-in can be differentiated. Each costs operations whenever a
# gradient passes, whether it is needed or not, and by the pixels of an image none is.
MAX_COLUMNS = 256


def _always(_: int, __: Index) -> bool:
    return True


@dataclass(frozen=True)
class Known:
    """What is known of networks.

    Attributes:
        derivative: Gives one ``[N, outputs]`` from the number of the call, its axes, which number
            the columns of all inputs, and the inputs.
        needed: Whether derivatives of that derivative may matter. Gradients by points that are one
            tensor pass all of its columns, so that there are d times as many with every order; of
            one that is not needed the slopes by all columns are the same.
    """

    derivative: Callable[[int, Index, Sequence[Tensor]], Tensor]
    needed: Callable[[int, Index], bool] = _always


@dataclass
class Calls:
    """What a loss asks of networks.

    Attributes:
        networks: Name of the network of every call.
        points: The inputs ``[N, d]`` of every call.
        asked: The derivatives that were asked for, with the number of the call.
        given: What was given, in the same order.
        unknown: What stands for derivatives by too many columns.
    """

    networks: list[str] = field(default_factory=list)
    points: list[list[Tensor]] = field(default_factory=list)
    asked: list[tuple[int, Index]] = field(default_factory=list)
    given: list[Tensor] = field(default_factory=list)
    unknown: list[Tensor] = field(default_factory=list)


def below(indices: Collection[Index]) -> set[Index]:
    """The derivatives of which one of these is a derivative.

    Example:
        >>> sorted(below([(0, 1), (1,)]))
        [(), (0,), (1,)]
    """
    found: set[Index] = set()
    for index in indices:
        found.update(part for n in range(len(index)) for part in combinations(index, n))
    return found


def view_of_stand_ins(model: Any, known: Known) -> tuple[View, Calls]:
    """What a loss term sees of stand-ins for all networks, and what it will have asked of them.

    Args:
        model: The resolved problem's model.
        known: What is known of them.
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
            known: What is known of it.
            calls: Where to note.
        """
        self._name = name
        self._model = model
        self._inputs = Inputs.of(model)
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
        try:
            parts = self._inputs.unpack(inputs)
        except ValueError as error:
            raise NotLayeredError(f"calls the network with {error}") from error
        return self.evaluate(parts)(())

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)

    def evaluate(self, parts: Sequence[Tensor]) -> Derivatives:
        """The known derivatives at inputs.

        Raises:
            NotLayeredError: If an input is no matrix of known size.
        """
        parts = [tf.cast(part, dtype_of(self._model)) for part in parts]
        for part in parts:
            if part.shape.rank != 2 or not part.shape.is_fully_defined():
                raise NotLayeredError(f"calls the network at points of shape {part.shape}")
        if len({part.shape[0] for part in parts}) > 1:
            shapes = ", ".join(str(part.shape) for part in parts)
            raise NotLayeredError(f"calls the network with inputs of different lengths: {shapes}")
        call = len(self._calls.points)
        self._calls.networks.append(self._name)
        self._calls.points.append(parts)
        return lambda index: self._wrap(call, parts, index)

    def _wrap(self, call: int, parts: Sequence[Tensor], index: Index) -> Tensor:
        value = self._known.derivative(call, index, parts)
        self._calls.asked.append((call, index))
        self._calls.given.append(value)
        needed = self._known.needed(call, index)
        edges = list(pairwise(accumulate((part.shape[1] for part in parts), initial=0)))

        @tf.custom_gradient  # type: ignore[untyped-decorator]
        def known(value: Tensor, *parts: Tensor) -> tuple[Tensor, Any]:
            def slope(axis: int, cotangent: Tensor) -> Tensor:
                next_one = self._wrap(call, parts, tuple(sorted((*index, axis))))
                return tf.reduce_sum(cotangent * next_one, axis=1, keepdims=True)

            def slopes(part: Tensor, edge: tuple[int, int], cotangent: Tensor) -> Tensor:
                if edge[1] - edge[0] > MAX_COLUMNS:
                    self._calls.unknown.append(tf.fill(part.shape, nan))
                    return self._calls.unknown[-1]
                if not needed:
                    return tf.repeat(slope(edge[0], cotangent), edge[1] - edge[0], axis=1)
                return tf.concat([slope(axis, cotangent) for axis in range(*edge)], axis=1)

            nan = tf.constant(math.nan, value.dtype)

            def pull_back(cotangent: Tensor) -> tuple[Tensor, ...]:
                cotangent = tf.convert_to_tensor(cotangent)
                # Each input by itself: no loss then seems to need the slopes by another one.
                pairs = zip(parts, edges, strict=True)
                return cotangent, *[slopes(part, edge, cotangent) for part, edge in pairs]

            return tf.identity(value), pull_back

        return known(value, *parts)
