"""Products of a loss's matrix with vectors, to hold others against, and how exact they are.

They come from nested reverse passes on the rebuilt problem, and share no reading of the
residuals, stand-in or fixed point with the engine that computes the matrix.
"""

from __future__ import annotations

import time
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from hessian_tasks.networks.models import parameter_layout
from hessian_tasks.problem import Problem
from hessian_tasks.spec import Matrix
from pipeline.run.products import plain_product

__all__ = ["Reference", "References"]

Array: TypeAlias = npt.NDArray[Any]


@dataclass(frozen=True)
class Reference:
    """Products ``[K, P]`` of one matrix, float64.

    Attributes:
        products: One a row.
        rounding: What they are off by when they are made in two parts and added up. Products are
            linear, so that this is rounding alone: a few eps, and far more where differences of
            nearly equal numbers are taken, as in the cross-entropy of a classifier that is sure.
    """

    products: Array
    rounding: Array


class References:
    """Products of every term's matrix with vectors, by nested reverse passes.

    Attributes:
        seconds: What compiling and multiplying have taken.

    Example:
        >>> from hessian_tasks.problems.poisson import problem
        >>> from hessian_tasks.spec import HESSIAN
        >>> references = References(problem(width=4, depth=1), HESSIAN)
        >>> {term: found.products.shape for term, found in references(np.ones((2, 17))).items()}
        {'pde': (2, 17), 'dirichlet': (2, 17), None: (2, 17)}
    """

    def __init__(self, problem: Problem, matrix: Matrix, left_out: Collection[str] = ()) -> None:
        """Compile the products.

        Args:
            problem: The problem, its model resolved to a Keras model.
            matrix: Which matrix.
            left_out: Terms that have none.

        Raises:
            ProblemError: If a term fails.
        """
        started = time.perf_counter()
        terms = [term for term in problem.terms if term.name not in left_out]
        self._products = {t.name: plain_product(problem, matrix, [t.name]) for t in terms}
        # What is compiled at the first use is.
        zeros = np.zeros((1, parameter_layout(problem.model).num_params))
        for product in self._products.values():
            product(zeros)
        self.seconds = time.perf_counter() - started

    def __call__(self, vectors: Array) -> dict[str | None, Reference]:
        """The products by term, and those of the total under None.

        Args:
            vectors: One a row, ``[K, P]``.
        """
        started = time.perf_counter()
        even = np.arange(vectors.shape[1]) % 2 == 0
        found: dict[str | None, Reference] = {}
        for term, product in self._products.items():
            products = product(vectors).astype(np.float64)
            parts = [product(np.where(mask, vectors, 0) / 3) for mask in (even, ~even)]
            found[term] = Reference(products, 3 * np.sum(parts, axis=0, dtype=float) - products)
        total = Reference(
            np.sum([reference.products for reference in found.values()], axis=0),
            np.sum([reference.rounding for reference in found.values()], axis=0),
        )
        self.seconds += time.perf_counter() - started
        return {**found, None: total}
