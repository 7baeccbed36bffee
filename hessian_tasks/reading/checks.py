"""Whether a term is what it was read as: what a stand-in hides shows in the loss itself."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from hessian_tasks.errors import NotLayeredError
from hessian_tasks.jets import reverse_derivative
from hessian_tasks.loss import term_loss
from hessian_tasks.models import dtype_of
from hessian_tasks.problem import Problem, Term

__all__ = ["Rounding", "check_own_points", "check_value"]

Floats: TypeAlias = npt.NDArray[Any]

# Relative errors of jets. In float32, derivatives of order 4 are known to four digits.
TOLERANCES = {"float64": 1e-10, "float32": 1e-3}


@dataclass(frozen=True)
class Rounding:
    """What relative errors of the jets change in a loss.

    Attributes:
        first: By an error, ``Σ |ℓ_u| |u|``.
        second: By its square, ``Σ |u| |ℓ_uu| |u|``: all that there is of a loss that is zero.
    """

    first: float
    second: float

    @classmethod
    def of(
        cls,
        jets: Sequence[Floats],
        slopes: Sequence[Floats],
        curvatures: Mapping[tuple[int, int], Floats],
    ) -> Rounding:
        """What it is of a loss with these derivatives ``ℓ_u`` and ``ℓ_uu``."""
        sizes = [np.abs(jet) for jet in jets]
        # The slopes are by the jets, and then by weights.
        first = [float((u * np.abs(s)).sum()) for u, s in zip(sizes, slopes, strict=False)]
        second = [
            float(np.einsum("nrq,nrqsp,nsp->", sizes[a], np.abs(bend), sizes[b]))
            for (a, b), bend in curvatures.items()
        ]
        return cls(sum(first), sum(second))


def check_value(problem: Problem, term: Term, value: float, rounding: Rounding) -> None:
    """Hold the loss as a function of jets against the loss itself.

    They differ where the term's code does what a stand-in for the network cannot know: it may
    differentiate the network by its weights, or forwards, and take what is missing for zero.

    Args:
        problem: The problem, its model resolved to a Keras model.
        term: The term.
        value: Its weighted loss, computed from the jets.
        rounding: How much of a difference may come from them.

    Raises:
        NotLayeredError: If they differ.
    """
    loss = tf.function(lambda: term_loss(problem, term, reverse_derivative), autograph=False)
    expected = float(loss.get_concrete_function()().numpy())
    tolerance = TOLERANCES[dtype_of(problem.model)]
    allowed = tolerance * (abs(expected) + rounding.first + tolerance * rounding.second)
    if not abs(value - expected) <= allowed:
        raise NotLayeredError("is no function of the network's jets alone")


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
