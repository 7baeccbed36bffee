"""Training: bring a problem's network to a minimum whose Hessian is worth having.

Adam finds the valley, L-BFGS its floor: the usual pair for PINNs. Both see the full
loss, the very one whose Hessian is computed, at all points at once.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import keras
import numpy as np
import numpy.typing as npt
import scipy.optimize
import tensorflow as tf

from hessian_tasks.errors import ProblemError
from hessian_tasks.loss import compile_losses_and_gradient
from hessian_tasks.models import (
    dtype_of,
    get_theta,
    resolve_model,
    set_theta,
)
from hessian_tasks.problem import Problem, ResidualTerm

__all__ = ["TrainResult", "train"]

OnStep = Callable[[str, int, float], None]


@dataclass(frozen=True)
class TrainResult:
    """What training reached.

    Attributes:
        problem: The problem, its model resolved and trained.
        loss: Total loss at the end.
        losses: Weighted loss of every term at the end; they add up to ``loss``.
        error: Relative L2 error of the network at the points of the first residual
            term, or None without an exact solution or such a term.
        seconds: Wall-clock time, compilation included.
    """

    problem: Problem
    loss: float
    losses: dict[str, float]
    error: float | None
    seconds: float


def train(
    problem: Problem,
    *,
    adam_steps: int = 5000,
    lbfgs_steps: int = 1000,
    learning_rate: float = 1e-3,
    seed: int = 0,
    on_step: OnStep | None = None,
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

    Raises:
        ProblemError: If the loss or its gradient becomes NaN or infinite, naming
            the step.
        ModelError: If the network cannot be used.
    """
    begin = time.perf_counter()
    keras.utils.set_random_seed(seed)
    problem = replace(problem, model=resolve_model(problem.model))
    report = on_step or (lambda phase, step, loss: None)
    evaluate = compile_losses_and_gradient(problem)
    if adam_steps > 0:
        _run_adam(problem, evaluate, adam_steps, learning_rate, report)
    if lbfgs_steps > 0:
        _run_lbfgs(problem, evaluate, lbfgs_steps, report)
    values = evaluate()[0].numpy().astype(float)
    return TrainResult(
        problem=problem,
        loss=float(values.sum()),
        losses={t.name: float(v) for t, v in zip(problem.terms, values, strict=True)},
        error=_relative_error(problem),
        seconds=time.perf_counter() - begin,
    )


def _run_adam(
    problem: Problem, evaluate: Any, num_steps: int, learning_rate: float, report: OnStep
) -> None:
    weights = problem.model.trainable_weights
    sizes = [int(np.prod(w.shape)) for w in weights]
    optimizer = keras.optimizers.Adam(learning_rate)
    optimizer.build(weights)

    def advance() -> tuple[Any, Any]:
        values, grad = evaluate()
        parts = zip(tf.split(grad, sizes), weights, strict=True)
        optimizer.apply([tf.reshape(part, w.shape) for part, w in parts], weights)
        return tf.reduce_sum(values), tf.reduce_sum(tf.square(grad))

    compiled = tf.function(advance, autograph=False, jit_compile=False)
    for step in range(1, num_steps + 1):
        loss, slope = (float(scalar) for scalar in compiled())
        _check_finite(loss, slope, "Adam", step)
        report("adam", step, loss)


def _run_lbfgs(problem: Problem, evaluate: Any, num_steps: int, report: OnStep) -> None:
    dtype = dtype_of(problem.model)
    num_done = 0

    # float64 throughout the optimiser: its curvature pairs are differences of gradients.
    def loss_and_gradient(theta: npt.NDArray[Any]) -> tuple[float, npt.NDArray[Any]]:
        set_theta(problem.model, theta.astype(dtype))
        values, grad = evaluate()
        loss = float(values.numpy().astype(np.float64).sum())
        _check_finite(loss, float(np.abs(grad).max()), "L-BFGS", num_done + 1)
        return loss, grad.numpy().astype(np.float64)

    # SciPy passes the loss as well as θ only to a callback whose argument has this name.
    def iterated(intermediate_result: Any) -> None:
        nonlocal num_done
        num_done += 1
        report("lbfgs", num_done, float(intermediate_result.fun))

    result = scipy.optimize.minimize(
        loss_and_gradient,
        get_theta(problem.model).astype(np.float64),
        method="L-BFGS-B",
        jac=True,
        callback=iterated,
        # No tolerance on the loss: PINN losses creep for long before they fall again.
        options={"maxiter": num_steps, "maxfun": 20 * num_steps, "maxcor": 50, "ftol": 0.0},
    )
    # The last point tried by a line search need not be the best.
    set_theta(problem.model, result.x.astype(dtype))


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
    points = np.asarray(terms[0].points, np.float64)
    exact = problem.exact_solution(points)
    output = problem.model(tf.constant(points, dtype_of(problem.model))).numpy()
    return float(np.linalg.norm(output - exact) / np.linalg.norm(exact))
