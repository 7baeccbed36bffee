"""A term's loss to second order in the network's jets at its points, and in the weights it reads.

With u = (u, u_x, …) the jets at all evaluations and w the weights that the term reads itself, the
loss is ℓ(u(θ), w), and its Hessian

    H = (∂u/∂θ)ᵀ ℓ_uu (∂u/∂θ) + Σ ℓ_u ∂²u/∂θ² + (∂u/∂θ)ᵀ ℓ_uw S + Sᵀ ℓ_wu (∂u/∂θ) + Sᵀ ℓ_ww S,

where S picks w from θ. So these derivatives at θ are all that an engine needs to know of the term's
code; they are numbers, found here by automatic differentiation once a term. ℓ_uu is asked for by
one unit vector for all points at once; that points do not couple is checked with random vectors.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from hessian_tasks.errors import NotLayeredError
from hessian_tasks.jets import Tensor
from hessian_tasks.loss.terms import seen_loss, seen_values
from hessian_tasks.problem import Problem, ResidualTerm, Term
from hessian_tasks.reading._arguments import Arguments, gradients
from hessian_tasks.reading._checks import check_own_points

__all__ = ["QuadraticModel", "ResidualModel", "compile_quadratic", "compile_residual"]

Array: TypeAlias = npt.NDArray[Any]
Floats: TypeAlias = npt.NDArray[np.float64]
Products: TypeAlias = Callable[..., tuple[list[Floats], list[Floats]]]
"""``ℓ'`` and ``ℓ'' v`` from vectors v by all arguments, at some jets."""


@dataclass(frozen=True)
class QuadraticModel:
    """First and second derivatives of a term's loss.

    R is the number of derivatives that are asked for at an evaluation, m the number of entries of
    the weights that the term reads itself.

    Attributes:
        slopes: ``ℓ_u`` of every evaluation ``[N, R, outputs]``.
        curvatures: ``ℓ_uu`` of every two evaluations that couple, their n-th points with each
            other, ``[N, R, outputs, R', outputs]``; those that are zero are missing.
        crosses: ``ℓ_wu`` of every evaluation ``[m, N, R, outputs]``.
        direct: ``ℓ_ww`` ``[m, m]``.
    """

    slopes: list[Floats]
    curvatures: dict[tuple[int, int], Floats]
    crosses: list[Floats]
    direct: Floats

    def parts(self, number: int) -> list[Floats]:
        """All that is known by an evaluation's jets ``[R, outputs, M]``."""
        parts = [
            np.moveaxis(self.slopes[number], 0, 2),
            np.moveaxis(self.crosses[number], (2, 3), (0, 1)),
        ]
        for (first, _), bend in self.curvatures.items():
            if first == number:
                parts.append(np.moveaxis(bend, (1, 2), (0, 1)))
        return [_one_row_a_jet(part) for part in parts]


@dataclass(frozen=True)
class ResidualModel:
    """First derivatives of a residual ``[N, C]``.

    Attributes:
        slopes: ``∂r/∂u`` of every evaluation ``[C, N, R, outputs]``.
        direct: ``∂r/∂w`` ``[N, C, m]``.
    """

    slopes: list[Floats]
    direct: Floats

    def parts(self, number: int) -> list[Floats]:
        """All that is known by an evaluation's jets ``[R, outputs, M]``."""
        return [_one_row_a_jet(np.moveaxis(self.slopes[number], (2, 3), (0, 1)))]


def _one_row_a_jet(part: Floats) -> Floats:
    return part.reshape(*part.shape[:2], part[0, 0].size if part.size else 0)


def compile_quadratic(
    problem: Problem, term: Term, known: Arguments
) -> Callable[[Sequence[Array]], QuadraticModel]:
    """Compile the derivatives of the loss of a term.

    Args:
        problem: The problem, its model resolved to a Keras model.
        term: The term.
        known: What it is differentiated by.

    Returns:
        A function of the jets of every evaluation ``[N, R, outputs]``, in the model's dtype. It
        raises NotLayeredError if the term couples its points.
    """
    evaluate = known.compile(partial(seen_loss, problem, term))
    return lambda jets: _differentiate_twice(known, partial(evaluate, jets))


def _differentiate_twice(known: Arguments, evaluate: Products) -> QuadraticModel:
    slopes, _ = evaluate(known.zeros())
    count, shapes = known.num_jets, known.shapes
    curvatures = {}
    for a in range(count):
        products = [evaluate(unit)[1] for unit in known.units(a)]
        for b in range(count):
            rows = np.stack([product[b] for product in products]) if products else np.zeros(0)
            if rows.any():
                if shapes[b][0] != shapes[a][0]:
                    raise NotLayeredError("couples its points")
                rows = np.moveaxis(rows, 0, 1)
                curvatures[a, b] = rows.reshape(*shapes[a], *shapes[b][1:])
    found = [evaluate(unit)[1] for unit in known.direct_units()]
    model = QuadraticModel(
        slopes=slopes[:count],
        curvatures=curvatures,
        crosses=[
            np.array([f[e] for f in found]).reshape(len(found), *shapes[e]) for e in range(count)
        ],
        direct=np.array([known.flat(f) for f in found]).reshape(len(found), len(found)),
    )
    _check(known, model, evaluate)
    return model


def compile_residual(
    problem: Problem, term: ResidualTerm, known: Arguments
) -> Callable[[Sequence[Array]], ResidualModel]:
    """Compile the derivatives of the residual of a term that does not couple its points.

    Args:
        problem: The problem, its model resolved to a Keras model.
        term: The term.
        known: What it is differentiated by.

    Returns:
        A function of the jets of every evaluation ``[N, R, outputs]``, in the model's dtype. It
        raises NotLayeredError if a point's residual is a function of another point's jets, which
        the loss does not tell: points in reverse.
    """
    count = known.num_jets

    def rows(factors: Tensor, *tensors: Tensor) -> tuple[Tensor, ...]:
        arguments = known.tensors(tensors[:count])
        view = known.view(arguments, tf.zeros((), known.dtype))
        residual = seen_values(problem, term, view)
        # A point's residual depends on its own jets alone: the sum over points loses nothing.
        components = tf.unstack(residual * factors[:, tf.newaxis], axis=1)
        slopes = [gradients(r, arguments[:count]) for r in components]
        cotangent = tf.ones_like(residual)
        pulled = tf.gradients(residual, arguments[count:], grad_ys=cotangent)
        tangents = tensors[count:]
        pairs = [(p, t) for p, t in zip(pulled, tangents, strict=True) if p is not None]
        along = [tf.reduce_sum(p * t) for p, t in pairs]
        (pushed,) = gradients(tf.add_n(along), [cotangent]) if along else [tf.zeros_like(residual)]
        return residual, pushed, *[s for component in slopes for s in component]

    evaluate = known.run(rows, [(term.num_points,), *known.shapes])
    ones = np.ones(term.num_points)
    return lambda jets: _differentiate_residual(
        known, ones, lambda factors, tangents: evaluate([factors, *jets, *tangents])
    )


def _differentiate_residual(
    known: Arguments, ones: Floats, evaluate: Callable[[Floats, list[Floats]], list[Floats]]
) -> ResidualModel:
    count = known.num_jets
    zeros = known.zeros()[count:]
    residual, _, *slopes = evaluate(ones, zeros)
    check_own_points(slopes, lambda factors: evaluate(factors, zeros)[2:], known.tolerance)
    units = [unit[count:] for unit in known.direct_units()]
    columns = [evaluate(ones, unit)[1] for unit in units]
    shape = (*residual.shape, len(units))
    return ResidualModel(
        slopes=[np.stack(slopes[e::count]) for e in range(count)],
        direct=np.stack(columns, axis=-1) if columns else np.zeros(shape),
    )


def _check(known: Arguments, model: QuadraticModel, evaluate: Products) -> None:
    """Find couplings between points, which unit vectors for all points at once hide.

    And derivatives of the network that matter, although the term's value does not ask for them.
    """
    rng = np.random.default_rng(7)
    vectors = known.zeros()
    for a in range(len(model.slopes)):
        vectors[a] = rng.normal(size=known.shapes[a])
    slopes, products = evaluate(vectors, 1.0)
    if not all(np.isfinite(found).all() for found in [*slopes, *products]):
        raise NotLayeredError("has derivatives that are NaN or infinite at these weights")
    for b in range(len(model.slopes)):
        expected, size = np.zeros(known.shapes[b]), 0.0
        for (a, other), bend in model.curvatures.items():
            if other == b:
                expected += np.einsum("nrq,nrqsp->nsp", vectors[a], bend)
                size = max(size, float(np.abs(bend).max()))
        if not np.abs(products[b] - expected).max(initial=0) <= known.tolerance * size:
            raise NotLayeredError("couples its points")
        moved = np.abs(slopes[b] - model.slopes[b]).max(initial=0)
        if not moved <= known.tolerance * np.abs(slopes[b]).max(initial=0):
            raise NotLayeredError("needs derivatives of the network that it does not ask for")
