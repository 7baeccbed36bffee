"""The Gauss-Newton matrix of any loss: the networks linearised, and the loss kept.

A loss that is a function ℓ(u, θ) of the networks' jets u at fixed points, and of weights that it
reads itself, has with y = (u(θ), θ) the generalised Gauss-Newton matrix

    G = (∂y/∂θ)ᵀ ℓ_yy (∂y/∂θ),

which is its Hessian without ``Σ ℓ_u ∂²u/∂θ²`` (N. Schraudolph, 2002): of the cross-entropy of a
softmax the Fisher matrix, of a mean of squares 2/(N C) JᵀJ where the residual is linear in the
jets. Here G is multiplied with vectors by automatic differentiation alone, for any network: the
jets are pushed forward, ℓ_yy is applied by two reverse passes through the loss, and the result is
pulled back. The loss is given the networks' derivatives by a stand-in, as when it is read; nothing
else is shared with the computation by layers.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import accumulate, pairwise
from typing import Any

import numpy.typing as npt
import tensorflow as tf

from hessian_tasks.autodiff.engine import apply_compiled, pull_back
from hessian_tasks.autodiff.linearised import Linearisation, linearise
from hessian_tasks.errors import NotLayeredError
from hessian_tasks.jets import (
    Derivative,
    Derivatives,
    Index,
    Tensor,
    forward_derivative,
    reverse_derivative,
)
from hessian_tasks.loss.batches import Part, sample
from hessian_tasks.loss.gradient import flatten
from hessian_tasks.loss.terms import View, seen_loss
from hessian_tasks.networks.inputs import Inputs, evaluate_inputs
from hessian_tasks.networks.models import dtype_of, trainable_variables
from hessian_tasks.networks.trainables import networks_of
from hessian_tasks.problem import Problem, ResidualTerm, Term
from hessian_tasks.problem.terms import is_batched
from hessian_tasks.reading import Known, Reading, below, functions_inlined, view_of_stand_ins

__all__ = ["KeptLoss", "compile_gauss_newton_product", "find_kinds", "gauss_newton_vector_product"]

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Kinds:
    """Which Gauss-Newton matrix the terms of a problem have.

    Residual terms have that of their residuals, whatever these depend on.

    Attributes:
        convex: Of the terms whose loss is kept, whether ℓ'' is positive semidefinite at all points;
            of batched ones at a batch of examples from all over the data.
        left_out: The terms that have none, and why.
    """

    convex: dict[str, bool]
    left_out: dict[str, str]


def find_kinds(readings: Sequence[Reading]) -> Kinds:
    """Find out which Gauss-Newton matrix each term has.

    A loss that is not given by residuals has one if it is a function of jets at fixed points and
    adds up over these; a batched one if it is that of some of its examples.

    Args:
        readings: The terms.

    Example:
        >>> from hessian_tasks import DensityTerm, LossTerm
        >>> from hessian_tasks.problems.networks import mlp
        >>> from hessian_tasks.reading import read_terms
        >>> X = tf.constant([[1.0], [2.0]])
        >>> squared = LossTerm("squared", lambda model: tf.reduce_mean(model(X)) ** 2)
        >>> energy = DensityTerm("energy", X.numpy(), lambda x, u: u.d("x") ** 2)
        >>> problem = Problem(mlp(1, width=2, depth=1), [squared, energy], "x")
        >>> find_kinds(read_terms(problem))
        Kinds(convex={'energy': True}, left_out={'squared': 'couples its points'})
    """
    kinds = Kinds({}, {})
    for reading in readings:
        name = reading.term.name
        if is_batched(reading.term):
            reading = Reading(reading.problem, sample(reading.problem, reading.term))
        if not isinstance(reading.term, ResidualTerm):
            try:
                kinds.convex[name] = reading.is_convex
            except NotLayeredError as error:
                kinds.left_out[name] = str(error)
    return kinds


def gauss_newton_vector_product(
    problem: Problem, vectors: Array, terms: Collection[str] | None = None
) -> Array:
    """``G v`` for the sum of terms; see :func:`compile_gauss_newton_product`.

    Args:
        problem: The problem, its model resolved to a Keras model.
        vectors: One vector a row, ``[K, P]``.
        terms: Names of the terms, all by default.

    Returns:
        The products, one a row, ``[K, P]`` in the model's dtype.
    """
    return compile_gauss_newton_product(problem, terms)(vectors)


def compile_gauss_newton_product(
    problem: Problem, terms: Collection[str] | None = None
) -> Callable[[Array], Array]:
    """Compile ``G v``, by a path that shares nothing with the computation by layers.

    Of residuals it is ``J v``, pulled back. Jets are differentiated by nested reverse passes.

    Args:
        problem: The problem, its model resolved to a Keras model.
        terms: Names of the terms, all by default; each has to have a Gauss-Newton matrix.

    Returns:
        A function of vectors ``[K, P]``, one a row, that gives their products likewise, in the
        model's dtype.
    """
    chosen = [term for term in problem.terms if terms is None or term.name in terms]

    def product(part: Part, vector: Tensor) -> Tensor:
        return tf.add_n([_multiply(problem, term, part, vector) for term in part.terms])

    return apply_compiled(problem, chosen, product)


def _multiply(problem: Problem, term: Term, part: Part, vector: Tensor) -> Tensor:
    if isinstance(term, ResidualTerm):
        around = linearise(problem, term)
        image = around.push(vector)
        count = tf.cast(tf.size(image), image.dtype)
        return around.pull(2 * term.weight / count * image)
    variables = trainable_variables(problem.model)
    loss = partial(seen_loss, problem, term, arrays=part.arrays)
    return KeptLoss(problem, loss, variables, reverse_derivative).product(vector)


class KeptLoss:
    """A loss around θ with the networks linearised. Use it inside ``tf.function``.

    Attributes:
        size: Number of parameters that the matrix is taken with respect to.
    """

    def __init__(
        self,
        problem: Problem,
        loss: Callable[[View], Tensor],
        variables: list[Tensor],
        derivative: Derivative = forward_derivative,
    ) -> None:
        """Build the graph of the jets, of the loss as a function of them, and of its slopes.

        Args:
            problem: The problem, its model resolved to a Keras model.
            loss: The loss of what stands for the networks.
            variables: The variables of the networks that are not constants.
            derivative: How jets are differentiated.
        """
        self._model = problem.model
        self._loss = loss
        self._derivative = derivative
        self._shapes: dict[tuple[int, Index], tuple[int, int]] = {}
        self._around = Linearisation(self._jets, variables)
        self.size = self._around.size
        jets = tf.stop_gradient(self._around.value)
        self._arguments = [jets, *variables]
        zero = tf.UnconnectedGradients.ZERO
        with tf.GradientTape(persistent=True) as self._outer:
            self._outer.watch(jets)
            with tf.GradientTape() as inner:
                inner.watch(jets)
                value = self._evaluate(self._known(jets))
            slopes = inner.gradient(value, self._arguments, unconnected_gradients=zero)
            self._slopes = flatten(slopes)

    def product(self, vector: Tensor) -> Tensor:
        """``G v`` ``[P]``."""
        tangent = tf.concat([self._around.push(vector), vector], axis=0)
        bent = pull_back(self._outer, self._slopes, self._arguments, tangent)
        count = tf.size(self._arguments[0])
        return self._around.pull(bent[:count]) + bent[count:]

    def _evaluate(self, view: View) -> Tensor:
        with functions_inlined():
            return self._loss(view)

    def _jets(self) -> Tensor:
        """What the loss asks of the networks, ``[M]``."""
        networks = networks_of(self._model)
        inputs = {name: Inputs.of(network) for name, network in networks.items()}
        evaluated: dict[int, Derivatives] = {}

        def true(call: int, index: Index, parts: Sequence[Tensor]) -> Tensor:
            if call not in evaluated:
                name = calls.networks[call]
                evaluate = evaluate_inputs(networks[name], inputs[name], self._derivative)
                evaluated[call] = evaluate(parts)
            # The stand-in differentiates them itself: they would count twice.
            return tf.stop_gradient(evaluated[call](index))

        view, calls = view_of_stand_ins(self._model, Known(true))
        self._evaluate(view)
        jets = {(call, index): evaluated[call](index) for call, index in calls.asked}
        self._shapes = {place: tuple(jet.shape) for place, jet in jets.items()}
        return flatten(list(jets.values())) if jets else tf.zeros([0], dtype_of(self._model))

    def _known(self, jets: Tensor) -> View:
        """The networks with these jets, and with zeros for derivatives that do not matter."""
        edges = accumulate(map(math.prod, self._shapes.values()), initial=0)
        parts = {p: jets[a:b] for p, (a, b) in zip(self._shapes, pairwise(edges), strict=True)}
        shapes = {call: shape for (call, _), shape in self._shapes.items()}

        def known(call: int, index: Index, _: Sequence[Tensor]) -> Tensor:
            if (call, index) in parts:
                return tf.reshape(parts[call, index], shapes[call])
            return tf.zeros(shapes[call], jets.dtype)

        inner = {call: below([i for c, i in parts if c == call]) for call in shapes}
        needed = Known(known, lambda call, index: index in inner[call])
        return view_of_stand_ins(self._model, needed)[0]
