"""Curvature while a network is trained: extreme eigenpairs, trace and gradient, at its own weights.

The products are compiled once. They read the network's variables where these are, so that the
next observation is of the weights that training has come to.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from hessian_tasks.autodiff.products import ShardProducts, cut_points
from hessian_tasks.loss import compile_losses_and_gradient
from hessian_tasks.networks.models import get_theta, parameter_layout
from hessian_tasks.problem import Problem
from hessian_tasks.process import configure_tensorflow
from pipeline.analysis.eigenpairs import Eigenpairs, extreme_eigenpairs
from pipeline.analysis.estimators import Estimate, estimate_trace
from pipeline.analysis.operator import HessianOperator
from pipeline.errors import ConfigError
from pipeline.estimates._errors import MeasuredError
from pipeline.estimates._products import threaded_product
from pipeline.estimates.fitting import BLOCK, MAX_PASSES, allowed_bytes, best_method
from pipeline.estimates.operator import SHARDS_PER_THREAD

__all__ = ["Observation", "Watch", "alignment"]

Array: TypeAlias = npt.NDArray[Any]

# Of residuals of eigenpairs and of the standard error of the trace, relative to the norm: curves
# along training are read from pictures, and each digit more costs at every step.
TOLERANCE, ERROR = 1e-6, 0.01
MAX_PRODUCTS = 120


@dataclass(frozen=True)
class Observation:
    """The loss and its curvature at the weights of one step.

    Attributes:
        step: The step, as whoever trains counts it.
        phase: Who trains, such as ``"adam"``.
        losses: Weighted loss of every term.
        theta: The weights ``[P]``.
        gradient_norm: ``‖∇L‖``.
        alignment: Share of the squared gradient in the span of the leading eigenvectors, see
            :func:`alignment`.
        pairs: The smallest and the largest eigenpairs.
        eigenvalue_errors: Bounds on the errors of their values.
        trace: The trace.
        num_products: Products with single vectors, of all this.
        seconds: Time that this took.
    """

    step: int
    phase: str
    losses: dict[str, float]
    theta: Array
    gradient_norm: float
    alignment: float
    pairs: Eigenpairs
    eigenvalue_errors: Array
    trace: Estimate
    num_products: int
    seconds: float


class Watch:
    """Observes a problem's loss at the weights that its network has now.

    The eigenvectors of one observation are where the search of the next begins.

    Attributes:
        problem: The problem, its model resolved to a Keras model.
        num_pairs: Eigenpairs at each end.
        num_params: P.
    """

    def __init__(self, problem: Problem, num_pairs: int = 3, seed: int = 0) -> None:
        """Prepare the products; each is compiled at its first use.

        Args:
            problem: The problem, its model resolved and its regularisers a term of it.
            num_pairs: Eigenpairs at each end.
            seed: Of the random vectors, which are the same at every step.

        Raises:
            ConfigError: If fewer than one pair is asked for.
            ProblemError: If the loss cannot be used.
        """
        if num_pairs < 1:
            raise ConfigError(f"{num_pairs} eigenpairs at each end are none; ask for 1 or more.")
        threads = configure_tensorflow()
        self.problem, self.num_pairs, self._seed = problem, num_pairs, seed
        self._evaluate = compile_losses_and_gradient(problem)
        self._layout = parameter_layout(problem.model)
        self.num_params = self._layout.num_params
        products = ShardProducts(problem)
        shards = cut_points(problem, num_shards=SHARDS_PER_THREAD * threads)
        self._product = threaded_product(products, shards, threads)
        self._measure = MeasuredError(problem, products, shards)
        self._last: Array | None = None

    def observe(self, step: int, phase: str) -> Observation:
        """The loss and its curvature at the weights now, which stay as they are.

        Raises:
            ProblemError: If the loss or its gradient is not finite.
        """
        started = time.perf_counter()
        losses, gradient = self._evaluate.evaluate()
        relative_error, norm = self._measure(self._product)
        operator = HessianOperator(
            self._product, self._layout, relative_error=relative_error, norm=norm
        )
        trace = self._trace(operator, norm)
        pairs = extreme_eigenpairs(
            operator,
            self.num_pairs,
            tolerance=max(TOLERANCE, relative_error) * norm,
            block=BLOCK,
            max_passes=MAX_PASSES,
            seed=self._seed,
            start=self._last,
        )
        self._last = pairs.vectors
        leading = pairs.vectors[:, -min(self.num_pairs, self.num_params) :]
        return Observation(
            step=step,
            phase=phase,
            losses=losses,
            theta=get_theta(self.problem.model),
            gradient_norm=float(np.linalg.norm(gradient.astype(np.float64))),
            alignment=alignment(gradient.astype(np.float64), leading),
            pairs=pairs,
            eigenvalue_errors=pairs.errors(relative_error * norm),
            trace=trace,
            num_products=operator.num_products,
            seconds=time.perf_counter() - started,
        )

    def _trace(self, operator: HessianOperator, norm: float) -> Estimate:
        method = best_method(self.num_params, MAX_PRODUCTS, allowed_bytes())
        return estimate_trace(
            operator,
            method,
            num_products=MAX_PRODUCTS,
            error=(ERROR * norm) or None,
            seed=self._seed,
        )


def alignment(gradient: Array, vectors: Array) -> float:
    """Share of a gradient g in the span of orthonormal U, ``‖Uᵀg‖² / ‖g‖²``; NaN where g is zero.

    With the eigenvectors of the k largest eigenvalues as U it comes near to 1 early in the
    training of classifiers, of thousands of directions (G. Gur-Ari, D. Roberts, E. Dyer,
    "Gradient descent happens in a tiny subspace", 2018).

    Args:
        gradient: g ``[P]``.
        vectors: U ``[P, k]``.

    Example:
        >>> alignment(np.array([3.0, 4.0]), np.array([[1.0], [0.0]]))
        0.36
    """
    size = float(gradient @ gradient)
    return float(np.sum((vectors.T @ gradient) ** 2)) / size if size else float("nan")
