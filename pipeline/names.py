"""How the arrays of a store are named after its matrix and the loss terms."""

from __future__ import annotations

__all__ = ["array_names", "jacobian_name"]


def array_names(matrix: str, terms: list[str]) -> dict[str | None, str]:
    """Names of the arrays of a matrix: the total's (None) and each term's.

    Example:
        >>> array_names("hessian", ["pde"])
        {None: 'hessian', 'pde': 'hessian_pde'}
    """
    return {None: matrix, **{term: f"{matrix}_{term}" for term in terms}}


def jacobian_name(term: str) -> str:
    """Name of the array of a term's Jacobian.

    Example:
        >>> jacobian_name("pde")
        'jacobian_pde'
    """
    return f"jacobian_{term}"
