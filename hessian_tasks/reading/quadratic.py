"""A term's loss to second order in the network's jets at its points, and in the weights it reads.

With u = (u, u_x, …) the jets at all evaluations and w the weights that the term reads itself, the
loss is ℓ(u(θ), w), and its Hessian

    H = (∂u/∂θ)ᵀ ℓ_uu (∂u/∂θ) + Σ ℓ_u ∂²u/∂θ² + (∂u/∂θ)ᵀ ℓ_uw S + Sᵀ ℓ_wu (∂u/∂θ) + Sᵀ ℓ_ww S,

where S picks w from θ. So these derivatives at θ are all that an engine needs to know of the term's
code; they are numbers, found here by automatic differentiation once a term. ℓ_uu is asked for by
one unit vector for all points at once; that points do not couple is checked with random vectors.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from hessian_tasks.errors import NotLayeredError
from hessian_tasks.jets import Index, Tensor
from hessian_tasks.loss import View, seen_loss, seen_values
from hessian_tasks.models import dtype_of, parameter_layout, trainable_variables
from hessian_tasks.problem import Problem, ResidualTerm, Term
from hessian_tasks.reading.checks import Rounding, check_own_points, check_value
from hessian_tasks.reading.evaluations import Reading, functions_inlined
from hessian_tasks.reading.stand_in import view_of_stand_ins

__all__ = ["QuadraticModel", "ResidualModel", "differentiate_residual", "differentiate_twice"]

Array: TypeAlias = npt.NDArray[Any]
Floats: TypeAlias = npt.NDArray[np.float64]

# Entries of weights that a term may read itself: each costs a product, and a row of ℓ_ww.
MAX_DIRECT = 512


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


@dataclass(frozen=True)
class ResidualModel:
    """First derivatives of a residual ``[N, C]``.

    Attributes:
        slopes: ``∂r/∂u`` of every evaluation ``[C, N, R, outputs]``.
        direct: ``∂r/∂w`` ``[N, C, m]``.
    """

    slopes: list[Floats]
    direct: Floats


def differentiate_twice(
    problem: Problem, term: Term, reading: Reading, jets: Sequence[Array]
) -> QuadraticModel:
    """Differentiate the loss of a term at given jets.

    Args:
        problem: The problem, its model resolved to a Keras model.
        term: The term.
        reading: What it depends on.
        jets: Of every evaluation ``[N, R, outputs]``, in the model's dtype.

    Raises:
        NotLayeredError: If the term couples its points, or reads too many weights itself.
    """
    known = _Known(problem, reading, jets)
    evaluate = known.compile(partial(seen_loss, problem, term))
    value, slopes, _ = evaluate(known.zeros())
    curvatures = {}
    for a in range(len(jets)):
        products = [evaluate(unit)[2] for unit in known.units(a)]
        for b, jet in enumerate(jets):
            rows = np.stack([product[b] for product in products]) if products else np.zeros(0)
            if rows.any():
                if jet.shape[0] != jets[a].shape[0]:
                    raise NotLayeredError("couples its points")
                rows = np.moveaxis(rows, 0, 1)
                curvatures[a, b] = rows.reshape(*jets[a].shape, *jet.shape[1:])
    found = [evaluate(unit)[2] for unit in known.direct_units()]
    model = QuadraticModel(
        slopes=slopes[: len(jets)],
        curvatures=curvatures,
        crosses=[
            np.array([f[e] for f in found]).reshape(len(found), *j.shape)
            for e, j in enumerate(jets)
        ],
        direct=np.array([known.flat(f) for f in found]).reshape(len(found), len(found)),
    )
    known.check(model, evaluate)
    check_value(problem, term, value, Rounding.of(jets, slopes, curvatures))
    return model


def differentiate_residual(
    problem: Problem, term: ResidualTerm, reading: Reading, jets: Sequence[Array]
) -> ResidualModel:
    """Differentiate the residual of a term that does not couple its points, at given jets.

    Args:
        problem: The problem, its model resolved to a Keras model.
        term: The term.
        reading: What it depends on.
        jets: Of every evaluation ``[N, R, outputs]``, in the model's dtype.

    Raises:
        NotLayeredError: If a point's residual is a function of another point's jets, which the
            loss does not tell: points in reverse.
    """
    known = _Known(problem, reading, jets)

    def rows(factors: Tensor, *tensors: Tensor) -> tuple[Tensor, ...]:
        arguments = known.arguments(tensors[: len(jets)])
        view = known.view(arguments, tf.zeros((), known.dtype))
        residual = seen_values(problem, term, view)
        # A point's residual depends on its own jets alone: the sum over points loses nothing.
        components = tf.unstack(residual * factors[:, tf.newaxis], axis=1)
        slopes = [_gradients(r, arguments[: len(jets)]) for r in components]
        cotangent = tf.ones_like(residual)
        pulled = tf.gradients(residual, arguments[len(jets) :], grad_ys=cotangent)
        tangents = tensors[len(jets) :]
        pairs = [(p, t) for p, t in zip(pulled, tangents, strict=True) if p is not None]
        along = [tf.reduce_sum(p * t) for p, t in pairs]
        (pushed,) = _gradients(tf.add_n(along), [cotangent]) if along else [tf.zeros_like(residual)]
        return residual, pushed, *[s for component in slopes for s in component]

    evaluate = known.run(rows, [(term.num_points,), *known.shapes])
    ones, zeros = np.ones(term.num_points), known.zeros()[len(jets) :]
    residual, _, *slopes = evaluate([ones, *jets, *zeros])
    check_own_points(
        slopes, lambda factors: evaluate([factors, *jets, *zeros])[2:], known.tolerance
    )
    units = [unit[len(jets) :] for unit in known.direct_units()]
    columns = [evaluate([ones, *jets, *unit])[1] for unit in units]
    shape = (*residual.shape, len(units))
    return ResidualModel(
        slopes=[np.stack(slopes[e :: len(jets)]) for e in range(len(jets))],
        direct=np.stack(columns, axis=-1) if columns else np.zeros(shape),
    )


class _Evaluate(Protocol):
    """``ℓ``, and ``ℓ'`` and ``ℓ'' v`` by all arguments."""

    def __call__(
        self, vectors: Sequence[Floats], others: float = 0.0
    ) -> tuple[float, list[Floats], list[Floats]]: ...


class _Known:
    """What a term is a function of: the jets of every evaluation, then the weights it reads."""

    def __init__(self, problem: Problem, reading: Reading, jets: Sequence[Array]) -> None:
        self._problem = problem
        self._reading = reading
        self._jets = jets
        every = trainable_variables(problem.model)
        self._variables = [every[position] for position in reading.direct]
        self.shapes = [jet.shape for jet in jets] + [tuple(v.shape) for v in self._variables]
        self.dtype = dtype_of(problem.model)
        # Rounding that inner derivatives have made larger, up to six digits of sixteen, or three of
        # seven; a mean over N points couples them by 1/N of the largest entry.
        self.tolerance = float(np.finfo(self.dtype).eps) ** 0.6
        if sum(int(np.prod(variable.shape)) for variable in self._variables) > MAX_DIRECT:
            table = parameter_layout(problem.model).variables
            names = [table[position].path for position in reading.direct]
            raise NotLayeredError(
                f"reads {', '.join(names[:3])}{', …' if len(names) > 3 else ''} other than through "
                "the network"
            )

    def zeros(self) -> list[Floats]:
        return [np.zeros(shape) for shape in self.shapes]

    def units(self, evaluation: int) -> Iterator[list[Floats]]:
        """For every entry of a point's jet: 1 there at all points, 0 elsewhere."""
        for entry in np.ndindex(*self.shapes[evaluation][1:]):
            unit = self.zeros()
            unit[evaluation][:, *entry] = 1
            yield unit

    def direct_units(self) -> Iterator[list[Floats]]:
        """For every entry of the weights that the term reads: 1 there, 0 elsewhere."""
        for position in range(len(self._jets), len(self.shapes)):
            for entry in np.ndindex(*self.shapes[position]):
                unit = self.zeros()
                unit[position][entry] = 1
                yield unit

    def flat(self, parts: Sequence[Floats]) -> Floats:
        """The entries of the weights among derivatives by all arguments."""
        return np.concatenate([np.zeros(0), *[part.ravel() for part in parts[len(self._jets) :]]])

    def arguments(self, jets: Sequence[Tensor]) -> list[Tensor]:
        return [*jets, *self._variables]

    def view(self, jets: Sequence[Tensor], others: Tensor) -> View:
        """The network as the term sees it, with these jets.

        Args:
            jets: Of every evaluation.
            others: All other derivatives. Backpropagation asks for some, which do not matter then.
        """
        places = [{i: r for r, i in enumerate(e.indices)} for e in self._reading.evaluations]

        def known(call: int, index: Index, points: Tensor) -> Tensor:
            if call >= len(self._reading.calls):
                raise NotLayeredError("calls the network more often when it is read again")
            place, outputs = self._reading.calls[call], self._reading.outputs[call]
            if index in places[place]:
                return jets[place][:, places[place][index], outputs]
            width = len(range(*outputs.indices(jets[place].shape[2])))
            return tf.fill((points.shape[0], width), others)

        return view_of_stand_ins(self._problem.model, known)[0]

    def compile(self, loss: Callable[[View], Tensor]) -> _Evaluate:
        """A function of a vector v, by all arguments, that gives ``ℓ``, ``ℓ'`` and ``ℓ'' v``."""
        count = len(self.shapes)

        def derivatives(others: Tensor, *tensors: Tensor) -> list[Tensor]:
            arguments = self.arguments(tensors[: len(self._jets)])
            value = loss(self.view(arguments, others))
            slopes = _gradients(value, arguments)
            vectors = tensors[len(self._jets) :]
            along = [tf.reduce_sum(s * v) for s, v in zip(slopes, vectors, strict=True)]
            products = _gradients(tf.add_n(along), arguments) if along else []
            return [value, *slopes, *products]

        evaluate = self.run(derivatives, [(), *self.shapes[: len(self._jets)], *self.shapes])

        def apply(
            vectors: Sequence[Floats], others: float = 0.0
        ) -> tuple[float, list[Floats], list[Floats]]:
            value, *found = evaluate([np.array(others), *self._jets, *vectors])
            return float(value), found[:count], found[count:]

        return apply

    def run(
        self, function: Callable[..., Sequence[Tensor]], shapes: Sequence[tuple[int, ...]]
    ) -> Callable[[Sequence[Array]], list[Floats]]:
        """Compile a function of arrays of these shapes."""
        specs = [tf.TensorSpec(shape, self.dtype) for shape in shapes]
        with functions_inlined():
            compiled = tf.function(function, autograph=False).get_concrete_function(*specs)

        def evaluate(arrays: Sequence[Array]) -> list[Floats]:
            tensors = [tf.constant(array, self.dtype) for array in arrays]
            return [tensor.numpy().astype(np.float64) for tensor in compiled(*tensors)]

        return evaluate

    def check(self, model: QuadraticModel, evaluate: _Evaluate) -> None:
        """Find couplings between points, which unit vectors for all points at once hide.

        And derivatives of the network that matter, although the term's value does not ask for them.
        """
        rng = np.random.default_rng(7)
        vectors = self.zeros()
        for a in range(len(self._jets)):
            vectors[a] = rng.normal(size=self.shapes[a])
        _, slopes, products = evaluate(vectors, 1.0)
        if not all(np.isfinite(found).all() for found in [*slopes, *products]):
            raise NotLayeredError("has derivatives that are NaN or infinite at these weights")
        for b in range(len(self._jets)):
            expected, size = np.zeros(self.shapes[b]), 0.0
            for (a, other), bend in model.curvatures.items():
                if other == b:
                    expected += np.einsum("nrq,nrqsp->nsp", vectors[a], bend)
                    size = max(size, float(np.abs(bend).max()))
            if not np.abs(products[b] - expected).max(initial=0) <= self.tolerance * size:
                raise NotLayeredError("couples its points")
            moved = np.abs(slopes[b] - model.slopes[b]).max(initial=0)
            if not moved <= self.tolerance * np.abs(slopes[b]).max(initial=0):
                raise NotLayeredError("needs derivatives of the network that it does not ask for")


def _gradients(y: Tensor, arguments: Sequence[Tensor]) -> list[Tensor]:
    found = tf.gradients(y, list(arguments))
    return [
        tf.zeros(x.shape, x.dtype) if slope is None else tf.convert_to_tensor(slope)
        for x, slope in zip(arguments, found, strict=True)
    ]
