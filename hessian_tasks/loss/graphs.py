"""The graphs of traced functions: their operations, and what TensorFlow keeps of them for ever."""

from __future__ import annotations

import importlib
from collections.abc import Iterable, Iterator
from typing import Any

__all__ = ["forget_gradients", "inner_operations"]

# Where an operation has the name of its custom gradient.
_GRADIENT = "_gradient_op_type"


def inner_operations(operations: Iterable[Any], graph: Any) -> Iterator[Any]:
    """Operations, and those of the functions that they call: loops, branches, others.

    Args:
        operations: Operations of the graph.
        graph: That graph, complete.
    """
    seen: set[str] = set()
    waiting = [(operation, graph) for operation in operations]
    while waiting:
        operation, around = waiting.pop()
        yield operation
        for name in _called(operation):
            # TensorFlow has no public way from a call to the body.
            function = around._get_function(name)
            if name not in seen and function is not None:
                seen.add(name)
                body = function.graph
                waiting.extend((inner, body) for inner in body.get_operations())


def _called(operation: Any) -> list[str]:
    names = []
    for attribute in operation.op_def.attr:
        if attribute.type == "func":
            names.append(operation.get_attr(attribute.name).name)
        elif attribute.type == "list(func)":
            names += [function.name for function in operation.get_attr(attribute.name)]
    return names


def forget_gradients(function: Any) -> Any:
    """Let go of the custom gradients in a traced function, whose own gradients are all in it.

    What ``tf.custom_gradient`` makes in a graph is kept in a table of the process, by a name that
    nobody asks for again, and with it the graph and all numbers in it.

    Args:
        function: A concrete function, or what else has its graph, not to be differentiated again.

    Returns:
        The function.

    Example:
        >>> import tensorflow as tf
        >>> @tf.custom_gradient
        ... def square(x):
        ...     return x**2, lambda upstream: 2 * x * upstream
        >>> x = tf.TensorSpec([])
        >>> slope = tf.function(lambda x: tf.gradients(square(x), x)).get_concrete_function(x)
        >>> float(forget_gradients(slope)(tf.constant(3.0))[0])
        6.0
    """
    # There is no public way to take something out of it.
    table = importlib.import_module("tensorflow.python.framework.ops").gradient_registry._registry
    for operation in inner_operations(function.graph.get_operations(), function.graph):
        if operation.type == "IdentityN" and _GRADIENT in operation.node_def.attr:
            table.pop(operation.get_attr(_GRADIENT).decode(), None)
    return function
