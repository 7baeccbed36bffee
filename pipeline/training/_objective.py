"""The loss as an optimiser sees it: a function of θ, and steps that are reported."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import psutil

from hessian_tasks.errors import ProblemError
from hessian_tasks.loss import compile_losses_and_gradient
from hessian_tasks.networks.models import dtype_of, get_theta, set_theta
from hessian_tasks.problem import Problem
from pipeline.errors import DoesNotFitError
from pipeline.units import format_bytes

__all__ = ["Array", "Objective", "OnStep", "Place", "check_memory"]

Array: TypeAlias = npt.NDArray[Any]
OnStep: TypeAlias = Callable[[str, int, float], None]


@dataclass(frozen=True, eq=False)
class Place:
    """Where an optimiser is.

    Attributes:
        theta: θ ``[P]``.
        loss: The loss there.
        gradient: Its gradient ``[P]``.
    """

    theta: Array
    loss: float
    gradient: Array


class Objective:
    """The full loss and its gradient, in float64 whatever the network's dtype.

    Optimisers compare losses and take differences of gradients, which would lose what digits there
    are if they were rounded once more.

    Attributes:
        problem: The problem, its model resolved to a Keras model.
        losses: The losses and the gradient, compiled.
    """

    def __init__(self, problem: Problem, report: OnStep) -> None:
        """Compile the loss.

        Args:
            problem: The problem, its model resolved to a Keras model.
            report: Called with phase, step and loss after each step.
        """
        self.problem = problem
        self.losses = compile_losses_and_gradient(problem)
        self._report = report
        self._phase, self._words, self._num_done = "", "", 0

    def begin(self, phase: str, words: str) -> Array:
        """Begin with an optimiser.

        Args:
            phase: What its steps are reported as.
            words: Its name in messages.

        Returns:
            θ, in float64.
        """
        self._phase, self._words, self._num_done = phase, words, 0
        return get_theta(self.problem.model).astype(np.float64)

    def measure(self, theta: Array) -> Place:
        """The loss and the gradient at θ, which the network has then; they may be NaN."""
        self.move(theta)
        values, gradient = (tensor.numpy().astype(np.float64) for tensor in self.losses())
        return Place(theta.copy(), float(values.sum()), gradient)

    def __call__(self, theta: Array) -> Place:
        """The loss and the gradient at θ, which the network has then.

        Raises:
            ProblemError: If they are not finite.
        """
        place = self.measure(theta)
        self.check(place.loss, float(np.abs(place.gradient).max()))
        return place

    def check(self, loss: float, slope: float) -> None:
        """Refuse a loss, or a size of the gradient, that is no number.

        Raises:
            ProblemError: Naming the step.
        """
        for value, what in ((loss, "loss"), (slope, "gradient of the loss")):
            if not np.isfinite(value):
                raise ProblemError(
                    f"The {what} became {value} in step {self._num_done + 1} of {self._words}. "
                    "Lower the learning rate, or look for a root, quotient or logarithm that "
                    "leaves its domain."
                )

    def move(self, theta: Array) -> None:
        """Put θ into the network."""
        set_theta(self.problem.model, theta.astype(dtype_of(self.problem.model)))

    def report(self, loss: float) -> None:
        """Report a step, at whose end the network is."""
        self._num_done += 1
        self._report(self._phase, self._num_done, loss)


def check_memory(words: str, num_params: int, num_matrices: int) -> None:
    """See that there is memory for dense matrices ``[P, P]`` in float64.

    Args:
        words: Name of the optimiser.
        num_params: P.
        num_matrices: How many it holds.

    Raises:
        DoesNotFitError: If there is not.
    """
    needed, free = 8 * num_matrices * num_params**2, psutil.virtual_memory().available
    if needed > free:
        raise DoesNotFitError(
            f"{words} keeps matrices of {num_params:,} x {num_params:,} numbers, "
            f"{format_bytes(needed)}, but only {format_bytes(free)} of memory are free. Train "
            "with L-BFGS, which keeps pairs of vectors, or with a smaller network."
        )
