"""Second sources of what the package computes, each by another road."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from hessian_tasks.jets import reverse_derivative
from hessian_tasks.loss import View, compile_losses_and_gradient, seen_loss
from hessian_tasks.networks.inputs import Inputs, evaluate_inputs
from hessian_tasks.networks.models import get_theta, set_theta, trainable_variables
from hessian_tasks.networks.trainables import networks_of, parameters_of
from hessian_tasks.problem import Problem

__all__ = [
    "FiniteDifferenceJet",
    "dense_hessian",
    "dense_jacobian",
    "finite_difference_hessian",
    "gradient_function",
    "linearised_hessian",
]

Array = npt.NDArray[Any]
Tensor = Any

# Steps of FiniteDifferenceJet by order m of the derivative. The stencils err by O(h⁸) and
# rounding by ε/hᵐ: 1e-13 for m = 1, 1e-10 for m = 2, and about 1e-9 for m = 3 and 4.
STEPS = {1: 1e-3, 2: 1e-3, 3: 1e-2, 4: 3e-2}


def gradient_function(problem: Problem) -> Callable[[Array], Array]:
    """∇L as a function of θ, compiled once; θ is left as it was found."""
    model = problem.model
    evaluate = compile_losses_and_gradient(problem)

    def at(theta: Array) -> Array:
        before = get_theta(model)
        set_theta(model, theta)
        result = evaluate()[1].numpy()
        set_theta(model, before)
        return np.asarray(result)

    return at


def dense_hessian(variables: list[Any], loss: Callable[[], Tensor]) -> Array:
    """Of a loss, by plain tapes."""
    zero = tf.UnconnectedGradients.ZERO

    def rows() -> Tensor:
        with tf.GradientTape(persistent=True) as tape:
            with tf.GradientTape() as inner:
                value = loss()
            slopes = inner.gradient(value, variables, unconnected_gradients=zero)
            flat = tf.concat([tf.reshape(slope, [-1]) for slope in slopes], axis=0)

        def row(unit: Tensor) -> Tensor:
            found = tape.gradient(
                flat, variables, output_gradients=unit, unconnected_gradients=zero
            )
            return tf.concat([tf.reshape(part, [-1]) for part in found], axis=0)

        return tf.map_fn(row, tf.eye(flat.shape[0], dtype=tf.float64))

    return np.asarray(tf.function(rows, autograph=False)().numpy())


def dense_jacobian(problem: Problem, values: Callable[[], Tensor]) -> tuple[Array, Array]:
    """Values ``[N, C]`` and their derivatives ``[N, C, P]``, a reverse pass each."""
    variables = trainable_variables(problem.model)

    def compute() -> tuple[Tensor, Tensor]:
        with tf.GradientTape() as tape:
            found = values()
        zero = tf.UnconnectedGradients.ZERO
        parts = tape.jacobian(
            found, variables, unconnected_gradients=zero, experimental_use_pfor=False
        )
        return found, tf.concat([tf.reshape(part, (*found.shape, -1)) for part in parts], axis=2)

    found, derivatives = tf.function(compute, autograph=False).get_concrete_function()()
    return found.numpy(), derivatives.numpy()


class _Linearised:
    """A network around θ, ``f(x; θ) + ∂f/∂θ δ``, whose weights are read as θ + δ."""

    def __init__(self, network: Any, steps: Sequence[tuple[Any, Any]]) -> None:
        self._network = network
        own = {id(weight.value) for weight in network.trainable_weights}
        self._steps = [(weight, step) for weight, step in steps if id(weight) in own]

    @property
    def trainable_weights(self) -> list[Any]:
        return [SimpleNamespace(value=weight + step) for weight, step in self._steps]

    def __call__(self, given: Any, **options: Any) -> Tensor:
        weights, steps = ([pair[i] for pair in self._steps] for i in range(2))
        zero = tf.UnconnectedGradients.ZERO
        # As ∂f/∂θᵀ c is linear in c, two reverse passes are a forward one.
        with tf.GradientTape() as outer:
            with tf.GradientTape() as inner:
                value = self._network(given, **options)
            c = tf.ones_like(value)
            outer.watch(c)
            pulled = inner.gradient(value, weights, c, unconnected_gradients=zero)
        if not steps:
            return value
        return value + outer.gradient(pulled, c, steps, unconnected_gradients=zero)


def linearised_hessian(problem: Problem) -> Array:
    """The Gauss-Newton matrix of a density or loss term by its definition, with plain tapes.

    It is the Hessian by δ of the loss of networks ``f(x; θ) + ∂f/∂θ δ``, and by what the loss reads
    itself.
    """
    (term,) = problem.terms
    networks = networks_of(problem.model)
    parameters = {id(variable) for variable in parameters_of(problem.model).values()}
    weights = trainable_variables(problem.model)
    moved = [w if id(w) in parameters else tf.Variable(tf.zeros_like(w)) for w in weights]
    steps = list(zip(weights, moved, strict=True))
    linearised = {name: _Linearised(network, steps) for name, network in networks.items()}
    evaluates = {
        name: evaluate_inputs(linearised[name], Inputs.of(network), reverse_derivative)
        for name, network in networks.items()
    }
    view = View(linearised, evaluates)
    return dense_hessian(moved, lambda: seen_loss(problem, term, view))


def finite_difference_hessian(problem: Problem, step: float) -> Array:
    """H at the current θ by central differences of the gradient, error O(step⁴)."""
    at, theta = gradient_function(problem), get_theta(problem.model)
    offsets, weights = (-2, -1, 1, 2), _stencil(1, 2)[[0, 1, 3, 4]]
    columns = [
        sum(w * at(theta + k * step * e) for k, w in zip(offsets, weights, strict=True))
        for e in np.eye(len(theta))
    ]
    return np.stack(columns, axis=1) / step


class FiniteDifferenceJet:
    """A known function in the place of a network's :class:`~hessian_tasks.jets.Jet`."""

    def __init__(
        self, function: Callable[[Array], Array], points: Array, coordinates: Sequence[str]
    ) -> None:
        self._function = function
        self._points = points
        self._coordinates = tuple(coordinates)
        self._outputs: slice = slice(None)
        self.magnitudes: list[float] = []

    @property
    def value(self) -> Any:
        return self.d()

    def d(self, names: str = "") -> Any:
        """A partial derivative; its largest magnitude is noted for the tolerance."""
        orders = [names.count(name) for name in self._coordinates]
        step = STEPS.get(len(names), 1.0)
        # Four points beyond what the order needs give error O(h⁸) for each coordinate.
        sides = [(order + 7) // 2 if order else 0 for order in orders]
        stencils = [_stencil(order, side) for order, side in zip(orders, sides, strict=True)]
        total: Any = 0.0
        for index in itertools.product(*(range(len(stencil)) for stencil in stencils)):
            weight = np.prod([stencil[i] for stencil, i in zip(stencils, index, strict=True)])
            if weight:
                shift = step * (np.array(index) - sides)
                total = total + weight * self._function(self._points + shift)
        derivative = (total / step ** len(names))[:, self._outputs]
        self.magnitudes.append(float(np.abs(derivative).max()))
        return tf.constant(derivative, tf.float64)

    def at(self, points: tf.Tensor) -> FiniteDifferenceJet:
        """The function at other points."""
        view = FiniteDifferenceJet(self._function, points.numpy(), self._coordinates)
        view._outputs, view.magnitudes = self._outputs, self.magnitudes
        return view

    def __getitem__(self, output: int) -> FiniteDifferenceJet:
        view = FiniteDifferenceJet(self._function, self._points, self._coordinates)
        view._outputs = slice(output, output + 1)
        view.magnitudes = self.magnitudes
        return view


@functools.cache
def _stencil(order: int, side: int) -> Array:
    """Weights of the central difference on -side..side: exact on all its monomials."""
    offsets = np.arange(-side, side + 1.0)
    moments = np.zeros(len(offsets))
    moments[order] = float(np.prod(np.arange(1, order + 1)))
    weights = np.linalg.solve(np.vander(offsets, increasing=True).T, moments)
    # Central stencils are even or odd; what breaks this is rounding of the solution.
    return np.asarray((weights + (-1) ** order * weights[::-1]) / 2)
