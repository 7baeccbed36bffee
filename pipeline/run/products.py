"""Products with the matrices of a problem, by automatic differentiation, to hold others against."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial

import numpy as np

from hessian_tasks.autodiff import compile_product
from hessian_tasks.autodiff.generalised import compile_gauss_newton_product, find_kinds
from hessian_tasks.autodiff.linearised import jacobian_vector_product
from hessian_tasks.autodiff.products import ShardProducts, cut_points
from hessian_tasks.jets import reverse_derivative
from hessian_tasks.problem import LossTerm, Problem, Term
from hessian_tasks.reading import Reading
from hessian_tasks.spec import GAUSS_NEWTON, Matrix
from pipeline.errors import StoreError
from pipeline.run.verify import JacobianProduct, Product
from pipeline.store.store import HessianStore

__all__ = ["jacobian_products", "matrix_products", "plain_product"]

MAX_POINTS = 5000


def matrix_products(store: HessianStore, problem: Problem) -> dict[str, Product]:
    """Products with each of a store's matrices, by array, from the problem alone.

    Raises:
        StoreError: If the store leaves out other terms than have no such matrix.
    """
    return {
        one.arrays[term]: product
        for one in store.each()
        for term, product in _products(one, problem).items()
    }


def _products(store: HessianStore, problem: Problem) -> dict[str | None, Product]:
    left_out: Mapping[str, str] = {}
    if store.matrix == GAUSS_NEWTON:
        left_out = find_kinds([Reading(problem, term) for term in problem.terms]).left_out
        if set(left_out) != set(store.left_out):
            raise StoreError(
                f"{store.location} leaves out {', '.join(store.left_out) or 'no term'}, but "
                f"{', '.join(left_out) or 'none'} of its problem have no Gauss-Newton matrix."
            )
    every = [term.name for term in problem.terms if term.name not in left_out]
    return {
        term: plain_product(problem, store.matrix, every if term is None else [term])
        for term in store.arrays
    }


def plain_product(problem: Problem, matrix: Matrix, names: Sequence[str]) -> Product:
    """``V ↦ H V``, or ``G V``, of some terms of the loss, by nested reverse passes.

    A term of many points is multiplied in parts, which take longer to compile and less memory.

    Args:
        problem: The problem, its model resolved to a Keras model.
        matrix: Which matrix.
        names: The terms.

    Raises:
        ProblemError: If a term fails.
    """
    terms = {term.name: term for term in problem.terms}
    few = [name for name in names if not _has_many_points(terms[name])]
    parts = [_in_parts(problem, matrix, name) for name in names if name not in few]
    if few and matrix == GAUSS_NEWTON:
        parts.append(compile_gauss_newton_product(problem, few))
    elif few == list(terms):
        parts.append(compile_product(problem))
    else:
        parts += [compile_product(problem, name) for name in few]
    return lambda vectors: np.asarray(sum(product(vectors) for product in parts))


def _has_many_points(term: Term) -> bool:
    return not isinstance(term, LossTerm) and term.num_points > MAX_POINTS


def _in_parts(problem: Problem, matrix: Matrix, name: str) -> Product:
    shards = cut_points(problem, term=name)
    products = ShardProducts(problem, matrix, reverse_derivative)
    return lambda vectors: np.sum([products(shard, vectors.T).T for shard in shards], axis=0)


def jacobian_products(store: HessianStore, problem: Problem) -> JacobianProduct | None:
    """``J v`` by term, if the store has Jacobians."""
    return partial(jacobian_vector_product, problem) if store.jacobians else None
