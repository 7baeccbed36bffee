"""Products with a store's matrices, from its problem alone, to verify it by."""

from __future__ import annotations

from functools import partial

from hessian_tasks.autodiff import compile_product
from hessian_tasks.autodiff.generalised import compile_gauss_newton_product, find_kinds
from hessian_tasks.autodiff.linearised import jacobian_vector_product
from hessian_tasks.problem import Problem
from hessian_tasks.reading import Reading
from hessian_tasks.spec import GAUSS_NEWTON
from pipeline.errors import StoreError
from pipeline.run.verify import JacobianProduct, Product
from pipeline.store.store import HessianStore

__all__ = ["jacobian_products", "matrix_products"]


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
    if store.matrix != GAUSS_NEWTON:
        return {term: compile_product(problem, term) for term in store.arrays}
    left_out = find_kinds([Reading(problem, term) for term in problem.terms]).left_out
    if set(left_out) != set(store.left_out):
        raise StoreError(
            f"{store.location} leaves out {', '.join(store.left_out) or 'no term'}, but "
            f"{', '.join(left_out) or 'none'} of its problem have no Gauss-Newton matrix."
        )
    terms = [term.name for term in problem.terms if term.name not in left_out]
    return {
        term: compile_gauss_newton_product(problem, terms if term is None else [term])
        for term in store.arrays
    }


def jacobian_products(store: HessianStore, problem: Problem) -> JacobianProduct | None:
    """``J v`` by term, if the store has Jacobians."""
    return partial(jacobian_vector_product, problem) if store.jacobians else None
