"""What the vectors of an estimate take, before the first of them is multiplied."""

from __future__ import annotations

import numpy as np
import psutil

from hessian_tasks.process import resident_bytes
from pipeline.analysis.eigenpairs import SearchCost, search_cost
from pipeline.analysis.estimators import TraceMethod
from pipeline.errors import DoesNotFitError
from pipeline.units import format_bytes

__all__ = [
    "BLOCK",
    "MAX_PASSES",
    "allowed_bytes",
    "best_method",
    "fitting_search",
    "usual_bytes",
]

# Arrays of all its vectors that each keeps; XTrace has one vector for two products.
XTRACE_COPIES, XNYSTRACE_COPIES = 5, 3
# A product costs in proportion to its vectors, unlike a pass over an array: blocks need only be
# large enough for several cores and multiple eigenvalues.
BLOCK = 4
MAX_PASSES = 500
USUAL_PAIRS = 5


def allowed_bytes(memory: int | None = None) -> int:
    """What vectors may take.

    Args:
        memory: Budget of resident memory; by default half of what is free is allowed.
    """
    if memory is None:
        return int(psutil.virtual_memory().available // 2)
    return max(0, memory - resident_bytes())


def best_method(
    num_params: int, max_products: int, allowed: int, semidefinite: bool = False
) -> TraceMethod:
    """The best method for traces whose vectors fit.

    Args:
        num_params: P.
        max_products: Products that are taken at most.
        allowed: Bytes that the vectors may take.
        semidefinite: Whether the matrix is known to have no negative eigenvalue.

    Example:
        >>> best_method(10**6, 100, 3 * 10**9, semidefinite=True), best_method(10**7, 400, 10**10)
        ('xnystrace', 'hutchinson')
    """
    numbers: dict[TraceMethod, int] = {"xtrace": XTRACE_COPIES * (max_products // 2)}
    if semidefinite:
        numbers = {"xnystrace": XNYSTRACE_COPIES * max_products, **numbers}
    vector = num_params * np.dtype(np.float64).itemsize
    fitting = [method for method, number in numbers.items() if number * vector < allowed]
    return fitting[0] if fitting else "hutchinson"


def usual_bytes(num_params: int, allowed: int, num_products: int) -> int:
    """What the vectors of a usual estimate take: a trace, then a few eigenpairs at each end.

    Args:
        num_params: P.
        allowed: Bytes that they may take.
        num_products: Products that a trace takes at most.

    Example:
        >>> usual_bytes(10**5, 10**12, 400), usual_bytes(10**5, 10**8, 400)
        (800000000, 80235200)
    """
    vector = num_params * np.dtype(np.float64).itemsize
    method = best_method(num_params, num_products, allowed)
    trace = XTRACE_COPIES * (num_products // 2) * vector if method == "xtrace" else 0
    return max(trace, search_cost(num_params, USUAL_PAIRS, BLOCK, MAX_PASSES).num_bytes)


def fitting_search(num_params: int, num_pairs: int, allowed: int) -> SearchCost:
    """What the search for eigenpairs costs at most.

    Args:
        num_params: P.
        num_pairs: Eigenpairs at each end.
        allowed: Bytes that its vectors may take.

    Raises:
        DoesNotFitError: If they take more; the message has the number that would do.

    Example:
        >>> cost = fitting_search(81_201, 300, 4 * 2**30)
        >>> cost.num_products, format_bytes(cost.num_bytes)
        (2608, '1.32 GiB')
    """

    def cost(number: int) -> SearchCost:
        return search_cost(num_params, number, BLOCK, MAX_PASSES)

    found = cost(num_pairs)
    if found.num_bytes <= allowed:
        return found
    fits, too_many = 0, num_pairs
    while too_many - fits > 1:
        middle = (fits + too_many) // 2
        if cost(middle).num_bytes <= allowed:
            fits = middle
        else:
            too_many = middle
    advice = f"--pairs {fits} fits" if fits else "not even --pairs 1 fits: free some memory"
    raise DoesNotFitError(
        f"Eigenpairs, {num_pairs} at each end of a matrix of {num_params:,} rows, take "
        f"{format_bytes(found.num_bytes)} of memory, and {format_bytes(allowed)} are allowed; "
        f"{advice}, or allow more with --memory."
    )
