"""Where a loss term evaluates the network, and what else of θ it depends on.

The term is traced once with a :class:`~hessian_tasks.reading.stand_in.StandIn` that knows nothing
but zeros: where the network is called, and which derivatives are asked for, does not depend on
them. Where it does, because a point is computed from the network's output or from a weight (a free
boundary, a learned delay), the term is not a function of jets at fixed points, and is refused.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from hessian_tasks.errors import HessianError, NotLayeredError
from hessian_tasks.jets import Index, Tensor
from hessian_tasks.loss import seen_loss
from hessian_tasks.models import dtype_of, num_inputs, trainable_variables
from hessian_tasks.problem import Problem, Term
from hessian_tasks.reading.stand_in import Calls, view_of_stand_ins
from hessian_tasks.reads import ancestors
from hessian_tasks.trainables import networks_of

__all__ = [
    "Evaluation",
    "Reading",
    "derivative_names",
    "functions_inlined",
    "name_derivative",
    "output_slices",
    "read_term",
]

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Evaluation:
    """The networks at some points.

    Attributes:
        points: The points ``[N, d]``, in the model's dtype.
        indices: The derivatives that are asked for there, the lowest first; not all of them need to
            matter.
    """

    points: Array
    indices: tuple[Index, ...]


@dataclass(frozen=True)
class Reading:
    """A loss term as a function of jets at fixed points and of some weights.

    Attributes:
        evaluations: Where networks are evaluated, each place once.
        calls: The evaluation that each call of a network is.
        outputs: The outputs that each call is given: of several networks, those of one.
        direct: Positions in θ's table of the variables that the term reads itself, rather than
            through the network.
    """

    evaluations: tuple[Evaluation, ...]
    calls: tuple[int, ...]
    outputs: tuple[slice, ...]
    direct: tuple[int, ...]


def read_term(problem: Problem, term: Term) -> Reading:
    """Find out what a loss term depends on.

    Args:
        problem: The problem, its model resolved to a Keras model.
        term: One of its terms.

    Raises:
        NotLayeredError: If it is no function of jets at fixed points; the message says why.
    """
    try:
        with functions_inlined():
            calls, points, direct = _trace(problem, term)
            slices = output_slices(problem)
    except NotLayeredError:
        raise
    except Exception as error:
        # Whatever the term does that the stand-in cannot; autodiff tells if it is a mistake.
        cause = error.__cause__ if isinstance(error, HessianError) and error.__cause__ else error
        kind = type(cause).__name__
        raise NotLayeredError(f"cannot be read as a function of the network's jets ({kind})") from (
            error
        )
    places, numbers = _places(points)
    indices = [
        sorted({i for c, i in calls.asked if numbers[c] == place}, key=lambda i: (len(i), i))
        for place in range(len(places))
    ]
    evaluations = tuple(Evaluation(p, tuple(i)) for p, i in zip(places, indices, strict=True))
    return Reading(evaluations, numbers, tuple(slices[n] for n in calls.networks), direct)


def derivative_names(problem: Problem, term: Term) -> list[str]:
    """Which derivatives a residual asks for, by name, such as ``["", "xx", "yy"]``.

    None where it cannot be read.
    """
    try:
        reading = read_term(problem, term)
    except NotLayeredError:
        return []
    asked = {index for evaluation in reading.evaluations for index in evaluation.indices}
    return sorted("".join(problem.coordinates[axis] for axis in index) for index in asked)


def name_derivative(network: str, index: Index, coordinates: Sequence[str]) -> str:
    """A derivative as a residual would ask for it.

    Example:
        >>> name_derivative("u", (0, 0), "xy"), name_derivative("u", (), "xy")
        ('u.xx', 'u')
        >>> name_derivative("u", (1,), ())
        'u.x1'
    """
    names = coordinates or [f"x{axis}" for axis in range(max(index, default=0) + 1)]
    return ".".join(filter(None, [network, "".join(names[axis] for axis in index)]))


@contextmanager
def functions_inlined() -> Iterator[None]:
    """Trace a ``tf.function`` of the user's, such as an activation, operation by operation.

    It would otherwise be a single call in the graph, whose inside cannot be read. Called eagerly
    while another function is traced, it adds its operations to that one.
    """
    before = tf.config.functions_run_eagerly()
    tf.config.run_functions_eagerly(True)
    try:
        yield
    finally:
        tf.config.run_functions_eagerly(before)


def _trace(problem: Problem, term: Term) -> tuple[Calls, list[Array], tuple[int, ...]]:
    variables = trainable_variables(problem.model)
    networks, dtype = networks_of(problem.model), dtype_of(problem.model)
    shapes: dict[int, tuple[int, ...]] = {}
    direct: list[int] = []
    traced: list[Calls] = []

    def zeros(call: int, _: Index, points: Tensor) -> Tensor:
        if call not in shapes:
            shape = networks[calls.networks[call]](points).shape
            if shape.rank != 2:
                raise NotLayeredError(f"uses a network that returns shape {tuple(shape)}")
            shapes[call] = tuple(shape)
        return tf.zeros(shapes[call], dtype)

    view, calls = view_of_stand_ins(problem.model, zeros)

    def trace() -> list[Tensor]:
        loss = seen_loss(problem, term, view)
        # What gradients ask for beside, to be taken below, does not matter.
        traced.append(replace(calls, asked=list(calls.asked), given=list(calls.given)))
        slopes = tf.gradients(loss, variables) if loss.op.inputs else []
        direct.extend(i for i, slope in enumerate(slopes) if slope is not None)
        _check_fixed(calls.points, traced[0].given, variables)
        return calls.points

    found = tf.function(trace, autograph=False).get_concrete_function()()
    return traced[0], [np.asarray(tensor.numpy()) for tensor in found], tuple(direct)


def output_slices(problem: Problem) -> dict[str, slice]:
    """Where the outputs of each network are among those of all, one beside the other."""
    networks = networks_of(problem.model)
    if len(networks) == 1:
        return dict.fromkeys(networks, slice(None))
    slices, start = {}, 0
    for name, network in networks.items():
        point = tf.zeros((1, len(problem.coordinates) or num_inputs(network)), dtype_of(network))
        stop = start + int(network(point).shape[1])
        slices[name], start = slice(start, stop), stop
    return slices


def _check_fixed(
    points: Sequence[Tensor], given: Sequence[Tensor], variables: Sequence[Tensor]
) -> None:
    # Points that are chosen by what the network gives have no gradient, and depend on it as well.
    chosen = {tensor.op for tensor in given}
    for tensor in points:
        moved = any(slope is not None for slope in tf.gradients(tensor, list(variables)))
        if moved or not chosen.isdisjoint(ancestors(tensor)):
            raise NotLayeredError("evaluates the network at points that depend on the weights")


def _places(points: Sequence[Array]) -> tuple[list[Array], tuple[int, ...]]:
    """The different sets of points, and which of them each call has."""
    places: list[Array] = []
    calls = []
    for given in points:
        same = [i for i, known in enumerate(places) if np.array_equal(known, given)]
        calls.append(same[0] if same else len(places))
        if not same:
            places.append(given)
    return places, tuple(calls)
