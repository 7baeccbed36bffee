"""The loss, term by term, as a TensorFlow function of the model's weights."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import tensorflow as tf

from hessian_tasks.errors import HessianError, ProblemError, plain
from hessian_tasks.jets import (
    Derivative,
    Jet,
    Tensor,
    forward_derivative,
)
from hessian_tasks.loss.batches import Part, term_arrays
from hessian_tasks.networks.feed import Feed
from hessian_tasks.networks.inputs import EvaluateInputs, Inputs, evaluate_inputs
from hessian_tasks.networks.models import dtype_of
from hessian_tasks.networks.trainables import networks_of, parameters_of
from hessian_tasks.problem import LossTerm, PointTerm, Problem, Term

__all__ = [
    "View",
    "by_term",
    "part_loss",
    "seen_loss",
    "seen_summands",
    "seen_values",
    "term_loss",
    "term_values",
]


@dataclass(frozen=True)
class View:
    """The networks of a problem as the code of a loss term sees them.

    Attributes:
        networks: What a :class:`~hessian_tasks.problem.LossTerm` is given to call, by name.
        evaluates: What the jets of a residual are made by, likewise.
    """

    networks: Mapping[str, Any]
    evaluates: Mapping[str, EvaluateInputs]

    @classmethod
    def of(cls, model: Any, derivative: Derivative = forward_derivative) -> View:
        """The networks themselves, whose jets are differentiated automatically."""
        networks = networks_of(model)
        evaluates = {
            name: evaluate_inputs(network, Inputs.of(network), derivative)
            for name, network in networks.items()
        }
        return cls(networks, evaluates)


def term_loss(
    problem: Problem,
    term: Term,
    derivative: Derivative = forward_derivative,
    arrays: Mapping[str, Tensor] | None = None,
) -> Tensor:
    """The weighted value of one loss term, a scalar in the model's dtype.

    Call it inside ``tf.function``.

    Args:
        problem: The problem, its model resolved to a Keras model.
        term: One of its terms.
        derivative: How the jets of residual terms differentiate.
        arrays: A batch of the data of a batched term, whose share in the loss is wanted.

    Raises:
        ProblemError: If the residual or the loss has the wrong shape or dtype, or
            raises by itself.
    """
    return seen_loss(problem, term, View.of(problem.model, derivative), arrays)


def part_loss(problem: Problem, part: Part, derivative: Derivative = forward_derivative) -> Tensor:
    """The weighted value of a part of the loss; see :func:`term_loss`."""
    return tf.add_n([term_loss(problem, term, derivative, part.arrays) for term in part.terms])


def by_term(problem: Problem, found: Mapping[str, Tensor]) -> Tensor:
    """What was found of the terms of a part, in the order of all terms, zero of the others."""
    zero = tf.zeros_like(next(iter(found.values())))
    return tf.stack([found.get(term.name, zero) for term in problem.terms])


def seen_loss(
    problem: Problem, term: Term, view: View, arrays: Mapping[str, Tensor] | None = None
) -> Tensor:
    """What :func:`term_loss` gives, of whatever stands for the network."""
    dtype = dtype_of(problem.model)
    try:
        if isinstance(term, PointTerm):
            value = tf.reduce_mean(seen_summands(problem, term, view))
        else:
            data = term_arrays(problem, term) if arrays is None else arrays
            known = {**view.networks, **_parameters(problem)}
            named = {**_asked_for(term.loss, known, 1), **data}
            network = view.networks[_given(term.loss, 0, view)]
            value = tf.convert_to_tensor(term.loss(network, **named))
    except HessianError:
        raise
    except Exception as error:
        raise ProblemError(
            f"Term {term.name!r} failed: {type(error).__name__}: {plain(error)}"
        ) from error
    if value.shape.rank != 0:
        raise ProblemError(
            f"The loss of term {term.name!r} has shape {value.shape}; expected a scalar. "
            "Reduce it, for example with tf.reduce_mean."
        )
    _check_precision(value.dtype.name, dtype, f"The loss of term {term.name!r} has")
    return tf.constant(term.weight * _share(term, arrays), dtype) * tf.cast(value, dtype)


def seen_summands(
    problem: Problem, term: PointTerm, view: View, arrays: Mapping[str, Tensor] | None = None
) -> Tensor:
    """What a term is the mean of, ``[N, C]``: its squared residuals, or its density."""
    values = seen_values(problem, term, view, arrays)
    return tf.square(values) if term.squared else values


def _share(term: Term, arrays: Mapping[str, Tensor] | None) -> float:
    """``n_b / N`` of a batch of n_b of the term's N examples, 1 of all that it has."""
    if arrays is None or not isinstance(term, LossTerm):
        return 1.0
    return int(next(iter(arrays.values())).shape[0]) / term.num_examples


def _check_precision(found: str, dtype: str, what: str) -> None:
    # Rounding to fewer digits on the way, or to integers, would go unnoticed in the result.
    if found.startswith("complex"):
        raise ProblemError(
            f"{what} dtype {found}; expected real numbers. Of complex residuals return real and "
            "imaginary part as components, [tf.math.real(r), tf.math.imag(r)], whose squares add "
            "up to |r|²; of a complex loss one of them, or its modulus."
        )
    if found not in ("float64", dtype):
        raise ProblemError(
            f"{what} dtype {found}, but the weights are {dtype}: the Hessian would be no better "
            f"than {found}. Pass dtype={dtype!r} to the layers, inputs and losses of Keras."
        )


def term_values(
    problem: Problem,
    term: PointTerm,
    derivative: Derivative = forward_derivative,
    arrays: Mapping[str, Tensor] | None = None,
) -> Tensor:
    """The residual of a term, or its density, at its points, ``[N, C]`` in the model's dtype.

    Call it inside ``tf.function``.

    Args:
        problem: The problem, its model resolved to a Keras model.
        term: One of its terms.
        derivative: How its jet differentiates.
        arrays: Other points, and the data that belong to them, than the term's own.

    Raises:
        ProblemError: If they have the wrong shape, or the network's inputs the wrong dtype.
    """
    return seen_values(problem, term, View.of(problem.model, derivative), arrays)


def seen_values(
    problem: Problem, term: PointTerm, view: View, arrays: Mapping[str, Tensor] | None = None
) -> Tensor:
    """What :func:`term_values` gives, of whatever stands for the network."""
    dtype = dtype_of(problem.model)
    for entry in getattr(problem.model, "inputs", None) or []:
        _check_precision(str(entry.dtype), dtype, "The network's input has")
    data = dict(term_arrays(problem, term) if arrays is None else arrays)
    points = data.pop("points")

    def jet(name: str) -> Jet:
        evaluate = Feed.of(problem, term, name).evaluate(view.evaluates[name], data)
        return Jet(evaluate, points, problem.coordinates)

    known = {**_parameters(problem), **data}
    named = _asked_for(term.function, {**dict.fromkeys(view.networks), **known}, 2)
    named |= {name: jet(name) for name in named.keys() & view.networks.keys()}
    components = term.function(points, jet(_given(term.function, 1, view)), **named)
    if not isinstance(components, list | tuple):
        components = [components]
    values = tf.concat([_as_columns(c, term, points.shape[0]) for c in components], axis=1)
    if not term.squared and values.shape[1] != 1:
        raise ProblemError(
            f"The density of term {term.name!r} has shape {tuple(values.shape)}; expected [N] or "
            "[N, 1]. Sum over its components."
        )
    return values


def _parameters(problem: Problem) -> dict[str, Tensor]:
    return {n: tf.convert_to_tensor(v) for n, v in parameters_of(problem.model).items()}


def _arguments(function: Callable[..., Any]) -> list[str]:
    try:
        return list(inspect.signature(function).parameters)
    except (TypeError, ValueError):  # a function of C, which cannot be asked
        return []


def _given(function: Callable[..., Any], position: int, view: View) -> str:
    """The network that a term's function is always given: the first, unless it names another."""
    names = _arguments(function)[position : position + 1]
    return next((name for name in names if name in view.networks), next(iter(view.networks)))


def _asked_for(
    function: Callable[..., Any], known: Mapping[str, Any], num_given: int
) -> dict[str, Any]:
    """What a term's function asks for by name, beside the arguments that it is always given."""
    return {name: known[name] for name in _arguments(function)[num_given:] if name in known}


def _as_columns(component: Tensor, term: PointTerm, num_points: int) -> Tensor:
    component = tf.convert_to_tensor(component)
    if component.dtype.is_complex:
        _check_precision(component.dtype.name, "", f"The {term.kind} of term {term.name!r} has")
    shape = tuple(component.shape)
    if shape == (num_points,):
        return component[:, tf.newaxis]
    # [N] - [N, 1] broadcasts to [N, N]: the classic silent mistake of PINN losses.
    if len(shape) != 2 or shape[0] != num_points or (num_points > 1 and shape[1] == num_points):
        raise ProblemError(
            f"The {term.kind} of term {term.name!r} has shape {shape} at {num_points} points; "
            "expected [N] or [N, components]. Derivatives have shape [N, outputs], so take "
            "columns of the points as x[:, 0:1], not x[:, 0]."
        )
    return component
