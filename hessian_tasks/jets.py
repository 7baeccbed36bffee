"""Jets: the network and its partial derivatives with respect to its inputs.

A residual asks its jet for what it needs, ``u.value``, ``u.d("xx")``,
``u[1].d("t")``, ``u.at(x + period).value``, and the jet computes just that, each
derivative once. So the derivatives that a residual uses are found by running it, never
declared.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import tensorflow as tf

from hessian_tasks.errors import ProblemError

__all__ = [
    "Derivative",
    "Derivatives",
    "Evaluate",
    "Index",
    "Jet",
    "Tensor",
    "evaluate_by",
    "forward_derivative",
    "reverse_derivative",
]

Tensor: TypeAlias = Any

Index: TypeAlias = tuple[int, ...]
"""A partial derivative by its axes, sorted: ``()`` is the value, ``(0, 0)`` is u_xx."""

Derivative: TypeAlias = Callable[[Tensor, Tensor, int], Tensor]
"""Differentiates ``[N, C]`` along one coordinate of the points ``[N, d]``."""

Derivatives: TypeAlias = Callable[[Index], Tensor]
"""The derivatives of a network at some points, ``[N, outputs]`` each."""

Evaluate: TypeAlias = Callable[[Tensor], Derivatives]
"""Evaluates a network at points ``[N, d]``."""

# Each order has two to three times the operations of the one before: one hidden layer of tanh adds
# 2,500 with order 8, 6,100 with order 9 and 15,600 with order 10, whose graph alone takes a minute.
MAX_OPERATIONS = 5_000


def forward_derivative(y: Tensor, points: Tensor, axis: int) -> Tensor:
    """Differentiate every component of ``y`` along one coordinate, forwards.

    With ``w`` any cotangent, ``g(w) = wᵀ ∂y/∂x`` is linear in ``w``, and its
    derivative applied to a direction ``e`` is ``∂y/∂x · e``: two reverse passes
    make one forward pass (J. Townsend, 2017), and the graph optimiser drops what
    only ``w`` needed. Unlike ``tf.autodiff.ForwardAccumulator`` it can be nested
    under a gradient tape inside ``tf.function``.

    Args:
        y: Tensor ``[N, C]`` whose row n depends on row n of ``points`` alone.
        points: Tensor ``[N, d]``.
        axis: Which coordinate, in ``[0, d)``.

    Returns:
        ``∂y[n, c] / ∂points[n, axis]`` as a tensor ``[N, C]``.
    """
    cotangent = tf.ones_like(y)
    pulled = tf.gradients(y, points, grad_ys=cotangent)[0]
    if pulled is None:
        return tf.zeros_like(y)
    num_coordinates = points.shape[1]
    direction = tf.one_hot(axis, num_coordinates, dtype=points.dtype) * tf.ones_like(points)
    pushed = tf.gradients(pulled, cotangent, grad_ys=direction)[0]
    return tf.zeros_like(y) if pushed is None else pushed


def reverse_derivative(y: Tensor, points: Tensor, axis: int) -> Tensor:
    """The same as :func:`forward_derivative`, by one reverse pass a component.

    The slower second source that verification uses.
    """
    columns = []
    for component in tf.unstack(y, axis=1):
        pulled = tf.gradients(component, points)[0]
        columns.append(tf.zeros_like(component) if pulled is None else pulled[:, axis])
    return tf.stack(columns, axis=1)


def evaluate_by(
    network: Callable[[Tensor], Tensor], derivative: Derivative = forward_derivative
) -> Evaluate:
    """Evaluate a network, and differentiate it as far as it is asked.

    Args:
        network: Maps points ``[N, d]`` to outputs ``[N, outputs]``, point by point.
        derivative: How to differentiate along a coordinate.

    Returns:
        A function of points that gives their derivatives, each of them computed once.

    Raises:
        ProblemError: When it is evaluated, if the network does not return ``[N, outputs]``, or is
            differentiated further than can be computed forwards.
    """

    def evaluate(points: Tensor) -> Derivatives:
        points = tf.identity(points)
        value = network(points)
        _check_output(value, points)
        found: dict[Index, Tensor] = {(): value}
        added: dict[Index, int] = {(): 0}

        def derivatives(index: Index) -> Tensor:
            for order in range(len(index)):
                lower, taken = index[:order], index[: order + 1]
                if taken in found:
                    continue
                # What verification computes the slower way has passed here before.
                if derivative is forward_derivative:
                    _check_order(len(index), order, added[lower])
                before = len(points.graph.get_operations())
                found[taken] = derivative(found[lower], points, index[order])
                added[taken] = len(points.graph.get_operations()) - before
            return found[index]

        return derivatives

    return evaluate


def _check_order(asked: int, order: int, added: int) -> None:
    if added > MAX_OPERATIONS:
        raise ProblemError(
            f"A residual asks for a derivative of order {asked}, but order {order} is the highest "
            f"of this network that is supported: it takes {added:,} operations, and each further "
            "order two to three times as many. Give the network another output w, for which a "
            "further term says that it is a lower derivative, as w = u_xxxx, and differentiate "
            "that; or take an activation with short derivatives, as tf.sin."
        )


def _check_output(value: Any, points: Tensor) -> None:
    if isinstance(value, list | tuple | dict):
        raise ProblemError(
            f"The network returns {len(value)} outputs; expected one [N, outputs]. Put them side "
            "by side with keras.layers.Concatenate, and take them as u[0], u[1]; or write the term "
            "as a LossTerm, which calls the network itself."
        )
    if value.shape.rank != 2:
        raise ProblemError(
            f"The network returns shape {tuple(value.shape)} for points of shape "
            f"{tuple(points.shape)}; expected [N, outputs]."
        )


class Jet:
    """The network ``u`` and its partial derivatives at collocation points."""

    def __init__(
        self,
        evaluate: Evaluate,
        points: Tensor,
        coordinates: Sequence[str],
        outputs: slice = slice(None),
    ) -> None:
        """Evaluate the network.

        Args:
            evaluate: Evaluates it, see :func:`evaluate_by`.
            points: Collocation points ``[N, d]``.
            coordinates: Names of the ``d`` columns.
            outputs: Which of its outputs.
        """
        self._evaluate = evaluate
        self._derivatives = evaluate(points)
        self._num_points = points.shape[0]
        self._coordinates = tuple(coordinates)
        self._outputs = outputs

    @property
    def value(self) -> Tensor:
        """The outputs ``[N, outputs]`` (``[N, 1]`` for ``u[i]``)."""
        return self.d()

    def d(self, *names: str) -> Tensor:
        """A mixed partial derivative, ``[N, outputs]``.

        Of as high an order as takes at most some ten thousand operations of TensorFlow, since each
        has two to three times those of the one before: with tanh up to order 9 for one hidden
        layer, 6 for four and 5 for ten; with sin, whose derivatives are as short as itself, beyond
        12.

        Args:
            *names: Coordinates to differentiate along. One string of
                one-letter coordinates is read letter by letter: ``d("xxy")`` is
                ``d("x", "x", "y")``. The order does not matter.

        Raises:
            ProblemError: If a coordinate is unknown, or the order is too high.
        """
        if len(names) == 1 and names[0] not in self._coordinates:
            names = tuple(names[0])
        for name in names:
            if name not in self._coordinates:
                raise ProblemError(
                    f"The residual asks for the derivative {names} but {name!r} is not a "
                    f"coordinate; the coordinates are {list(self._coordinates)}."
                )
        index = tuple(sorted(self._coordinates.index(name) for name in names))
        return self._derivatives(index)[:, self._outputs]

    def at(self, points: Tensor) -> Jet:
        """The jet at other points, for a residual that compares several.

        A periodic condition is ``u.value - u.at(x + period).value``.

        Args:
            points: The n-th of them belongs to the n-th collocation point, ``[N, d]``.

        Raises:
            ProblemError: If they are not as many, or have other columns.
        """
        points = tf.convert_to_tensor(points)
        expected = (self._num_points, len(self._coordinates))
        if tuple(points.shape) != expected:
            raise ProblemError(
                f"The residual asks for the network at points of shape {tuple(points.shape)}; "
                f"expected {expected}, one for each collocation point."
            )
        return Jet(self._evaluate, points, self._coordinates, self._outputs)

    def __getitem__(self, output: int) -> Jet:
        """The jet of one output; its tensors have shape ``[N, 1]``.

        Raises:
            ProblemError: If the network has no such output.
        """
        num_outputs = self._derivatives(()).shape[1]
        if not -num_outputs <= output < num_outputs:
            raise ProblemError(
                f"The residual asks for output {output} of a network with {num_outputs}."
            )
        view = object.__new__(Jet)
        view.__dict__.update(self.__dict__)
        output %= num_outputs
        view._outputs = slice(output, output + 1)
        return view
