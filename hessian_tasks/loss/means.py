"""Whether losses that are declared batched are means over their examples.

A function L of sets of examples is a mean if, for any set S of n examples and any part of it,

    n L(S) = m L(part) + (n - m) L(rest).

That is tried for threes, of which one is split off, where what a root, a maximum or a quotient of
sums makes of so few is far from their mean; and for whole batches, where examples that are rare are
among them. The examples of each are drawn from all over the data, which may be sorted.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from hessian_tasks.errors import ProblemError
from hessian_tasks.jets import Tensor
from hessian_tasks.loss.batches import batch_size, specs_of, term_arrays
from hessian_tasks.loss.terms import term_loss
from hessian_tasks.networks.models import dtype_of, get_theta, kept_weights, set_theta
from hessian_tasks.problem import LossTerm, Problem
from hessian_tasks.problem.terms import is_batched

__all__ = ["check_means"]

Rows: TypeAlias = npt.NDArray[np.intp]
Floats: TypeAlias = npt.NDArray[np.float64]

# Relative to the largest loss of a set. In float32, derivatives of order 4 are known to four digits
# or less, and a root of three losses that differ by a tenth is off by some 1e-3.
TOLERANCES = {"float64": 1e-9, "float32": 1e-3}
# How far the weights are moved, relative to their size: trained ones may have made every loss so
# small that it is rounding.
MOVES = (0.1, 0.3)
NUM_THREES, NUM_BATCHES = 64, 16


def check_means(problem: Problem) -> None:
    """Refuse a batched term whose loss is no mean over its examples.

    Args:
        problem: The problem, its model resolved to a Keras model. Its weights are moved, and put
            back.

    Raises:
        ProblemError: Naming the term.

    Example:
        >>> from hessian_tasks.problems.networks import mlp
        >>> def loss(model, x):
        ...     return tf.reduce_sum(model(x) ** 2)
        >>> fit = LossTerm("fit", loss, data={"x": [[0.0], [1.0], [2.0]]}, batched=True)
        >>> check_means(Problem(mlp(1, width=2, depth=1), [fit]))
        Traceback (most recent call last):
            ...
        hessian_tasks.errors.ProblemError: Term 'fit' is declared batched, but its loss is no mean \
over its examples: ...
    """
    for term in problem.terms:
        if is_batched(term) and term.num_examples > 1:
            with kept_weights(problem.model):
                _check_term(problem, term)


def _check_term(problem: Problem, term: LossTerm) -> None:
    theta, rng = get_theta(problem.model), np.random.default_rng(3)
    size = float(np.sqrt(np.mean(np.square(theta)))) or 1.0
    sets = _draw(rng, term, 3, NUM_THREES)
    sets += _draw(rng, term, max(3, batch_size(problem, term)), NUM_BATCHES)
    losses = _Losses(problem, term)
    for move in MOVES:
        moved = theta + move * size * rng.normal(size=theta.shape)
        set_theta(problem.model, moved.astype(theta.dtype))
        _compare(losses, sets, TOLERANCES[dtype_of(problem.model)])


def _draw(rng: np.random.Generator, term: LossTerm, size: int, most: int) -> list[Rows]:
    """Sets of examples, that have all of them if these are not too many."""
    size = min(size, term.num_examples)
    order = rng.permutation(term.num_examples)
    starts = {min(start, len(order) - size) for start in range(0, len(order), size)}
    return [order[start : start + size] for start in sorted(starts)[:most]]


class _Losses:
    """The losses of sets of examples; of each size of them the loss is compiled once."""

    def __init__(self, problem: Problem, term: LossTerm) -> None:
        self.term = term
        self._problem = problem
        self._compiled: dict[int, Any] = {}

    def __call__(self, rows: Rows) -> float:
        """``n L``, up to a factor that all sets share."""
        arrays = term_arrays(self._problem, self.term, rows)
        if len(rows) not in self._compiled:
            function = tf.function(self._loss, autograph=False)
            self._compiled[len(rows)] = function.get_concrete_function(specs_of(arrays))
        return float(self._compiled[len(rows)](arrays).numpy())

    def _loss(self, arrays: dict[str, Tensor]) -> Tensor:
        return term_loss(self._problem, self.term, arrays=arrays)


def _compare(losses: _Losses, sets: list[Rows], tolerance: float) -> None:
    for size in {len(rows) for rows in sets}:
        head = max(1, size // 3)
        same = [rows for rows in sets if len(rows) == size]
        wholes = np.array([losses(rows) for rows in same])
        parts = np.array([losses(rows[:head]) + losses(rows[head:]) for rows in same])
        finite = np.isfinite(wholes)
        scale = np.abs(wholes[finite]).max(initial=0)
        # What is not finite is no reason: other weights than these are asked for.
        wrong = finite & ~(np.abs(parts - wholes) <= tolerance * scale)
        if wrong.any():
            term, worst = losses.term, int(np.argmax(wrong))
            whole, mean = (v[worst] * term.num_examples / size for v in (wholes, parts))
            raise ProblemError(
                f"Term {term.name!r} is declared batched, but its loss is no mean over its "
                f"examples: of {size} of them, at weights near θ, it is {whole:.6g}, and of "
                f"{head} and {size - head} of these on average {mean:.6g}. Take the mean over the "
                "first axis of the data alone, without sums, roots, maxima or normalisation over "
                "examples, or leave batched out."
            )
