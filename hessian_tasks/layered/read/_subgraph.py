"""Pieces of a traced TensorFlow graph as functions that can be called on other tensors."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy.typing as npt
import tensorflow as tf

from hessian_tasks.jets import Tensor

__all__ = ["make_function", "plain", "sources", "walk_back"]


def plain(tensor: Tensor) -> Tensor:
    """The tensor that ``tensor`` is an identity of."""
    while tensor.op.type == "Identity":
        tensor = tensor.op.inputs[0]
    return tensor


def sources(tensor: Tensor) -> list[Tensor]:
    """The tensors that ``tensor`` is computed from.

    One output of ``IdentityN`` is one of its inputs. ``tf.custom_gradient`` gives it the
    arguments of its function as well, for the gradient's use.
    """
    inputs = list(tensor.op.inputs)
    return [inputs[tensor.value_index]] if tensor.op.type == "IdentityN" else inputs


def walk_back(output: Tensor, stops: set[str]) -> list[Any]:
    """The operations that ``output`` needs, up to tensors named in ``stops``."""
    found: dict[str, Any] = {}
    seen: set[str] = set(stops)
    waiting = [output]
    while waiting:
        tensor = waiting.pop()
        if tensor.name not in seen:
            seen.add(tensor.name)
            found[tensor.op.name] = tensor.op
            waiting.extend(sources(tensor))
    return list(found.values())


def make_function(
    output: Tensor, boundary: Sequence[Tensor], constants: Mapping[str, npt.NDArray[Any]]
) -> Callable[..., Tensor]:
    """A function of the boundary tensors that computes ``output`` as the graph does.

    Its derivatives are those of the operations. The gradients of ``tf.custom_gradient`` are left
    behind: they are made of tensors of the graph that they were traced in.

    Args:
        output: Tensor of the traced graph.
        boundary: Tensors of the same graph; they become the arguments.
        constants: Values of tensors that the graph captures, by name.

    Returns:
        A function to be called inside ``tf.function``.
    """
    names = [tensor.name for tensor in boundary]
    known = {key: value for key, value in constants.items() if key not in names}
    stops = {*names, *known}
    result = _unwrap(output, stops).name
    graph = output.graph.as_graph_def()
    definition = tf.compat.v1.GraphDef(library=graph.library, versions=graph.versions)
    used: set[str] = set()
    for operation in walk_back(output, stops):
        if operation.type != "IdentityN":
            node = definition.node.add()
            node.CopyFrom(operation.node_def)
            node.attr.pop("_class", None)  # a wish for a device, by the names of operations
            del node.input[:]
            node.input.extend(_unwrap(tensor, stops).name for tensor in operation.inputs)
            if operation.type == "BiasAdd" and node.input[1] in names:
                # A bias that is an argument has a row for each point.
                node.op = "AddV2"
                node.attr.pop("data_format", None)
            used.update(node.input)

    def function(*tensors: Tensor) -> Tensor:
        values = dict(zip(names, tensors, strict=True))
        values.update({key: tf.constant(value) for key, value in known.items()})
        if result in values:
            return values[result]
        mapped = {key: value for key, value in values.items() if key in used}
        return tf.graph_util.import_graph_def(
            definition, input_map=mapped, return_elements=[result], name="layered"
        )[0]

    return function


def _unwrap(tensor: Tensor, stops: set[str]) -> Tensor:
    while tensor.op.type == "IdentityN" and tensor.name not in stops:
        (tensor,) = sources(tensor)
    return tensor
