"""Training: one optimiser after the other."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import keras
import numpy as np
from threadpoolctl import threadpool_limits

from hessian_tasks.loss.means import check_means
from hessian_tasks.loss.regularization import with_regularization
from hessian_tasks.networks.feed import outputs_at
from hessian_tasks.networks.trainables import resolve
from hessian_tasks.problem import Problem, ResidualTerm
from hessian_tasks.reading import warn_of_flat_derivatives
from pipeline.analysis.lbfgs import LbfgsHistory
from pipeline.training._adam import run_adam
from pipeline.training._lbfgs import run_lbfgs
from pipeline.training._levenberg_marquardt import run_levenberg_marquardt
from pipeline.training._objective import Objective, OnStep
from pipeline.training._ssbroyden import run_ssbroyden

__all__ = ["Steps", "train"]

Observe: TypeAlias = Callable[[Problem, str, int], None]
LBFGS_STEPS = 1000


@dataclass(frozen=True)
class Steps:
    """How many steps each optimiser makes at most, one after the other.

    Attributes:
        adam: Of Adam.
        lbfgs: Of L-BFGS.
        ssbroyden: Of self-scaled Broyden.
        levenberg_marquardt: Of Levenberg-Marquardt.
    """

    adam: int
    lbfgs: int
    ssbroyden: int
    levenberg_marquardt: int

    @classmethod
    def of(cls, adam: int, lbfgs: int | None, ssbroyden: int, levenberg_marquardt: int) -> Steps:
        """The steps that are asked for; None is as many of L-BFGS as it has by default.

        Example:
            >>> Steps.of(500, None, 0, 0).lbfgs, Steps.of(500, None, 100, 0).lbfgs
            (1000, 0)
        """
        if lbfgs is None:
            lbfgs = 0 if ssbroyden or levenberg_marquardt else LBFGS_STEPS
        return cls(adam, lbfgs, ssbroyden, levenberg_marquardt)

    @property
    def total(self) -> int:
        """Of all together."""
        return self.adam + self.lbfgs + self.ssbroyden + self.levenberg_marquardt


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
    lbfgs_steps: int | None = None,
    ssbroyden_steps: int = 0,
    levenberg_marquardt_steps: int = 0,
    learning_rate: float = 1e-3,
    seed: int = 0,
    on_step: OnStep | None = None,
    observe: Observe | None = None,
) -> TrainResult:
    """Train the problem's network in place: Adam first, then L-BFGS or what is asked for.

    Self-scaled Broyden keeps a dense matrix ``[P, P]``, Levenberg-Marquardt two, of which one is
    the Gauss-Newton matrix, factored at every step; the loss falls with each step of theirs. All
    but Adam end before where rounding leaves nothing to gain.

    Args:
        problem: The problem. A model factory is called after seeding.
        adam_steps: Number of steps of Adam.
        lbfgs_steps: Largest number of iterations of L-BFGS; by default 1000, or none if one of the
            following is asked for.
        ssbroyden_steps: Largest number of iterations of self-scaled Broyden, after these.
        levenberg_marquardt_steps: Largest number of steps of Levenberg-Marquardt, after these.
        learning_rate: Step size of Adam.
        seed: Seed of Python, NumPy and TensorFlow, through Keras.
        on_step: Called as ``on_step(phase, step, loss)`` for each step, counted from
            1, with phase ``"adam"``, ``"lbfgs"``, ``"ssbroyden"`` or ``"levenberg-marquardt"``.
            Adam's loss is the one before the step.
        observe: Called as ``observe(problem, phase, step)`` before the first step, as 0 of phase
            ``"start"``, and after each, counted over all phases, with the resolved problem at the
            weights of that step, which it must leave as they are.

    Raises:
        ProblemError: If the loss or its gradient becomes NaN or infinite, naming
            the step; or if a term is declared batched and is no mean over its examples.
        ModelError: If the network cannot be used.
        PlanError: If Levenberg-Marquardt is asked for, and a term has no Gauss-Newton matrix; or
            if memory is too small for the matrices of an optimiser.

    Warns:
        ProblemWarning: If a term depends on derivatives that are zero everywhere.

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
    warn_of_flat_derivatives(problem)
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
    steps = Steps.of(adam_steps, lbfgs_steps, ssbroyden_steps, levenberg_marquardt_steps)
    objective = Objective(problem, report)
    # Threads of a matrix product spin while they wait for each other: on two cores that others use
    # too, two took 40 times as long as one for a Cholesky factor of 921 parameters.
    with threadpool_limits(1, "blas"):
        history = _run(objective, steps, learning_rate)
    values = objective.losses()[0].numpy().astype(float)
    return TrainResult(
        problem=problem,
        loss=float(values.sum()),
        losses={t.name: float(v) for t, v in zip(problem.terms, values, strict=True)},
        error=_relative_error(problem),
        seconds=time.perf_counter() - begin,
        history=history,
    )


def _run(objective: Objective, steps: Steps, learning_rate: float) -> LbfgsHistory | None:
    history = None
    if steps.adam > 0:
        run_adam(objective, steps.adam, learning_rate)
    if steps.lbfgs > 0:
        history = run_lbfgs(objective, steps.lbfgs)
    if steps.ssbroyden > 0:
        run_ssbroyden(objective, steps.ssbroyden)
    if steps.levenberg_marquardt > 0:
        run_levenberg_marquardt(objective, steps.levenberg_marquardt)
    return history


def _relative_error(problem: Problem) -> float | None:
    terms = [term for term in problem.terms if isinstance(term, ResidualTerm)]
    if problem.exact_solution is None or not terms:
        return None
    exact = problem.exact_solution(np.asarray(terms[0].points, np.float64))
    output = outputs_at(problem, terms[0]).numpy()
    return float(np.linalg.norm(output - exact) / np.linalg.norm(exact))
