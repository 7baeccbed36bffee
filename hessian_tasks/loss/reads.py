"""What a loss is computed from beside what it declares: the captures and constants of its graph.

A loss is any Python code, so what it reads is found in the graph that it leaves: the operations
that its value follows from, and the bodies of the functions that they call.
"""

from __future__ import annotations

import gc
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import keras
import numpy.typing as npt
import tensorflow as tf

from hessian_tasks.digests import digest, digest_text
from hessian_tasks.errors import ProblemError
from hessian_tasks.jets import Tensor
from hessian_tasks.loss.graphs import inner_operations

__all__ = ["Reads", "ancestors", "check_variables", "read_by"]

# Small integers are axes and shapes, which the library's code makes, and another version otherwise.
MAX_AXES = 8


@dataclass(frozen=True)
class Reads:
    """What the value of a traced function follows from.

    Attributes:
        variables: The ``tf.Variable`` objects whose values it may take.
        constants: Digests of the numbers in its graph, and of the tensors that it captures, with
            repetitions and in no order.
    """

    variables: tuple[Any, ...]
    constants: tuple[str, ...]

    def digest(self, network: Iterable[Any], declared: Iterable[npt.NDArray[Any]]) -> str:
        """SHA-256 of the numbers that are not recorded otherwise.

        It depends on no name and no order, which differ from one trace to the next.

        Args:
            network: The variables of the network.
            declared: The arrays of the term, as it is given them.
        """
        own, known = {id(variable) for variable in network}, {digest(a) for a in declared}
        others = [digest(v.numpy()) for v in self.variables if id(v) not in own]
        found = sorted([*others, *(one for one in self.constants if one not in known)])
        return digest_text("\n".join(found))


def read_by(value: Tensor, graph: Any) -> Reads:
    """What a value of a traced function follows from.

    Args:
        value: A tensor of the function's graph.
        graph: That graph, complete.

    Example:
        >>> nu, pi = tf.Variable(2.0), tf.constant(3.0)
        >>> values = []
        >>> def loss():
        ...     values.append(pi * nu)
        ...     return values[0]
        >>> graph = tf.function(loss).get_concrete_function().graph
        >>> found = read_by(values[0], graph)
        >>> found.variables[0] is nu, found.constants == (digest(pi.numpy()),)
        (True, True)
    """
    operations = ancestors(value)
    handles = {id(variable.handle): variable for variable in graph.variables}
    # What is small is captured as a constant, which is found as such.
    captured = [
        outside
        for outside, inside in graph.captures
        if inside.op in operations and inside.op.type != "Const"
    ]
    constants = [digest(t.numpy()) for t in captured if t.dtype.is_numpy_compatible]
    constants += [digest(a) for a in _constants(operations, graph) if _counts(a)]
    return Reads(
        tuple(handles[id(outside)] for outside in captured if id(outside) in handles),
        tuple(constants),
    )


def ancestors(value: Tensor) -> set[Any]:
    """The operations that a tensor of a graph follows from, its own among them."""
    found: set[Any] = set()
    waiting = [value.op]
    while waiting:
        operation = waiting.pop()
        if operation not in found:
            found.add(operation)
            waiting.extend(tensor.op for tensor in operation.inputs)
    return found


def _counts(array: npt.NDArray[Any]) -> bool:
    return array.dtype.kind not in "biuSO" or (array.dtype.kind in "biu" and array.size > MAX_AXES)


def _constants(operations: Iterable[Any], graph: Any) -> Iterator[npt.NDArray[Any]]:
    """The constants of operations, and of the functions that they call."""
    for operation in inner_operations(operations, graph):
        if operation.type == "Const":
            yield tf.make_ndarray(operation.get_attr("value"))


def check_variables(reads: Reads, network: Iterable[Any], term: str) -> None:
    """Refuse a variable that is trainable and not among the network's.

    Args:
        reads: What the term reads.
        network: The variables of the network.
        term: Name of the term.

    Raises:
        ProblemError: Naming the variable.
    """
    own = {id(variable) for variable in network}
    foreign = [v for v in reads.variables if v.trainable and id(v) not in own]
    owners = _owners(foreign) if foreign else {}
    for variable in foreign:
        # Keras says of its own variable, one of a frozen layer for example, that it is held fixed;
        # the tf.Variable inside stays as it was made.
        owner = owners.get(id(variable))
        if owner is None or owner.trainable:
            name = variable.name.partition(":")[0] if owner is None else owner.path
            raise ProblemError(
                f"Term {term!r} reads the trainable variable {name!r} of shape "
                f"{tuple(variable.shape)}, which is no weight of the network that the term is "
                "given, so that it would count as a constant. Declare it in the problem's "
                "parameters, or hold it fixed: trainable=False, or a number."
            )


def _owners(variables: Iterable[Any]) -> dict[int, Any]:
    """The variables of Keras that these ``tf.Variable`` are the values of, which they do not know.

    In one look at all objects, of which there may be millions.
    """
    wanted = {id(variable) for variable in variables}
    return {
        id(value): found
        for found in gc.get_objects()
        # Not isinstance, which asks objects that only stand for others.
        if issubclass(type(found), keras.Variable)
        and id(value := getattr(found, "_value", None)) in wanted
    }
