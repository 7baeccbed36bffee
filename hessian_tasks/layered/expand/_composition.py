"""How streams pass through a neuron-wise function: Faà di Bruno's formula as polynomials.

For y = F(z¹, …, zᵏ), applied to each neuron alone, the derivative of y along the axes α is a
sum over the partitions of α into blocks, and over the input that each block falls to,

    y_α = Σ_π Σ_a F_{a(B₁)…a(B_r)} · z^{a(B₁)}_{B₁} ⋯ z^{a(B_r)}_{B_r},

a polynomial in the streams of the inputs whose coefficients are derivatives of F (L. H.
Constantine and T. H. Savits, "A multivariate Faà di Bruno formula", 1996). Its own first and
second derivatives with respect to the streams are such polynomials again, so the
Jacobian and the curvature of the map from streams to streams, and which of their entries are
zero, follow by differentiating monomials.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any, TypeAlias

from hessian_tasks.jets import Index
from hessian_tasks.layered.expand._streams import Streams

__all__ = ["Variable", "differentiate", "evaluate", "stream_polynomials"]

Variable: TypeAlias = tuple[int, int]
"""Stream s of input a, as ``(a, s)``."""

Monomial: TypeAlias = tuple[tuple[int, ...], tuple[Variable, ...]]
"""A derivative of F, named by the sorted inputs along which it is taken, and streams."""

Polynomial: TypeAlias = dict[Monomial, float]

_Term: TypeAlias = tuple[tuple[int, ...], tuple[tuple[int, Index], ...]]
"""The same with derivatives of inputs, as ``(a, index)``, in place of streams."""


@cache
def stream_polynomials(streams: Streams, num_inputs: int) -> tuple[Polynomial, ...]:
    """The streams of ``F(z¹, …, zᵏ)``, in the order of ``streams``.

    Example:
        >>> value, slope = stream_polynomials(Streams(((), (0,))), 1)
        >>> slope  # F' z_x
        {((0,), ((0, 1),)): 1.0}
    """
    return tuple(_polynomial(streams, stream, num_inputs) for stream in range(len(streams)))


def _polynomial(streams: Streams, stream: int, num_inputs: int) -> Polynomial:
    if stream == 0:
        return {((), ()): 1.0}
    position = {index: s for s, index in enumerate(streams.plain)}
    found: defaultdict[Monomial, float] = defaultdict(float)
    for a in range(num_inputs):
        found[((a,), ((a, stream),))] = 1.0
    for index, coefficient in streams.terms(stream):
        for (inputs, factors), count in _composed(index, num_inputs).items():
            if len(factors) > 1:
                named = sorted((a, position[part]) for a, part in factors)
                found[(inputs, tuple(named))] += coefficient * count
    return dict(found)


@cache
def _composed(index: Index, num_inputs: int) -> dict[_Term, int]:
    """The sum over partitions, each axis taken by the chain rule: like terms stay together.

    Order 12 has 4,213,597 partitions, but 77 terms in one coordinate.
    """
    if not index:
        return {((), ()): 1}
    *lower, axis = index
    found: defaultdict[_Term, int] = defaultdict(int)
    for (inputs, factors), count in _composed(tuple(lower), num_inputs).items():
        for a in range(num_inputs):
            found[_term((*inputs, a), (*factors, (a, (axis,))))] += count
        for number, (a, part) in enumerate(factors):
            others = factors[:number] + factors[number + 1 :]
            found[_term(inputs, (*others, (a, (*part, axis))))] += count
    return dict(found)


def _term(inputs: tuple[int, ...], factors: tuple[tuple[int, Index], ...]) -> _Term:
    return tuple(sorted(inputs)), tuple(sorted(factors))


def differentiate(polynomial: Polynomial, variable: Variable) -> Polynomial:
    """Derivative with respect to one stream of one input.

    The derivatives of F are functions of the value streams, the other factors are not.

    Example:
        >>> differentiate({((0,), ((0, 1),)): 1.0}, (0, 0))  # F' z_x by z: F'' z_x
        {((0, 0), ((0, 1),)): 1.0}
    """
    a, stream = variable
    found: defaultdict[Monomial, float] = defaultdict(float)
    for (inputs, factors), coefficient in polynomial.items():
        if stream == 0:
            found[(tuple(sorted((*inputs, a))), factors)] += coefficient
        elif variable in factors:
            position = factors.index(variable)
            rest = factors[:position] + factors[position + 1 :]
            found[(inputs, rest)] += coefficient * factors.count(variable)
    return dict(found)


def evaluate(
    polynomial: Polynomial,
    derivatives: Mapping[tuple[int, ...], Any],
    inputs: Sequence[Mapping[int, Any]],
) -> Any | None:
    """Value of a polynomial, or None if all its monomials are zero.

    Args:
        polynomial: The polynomial.
        derivatives: Derivatives of F, by the inputs along which they are taken; those that are
            left out are zero.
        inputs: Streams of each input; those that are left out are zero.
    """
    total = None
    for (taken, factors), coefficient in polynomial.items():
        if taken not in derivatives or any(s not in inputs[a] for a, s in factors):
            continue
        value = derivatives[taken]
        for a, stream in factors:
            value = value * inputs[a][stream]
        value = value if coefficient == 1 else coefficient * value
        total = value if total is None else total + value
    return total
