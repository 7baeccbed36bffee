"""Jets: the network and its partial derivatives with respect to its inputs.

A residual asks its jet for what it needs, ``u.value``, ``u.d("xx")``,
``u[1].d("t")``, ``u.at(x + period).value``, and the jet computes just that, each
derivative once. So the derivatives that a residual uses are found by running it, never
declared.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeAlias

import tensorflow as tf

from hessian_tasks.errors import ProblemError

__all__ = ["Jet", "Tensor", "forward_derivative", "reverse_derivative"]

Tensor: TypeAlias = Any
Derivative: TypeAlias = Callable[[Tensor, Tensor, int], Tensor]

MAX_ORDER = 4


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


class Jet:
    """The network ``u`` and its partial derivatives at collocation points.

    Attributes:
        value: The network's outputs, ``[N, outputs]`` (``[N, 1]`` for ``u[i]``).
        requested: The derivatives that were asked for so far, as sorted tuples of axes.
        elsewhere: The other points ``[N, d]`` that were asked for so far.
    """

    def __init__(
        self,
        network: Callable[[Tensor], Tensor],
        points: Tensor,
        coordinates: Sequence[str],
        derivative: Derivative = forward_derivative,
    ) -> None:
        """Evaluate the network.

        Args:
            network: Maps points ``[N, d]`` to outputs ``[N, outputs]``, point by point.
            points: Collocation points ``[N, d]``.
            coordinates: Names of the ``d`` columns.
            derivative: How to differentiate along a coordinate.

        Raises:
            ProblemError: If the network does not return ``[N, outputs]``.
        """
        self._points = tf.identity(points)
        self._coordinates = tuple(coordinates)
        self._derivative = derivative
        value = network(self._points)
        if value.shape.rank != 2:
            raise ProblemError(
                f"The network returns shape {tuple(value.shape)} for points of shape "
                f"{tuple(points.shape)}; expected [N, outputs]."
            )
        self._cache: dict[tuple[int, ...], Tensor] = {(): value}
        self._output: slice = slice(None)
        self._make: Callable[[Tensor], Jet] = lambda others: Jet(
            network, others, coordinates, derivative
        )
        self.requested: set[tuple[int, ...]] = set()
        self.elsewhere: list[Tensor] = []

    @classmethod
    def of(
        cls, known: Iterable[Mapping[tuple[int, ...], Tensor]], coordinates: Sequence[str]
    ) -> Jet:
        """The jet of known values.

        Args:
            known: All derivatives that will be asked for, by their axes: of the jet itself, then
                of each one that :meth:`at` will give.
            coordinates: Names of the columns of the points.
        """
        return cls._next(iter(known), coordinates)

    @classmethod
    def _next(
        cls, known: Iterator[Mapping[tuple[int, ...], Tensor]], coordinates: Sequence[str]
    ) -> Jet:
        jet = object.__new__(cls)
        jet._coordinates = tuple(coordinates)
        jet._cache = dict(next(known))
        jet._output = slice(None)
        jet._make = lambda _: cls._next(known, coordinates)
        jet.requested = set()
        jet.elsewhere = []
        return jet

    @property
    def value(self) -> Tensor:
        """The outputs ``[N, outputs]``."""
        return self.d()

    def d(self, *names: str) -> Tensor:
        """A mixed partial derivative, ``[N, outputs]``.

        Args:
            *names: Coordinates to differentiate along. One string of
                one-letter coordinates is read letter by letter: ``d("xxy")`` is
                ``d("x", "x", "y")``. The order does not matter.

        Raises:
            ProblemError: If a coordinate is unknown or the order is above 4.
        """
        if len(names) == 1 and names[0] not in self._coordinates:
            names = tuple(names[0])
        for name in names:
            if name not in self._coordinates:
                raise ProblemError(
                    f"The residual asks for the derivative {names} but {name!r} is not a "
                    f"coordinate; the coordinates are {list(self._coordinates)}."
                )
        if len(names) > MAX_ORDER:
            raise ProblemError(
                f"The residual asks for the derivative {names} of order {len(names)}; "
                f"derivatives up to order {MAX_ORDER} are supported."
            )
        index = tuple(sorted(self._coordinates.index(name) for name in names))
        self.requested.add(index)
        return self._derivative_of(index)[:, self._output]

    def at(self, points: Tensor) -> Jet:
        """The jet at other points, for a residual that compares several.

        A periodic condition is ``u.value - u.at(x + period).value``.

        Args:
            points: The n-th of them belongs to the n-th collocation point, ``[N, d]``.

        Raises:
            ProblemError: If they are not as many, or have other columns.
        """
        points = tf.convert_to_tensor(points)
        expected = (next(iter(self._cache.values())).shape[0], len(self._coordinates))
        if tuple(points.shape) != expected:
            raise ProblemError(
                f"The residual asks for the network at points of shape {tuple(points.shape)}; "
                f"expected {expected}, one for each collocation point."
            )
        jet = self._make(points)
        self.elsewhere.append(points)
        jet._output = self._output
        jet.requested, jet.elsewhere = self.requested, self.elsewhere
        return jet

    def _derivative_of(self, index: tuple[int, ...]) -> Tensor:
        if index not in self._cache:
            lower = self._derivative_of(index[:-1])
            self._cache[index] = self._derivative(lower, self._points, index[-1])
        return self._cache[index]

    def __getitem__(self, output: int) -> Jet:
        """The jet of one output; its tensors have shape ``[N, 1]``.

        Raises:
            ProblemError: If the network has no such output.
        """
        num_outputs = next(iter(self._cache.values())).shape[1]
        if not -num_outputs <= output < num_outputs:
            raise ProblemError(
                f"The residual asks for output {output} of a network with {num_outputs}."
            )
        view = object.__new__(Jet)
        view.__dict__.update(self.__dict__)
        output %= num_outputs
        view._output = slice(output, output + 1)
        return view
