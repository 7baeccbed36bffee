"""Where a loss term evaluates the network, and what else of θ it depends on.

The term is traced once with a :class:`~hessian_tasks.reading._stand_in.StandIn` that knows nothing
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
from hessian_tasks.loss.graphs import forget_gradients
from hessian_tasks.loss.reads import ancestors
from hessian_tasks.loss.terms import seen_loss
from hessian_tasks.networks.joint import Joint
from hessian_tasks.networks.models import dtype_of, trainable_variables
from hessian_tasks.networks.trainables import networks_of
from hessian_tasks.problem import Problem, Term
from hessian_tasks.reading._stand_in import MAX_COLUMNS, Calls, Known, view_of_stand_ins

__all__ = [
    "Dependence",
    "Evaluation",
    "find_dependence",
    "functions_inlined",
    "shifted",
]

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Evaluation:
    """The networks at some points.

    Attributes:
        points: The inputs of all networks side by side ``[N, d]``, in the model's dtype.
        indices: The derivatives that are asked for there, the lowest first; not all of them need to
            matter.
    """

    points: Array
    indices: tuple[Index, ...]


@dataclass(frozen=True)
class Dependence:
    """A loss term as a function of jets at fixed points and of some weights.

    Attributes:
        evaluations: Where networks are evaluated, each place once.
        calls: The evaluation that each call of a network is.
        starts: The first column of each call's inputs among those of all networks.
        outputs: The outputs that each call is given: of several networks, those of one.
        direct: Positions in θ's table of the variables that the term reads itself, rather than
            through the network.
    """

    evaluations: tuple[Evaluation, ...]
    calls: tuple[int, ...]
    starts: tuple[int, ...]
    outputs: tuple[slice, ...]
    direct: tuple[int, ...]


def find_dependence(problem: Problem, term: Term) -> Dependence:
    """Find out what a loss term depends on.

    Args:
        problem: The problem, its model resolved to a Keras model.
        term: One of its terms.

    Raises:
        NotLayeredError: If it is no function of jets at fixed points; the message says why.
    """
    joint = Joint(problem)
    try:
        with functions_inlined():
            calls, points, direct = _trace(problem, term, joint)
            slices = joint.outputs()
    except NotLayeredError:
        raise
    except Exception as error:
        # Whatever the term does that the stand-in cannot; autodiff tells if it is a mistake.
        cause = error.__cause__ if isinstance(error, HessianError) and error.__cause__ else error
        kind = type(cause).__name__
        raise NotLayeredError(f"cannot be read as a function of the network's jets ({kind})") from (
            error
        )
    columns = [joint.columns[name] for name in calls.networks]
    inputs = [np.concatenate(parts, axis=1) for parts in points]
    width = joint.width or (inputs[0].shape[1] if inputs else 0)
    places, numbers = _places(list(zip(columns, inputs, strict=True)), width)
    asked: list[set[Index]] = [set() for _ in places]
    for call, index in calls.asked:
        asked[numbers[call]].add(shifted(index, columns[call].start))
    ordered = (tuple(sorted(found, key=lambda i: (len(i), i))) for found in asked)
    evaluations = tuple(Evaluation(p, i) for p, i in zip(places, ordered, strict=True))
    starts = tuple(entry.start for entry in columns)
    return Dependence(
        evaluations, numbers, starts, tuple(slices[n] for n in calls.networks), direct
    )


def shifted(index: Index, start: int) -> Index:
    """A derivative by columns of one network's inputs, by those of all networks'."""
    return tuple(axis + start for axis in index)


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


def _trace(
    problem: Problem, term: Term, joint: Joint
) -> tuple[Calls, list[list[Array]], tuple[int, ...]]:
    variables = trainable_variables(problem.model)
    networks, dtype = networks_of(problem.model), dtype_of(problem.model)
    shapes: dict[int, tuple[int, ...]] = {}
    direct: list[int] = []
    traced: list[Calls] = []

    def zeros(call: int, _: Index, parts: Sequence[Tensor]) -> Tensor:
        if call not in shapes:
            name = calls.networks[call]
            shape = networks[name](joint.inputs[name].pack(parts)).shape
            if shape.rank != 2:
                raise NotLayeredError(f"uses a network that returns shape {tuple(shape)}")
            shapes[call] = tuple(shape)
        return tf.zeros(shapes[call], dtype)

    view, calls = view_of_stand_ins(problem.model, Known(zeros))

    def trace() -> list[list[Tensor]]:
        loss = seen_loss(problem, term, view)
        # What gradients ask for beside, to be taken below, does not matter.
        traced.append(_asked_by(loss, calls))
        slopes = tf.gradients(loss, variables) if loss.op.inputs else []
        direct.extend(i for i, slope in enumerate(slopes) if slope is not None)
        flat = [part for parts in calls.points for part in parts]
        _check_fixed(flat, traced[0].given, variables)
        return calls.points

    found = forget_gradients(tf.function(trace, autograph=False).get_concrete_function())()
    points = [[np.asarray(tensor.numpy()) for tensor in parts] for parts in found]
    return traced[0], points, tuple(direct)


def _asked_by(loss: Tensor, calls: Calls) -> Calls:
    """The calls with the derivatives alone that the loss follows from.

    A gradient by all inputs of a network asks for many more.
    """
    used = ancestors(loss)
    if any(tensor.op in used for tensor in calls.unknown):
        raise NotLayeredError(
            f"differentiates the network by more than {MAX_COLUMNS} columns of an input"
        )
    pairs = zip(calls.asked, calls.given, strict=True)
    # What is inside a loop or a branch is in a graph of its own.
    kept = [(a, g) for a, g in pairs if g.op in used or g.graph is not loss.graph]
    return replace(calls, asked=[a for a, _ in kept], given=[g for _, g in kept])


def _check_fixed(
    points: Sequence[Tensor], given: Sequence[Tensor], variables: Sequence[Tensor]
) -> None:
    # Points that are chosen by what the network gives have no gradient, and depend on it as well.
    chosen = {tensor.op for tensor in given}
    for tensor in points:
        moved = any(slope is not None for slope in tf.gradients(tensor, list(variables)))
        if moved or not chosen.isdisjoint(ancestors(tensor)):
            raise NotLayeredError("evaluates the network at points that depend on the weights")


def _places(
    calls: Sequence[tuple[slice, Array]], width: int
) -> tuple[list[Array], tuple[int, ...]]:
    """The different places at which networks are called, and which of them each call is at.

    Args:
        calls: The columns of the network's inputs among those of all, and these inputs.
        width: Number of columns of all.
    """
    places: list[Array] = []
    taken: list[list[slice]] = []
    numbers = []
    for columns, given in calls:
        number = next((i for i, p in enumerate(places) if _fits(p, taken[i], columns, given)), None)
        if number is None:
            number = len(places)
            places.append(np.zeros((len(given), width), given.dtype))
            taken.append([])
        places[number][:, columns] = given
        taken[number].append(columns)
        numbers.append(number)
    return places, tuple(numbers)


def _fits(place: Array, taken: list[slice], columns: slice, given: Array) -> bool:
    """Whether a call is at a place, or could be: other networks alone are called there."""
    if len(place) != len(given):
        return False
    return columns not in taken or np.array_equal(place[:, columns], given)
