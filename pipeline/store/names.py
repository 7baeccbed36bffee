"""What a store calls things: its arrays, after the matrix and the loss terms, and these."""

from __future__ import annotations

from typing import Any

__all__ = ["array_names", "describe_term", "jacobian_name"]


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


def describe_term(term: dict[str, Any], attributes: dict[str, Any]) -> str:
    """What kind of term a store has, and of what, as far as that is known.

    Args:
        term: The term, as the store's attributes have it.
        attributes: These.

    Example:
        >>> readings = {"pde": "u.xx at 9 points"}
        >>> describe_term({"name": "pde", "kind": "residual"}, {"readings": readings})
        'residual of u.xx at 9 points'
    """
    # Stores from before readings were recorded have the derivatives of residuals.
    derivatives = ", ".join(name or "u" for name in term.get("derivatives", []))
    known = attributes.get("readings", {}).get(term["name"], derivatives)
    return f"{term['kind']} of {known}" if known else str(term["kind"])
