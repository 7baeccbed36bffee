"""Training: bring a problem's network to a minimum whose Hessian is worth having.

Adam finds the valley, L-BFGS its floor: the usual pair for PINNs. Both see the full
loss, the very one whose Hessian is computed, at all points at once.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
import numpy.typing as npt
import scipy.optimize
import tensorflow as tf

from hessian_tasks.errors import ProblemError
from hessian_tasks.loss import compile_losses_and_gradient
from hessian_tasks.loss.means import check_means
from hessian_tasks.loss.regularization import with_regularization
from hessian_tasks.networks.feed import outputs_at
from hessian_tasks.networks.models import (
    dtype_of,
    get_theta,
    set_theta,
    trainable_variables,
)
from hessian_tasks.networks.trainables import resolve
from hessian_tasks.problem import Problem, ResidualTerm
from pipeline.analysis.lbfgs import LbfgsHistory

__all__ = ["train"]

OnStep = Callable[[str, int, float], None]
Observe = Callable[[Problem, str, int], None]
Array = npt.NDArray[Any]
MEMORY = 50
"""Number of pairs that L-BFGS keeps."""


@dataclass(frozen=True)
class TrainResult:
    """What training reached.

    Attributes:
        problem: The problem, its model resolved and trained, with the regularisers as a term.
        loss: Total loss at the end.
        losses: Weighted loss of every term at the end; they add up to ``loss``.
        error: Relative L2 error of the network at the points of the first residual
            term, or None without an exact solution or such a term.
        seconds: Wall-clock time, compilation included.
        history: The pairs that L-BFGS held at the end, or None if it made no step.
    """

    problem: Problem
    loss: float
    losses: dict[str, float]
    error: float | None
    seconds: float
    history: LbfgsHistory | None


def train(
    problem: Problem,
    *,
    adam_steps: int = 5000,
    lbfgs_steps: int = 1000,
    learning_rate: float = 1e-3,
    seed: int = 0,
    on_step: OnStep | None = None,
    observe: Observe | None = None,
) -> TrainResult:
    """Train the problem's network in place: Adam first, then L-BFGS.

    Args:
        problem: The problem. A model factory is called after seeding.
        adam_steps: Number of steps of Adam.
        lbfgs_steps: Largest number of iterations of L-BFGS, which may stop before.
        learning_rate: Step size of Adam.
        seed: Seed of Python, NumPy and TensorFlow, through Keras.
        on_step: Called as ``on_step(phase, step, loss)`` for each step, counted from
            1, with phase ``"adam"`` or ``"lbfgs"``. Adam's loss is the one before
            the step.
        observe: Called as ``observe(problem, phase, step)`` before the first step, as 0 of phase
            ``"start"``, and after each, counted over both phases, with the resolved problem at the
            weights of that step, which it must leave as they are.

    Raises:
        ProblemError: If the loss or its gradient becomes NaN or infinite, naming
            the step; or if a term is declared batched and is no mean over its examples.
        ModelError: If the network cannot be used.

    Example:
        >>> from pipeline import load_problem
        >>> small = load_problem("regression", width=4, depth=1, num_samples=10)
        >>> seen = []
        >>> def note(phase, step, loss):
        ...     seen.append(loss)
        >>> found = train(small, adam_steps=3, lbfgs_steps=5, on_step=note)
        >>> found.loss < seen[0], list(found.losses)
        (True, ['fit'])
    """
    begin = time.perf_counter()
    keras.utils.set_random_seed(seed)
    problem = with_regularization(resolve(problem))
    check_means(problem)
    done = 0

    def report(phase: str, step: int, loss: float) -> None:
        nonlocal done
        done += 1
        if on_step is not None:
            on_step(phase, step, loss)
        if observe is not None:
            observe(problem, phase, done)

    if observe is not None:
        observe(problem, "start", 0)
    evaluate = compile_losses_and_gradient(problem)
    if adam_steps > 0:
        _run_adam(problem, evaluate, adam_steps, learning_rate, report)
    history = None
    if lbfgs_steps > 0:
        history = _run_lbfgs(problem, evaluate, lbfgs_steps, report)
    values = evaluate()[0].numpy().astype(float)
    return TrainResult(
        problem=problem,
        loss=float(values.sum()),
        losses={t.name: float(v) for t, v in zip(problem.terms, values, strict=True)},
        error=_relative_error(problem),
        seconds=time.perf_counter() - begin,
        history=history,
    )


def _run_adam(
    problem: Problem, evaluate: Any, num_steps: int, learning_rate: float, report: OnStep
) -> None:
    variables = trainable_variables(problem.model)
    sizes = [int(np.prod(variable.shape)) for variable in variables]
    # Keras' optimizers take its own variables alone, and parameters may be others.
    theta = keras.Variable(get_theta(problem.model), dtype=dtype_of(problem.model))
    optimizer = keras.optimizers.Adam(learning_rate)
    optimizer.build([theta])

    def advance(values: Any, grad: Any) -> tuple[Any, Any]:
        optimizer.apply([grad], [theta])
        for part, variable in zip(tf.split(theta.value, sizes), variables, strict=True):
            variable.assign(tf.reshape(part, variable.shape))
        return tf.reduce_sum(values), tf.reduce_sum(tf.square(grad))

    compiled = tf.function(advance, autograph=False, jit_compile=False)
    for step in range(1, num_steps + 1):
        loss, slope = (float(scalar) for scalar in compiled(*evaluate()))
        _check_finite(loss, slope, "Adam", step)
        report("adam", step, loss)


def _run_lbfgs(
    problem: Problem, evaluate: Any, num_steps: int, report: OnStep
) -> LbfgsHistory | None:
    dtype = dtype_of(problem.model)
    num_done = 0
    gradient: Array = np.zeros(0)  # where the loss was asked for last

    # float64 throughout the optimiser: its curvature pairs are differences of gradients.
    def loss_and_gradient(theta: Array) -> tuple[float, Array]:
        nonlocal gradient
        set_theta(problem.model, theta.astype(dtype))
        values, grad = evaluate()
        loss = float(values.numpy().astype(np.float64).sum())
        _check_finite(loss, float(np.abs(grad).max()), "L-BFGS", num_done + 1)
        gradient = grad.numpy().astype(np.float64)
        return loss, gradient

    start = get_theta(problem.model).astype(np.float64)
    loss_and_gradient(start)
    pairs = _Pairs(start, gradient)

    # SciPy passes the loss as well as θ only to a callback whose argument has this name.
    def iterated(intermediate_result: Any) -> None:
        nonlocal num_done
        num_done += 1
        # An iteration ends where the line search asked last.
        pairs.reach(intermediate_result.x, gradient)
        report("lbfgs", num_done, float(intermediate_result.fun))

    # No tolerance on the loss: PINN losses creep for long before they fall again.
    options = {"maxiter": num_steps, "maxfun": 20 * num_steps, "maxcor": MEMORY, "ftol": 0.0}
    result = scipy.optimize.minimize(
        loss_and_gradient, start, method="L-BFGS-B", jac=True, callback=iterated, options=options
    )
    # The last point tried by a line search need not be the best.
    set_theta(problem.model, result.x.astype(dtype))
    return pairs.history()


class _Pairs:
    """The newest pairs of L-BFGS, recorded as it goes.

    SciPy's ``hess_inv`` has them too, but in the order of a ring buffer that has wrapped round,
    which changes the matrix, without the last step's, and none after a line search has failed.
    """

    def __init__(self, theta: Array, gradient: Array) -> None:
        self._theta, self._gradient = theta.copy(), gradient.copy()
        self._pairs: deque[tuple[Array, Array]] = deque(maxlen=MEMORY)

    def reach(self, theta: Array, gradient: Array) -> None:
        """Record the step to a new iterate, if L-BFGS-B keeps its pair."""
        s, y = theta - self._theta, gradient - self._gradient
        # Its own condition for that, which keeps the matrix positive definite in rounding.
        if s @ y > np.finfo(np.float64).eps * -(self._gradient @ s):
            self._pairs.append((s, y))
        self._theta, self._gradient = theta.copy(), gradient.copy()

    def history(self) -> LbfgsHistory | None:
        if not self._pairs:
            return None
        steps, changes = (np.array(part) for part in zip(*self._pairs, strict=True))
        return LbfgsHistory(self._theta, steps, changes)


def _check_finite(loss: float, slope: float, phase: str, step: int) -> None:
    for value, what in ((loss, "loss"), (slope, "gradient of the loss")):
        if not np.isfinite(value):
            raise ProblemError(
                f"The {what} became {value} in step {step} of {phase}. Lower the learning "
                "rate, or look for a root, quotient or logarithm that leaves its domain."
            )


def _relative_error(problem: Problem) -> float | None:
    terms = [term for term in problem.terms if isinstance(term, ResidualTerm)]
    if problem.exact_solution is None or not terms:
        return None
    exact = problem.exact_solution(np.asarray(terms[0].points, np.float64))
    output = outputs_at(problem, terms[0]).numpy()
    return float(np.linalg.norm(output - exact) / np.linalg.norm(exact))
