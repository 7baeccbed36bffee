"""Whether a term is what it was read as: what a stand-in hides shows in the loss itself."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from hessian_tasks.errors import NotLayeredError
from hessian_tasks.jets import Tensor, evaluate_by, reverse_derivative
from hessian_tasks.loss.graphs import forget_gradients
from hessian_tasks.loss.terms import seen_loss, term_loss
from hessian_tasks.networks.joint import Joint
from hessian_tasks.networks.models import dtype_of, get_theta, set_theta
from hessian_tasks.problem import Problem, Term
from hessian_tasks.reading._arguments import view_of_jets
from hessian_tasks.reading._evaluations import Dependence, Evaluation, functions_inlined

__all__ = ["check_own_points", "compile_jets"]

Floats: TypeAlias = npt.NDArray[Any]

# Relative errors of a loss. In float32, derivatives of order 4 are known to four digits.
TOLERANCES = {"float64": 1e-9, "float32": 1e-2}
# How far the weights are moved, relative to their size.
MOVES = (0.1, 0.03, 0.3)


def compile_jets(
    problem: Problem, term: Term, dependence: Dependence
) -> Callable[[], list[Floats]]:
    """Compile the jets that a term is a function of, once it is clear that it is one.

    The loss as a function of the networks' jets is held against the loss itself. They differ where
    the term's code does what a stand-in for the network cannot know: it may differentiate the
    network by its weights, or forwards, and take what is missing for zero. They are compared at
    weights near θ, where no training has made a loss so small that it is rounding; the weights are
    put back.

    Args:
        problem: The problem, its model resolved to a Keras model.
        term: The term.
        dependence: What it was found to depend on.

    Returns:
        A function that gives the jets of every evaluation ``[N, R, outputs]`` at the weights that
        the networks have then, in the model's dtype, differentiated plainly.

    Raises:
        NotLayeredError: If they differ.
    """
    joint, dtype = Joint(problem), dtype_of(problem.model)
    # A term of weight 0 is compared as well.
    term = replace(term, weight=1.0)

    def both() -> list[Tensor]:
        jets = [_jets(joint, evaluation) for evaluation in dependence.evaluations]
        view = view_of_jets(problem, dependence, jets, tf.zeros((), dtype))
        plain = term_loss(problem, term, reverse_derivative)
        return [plain, seen_loss(problem, term, view), *jets]

    with functions_inlined():
        compiled = forget_gradients(tf.function(both, autograph=False).get_concrete_function())
    agreed = []
    for loss, seen in _at_other_weights(problem.model, compiled):
        if np.isfinite(loss):
            agreed.append(abs(loss - seen) <= TOLERANCES[dtype] * abs(loss))
    # One of them may be small where parts of it cancel.
    if 2 * sum(agreed) < len(agreed):
        raise NotLayeredError("is no function of the network's jets alone")
    return lambda: [tensor.numpy() for tensor in compiled()[2:]]


def _jets(joint: Joint, evaluation: Evaluation) -> Tensor:
    """The derivatives that an evaluation asks for ``[N, R, outputs]``, differentiated plainly."""
    derivatives = evaluate_by(joint, reverse_derivative)(tf.constant(evaluation.points))
    # One more, so that there are some, and their shape is known.
    found = tf.stack([derivatives(index) for index in ((), *evaluation.indices)], axis=1)
    # Numbers, as the stand-in's are.
    return tf.stop_gradient(found[:, 1:])


def _at_other_weights(
    model: Any, function: Callable[[], Sequence[Tensor]]
) -> list[tuple[float, float]]:
    theta = get_theta(model)
    rng = np.random.default_rng(5)
    size = float(np.sqrt(np.mean(np.square(theta)))) or 1.0
    found = []
    try:
        for move in MOVES:
            moved = theta + move * size * rng.normal(size=theta.shape)
            set_theta(model, moved.astype(theta.dtype))
            first, second, *_ = function()
            found.append((float(first.numpy()), float(second.numpy())))
    finally:
        set_theta(model, theta)
    return found


def check_own_points(
    slopes: Sequence[Floats], scale: Callable[[Floats], Sequence[Floats]], tolerance: float
) -> None:
    """Refuse residuals that are those of other points, which no loss tells: points in reverse.

    Args:
        slopes: Derivatives ``∂Σ_n r_n/∂u`` by the jets of all points ``[N, R, outputs]``.
        scale: Gives those of ``Σ_n c_n r_n`` from factors c ``[N]``.
        tolerance: Relative to the largest of them.

    Raises:
        NotLayeredError: If these are others than the slopes times the factors.
    """
    if not slopes:
        return
    factors = np.random.default_rng(7).uniform(1.0, 2.0, len(slopes[0]))
    for slope, scaled in zip(slopes, scale(factors), strict=True):
        moved = np.abs(scaled - factors[:, np.newaxis, np.newaxis] * slope).max(initial=0)
        if not moved <= tolerance * np.abs(slope).max(initial=0):
            raise NotLayeredError("has residuals that depend on other points than their own")
