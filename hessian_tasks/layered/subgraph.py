"""Pieces of a traced TensorFlow graph as functions that can be called on other tensors."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy.typing as npt
import tensorflow as tf

from hessian_tasks.jets import Tensor

__all__ = ["make_function", "walk_back"]


def walk_back(output: Tensor, stops: set[str]) -> list[Any]:
    """The operations that ``output`` needs, up to tensors named in ``stops``."""
    found: dict[str, Any] = {}
    waiting = [output]
    while waiting:
        tensor = waiting.pop()
        if tensor.name in stops or tensor.op.name in found:
            continue
        found[tensor.op.name] = tensor.op
        waiting.extend(tensor.op.inputs)
    return list(found.values())


def make_function(
    output: Tensor, boundary: Sequence[Tensor], constants: Mapping[str, npt.NDArray[Any]]
) -> Callable[..., Tensor]:
    """A function of the boundary tensors that computes ``output`` as the graph does.

    Args:
        output: Tensor of the traced graph.
        boundary: Tensors of the same graph; they become the arguments.
        constants: Values of tensors that the graph captures, by name.

    Returns:
        A function to be called inside ``tf.function``.
    """
    names = [tensor.name for tensor in boundary]
    known = {key: value for key, value in constants.items() if key not in names}
    operations = walk_back(output, {*names, *known})
    definition = tf.compat.v1.GraphDef(library=output.graph.as_graph_def().library)
    definition.versions.CopyFrom(output.graph.as_graph_def().versions)
    used: set[str] = set()
    for operation in operations:
        used.update(tensor.name for tensor in operation.inputs)
        node = definition.node.add()
        node.CopyFrom(operation.node_def)
        data_inputs = [name for name in node.input if not name.startswith("^")]
        del node.input[:]
        node.input.extend(data_inputs)

    def function(*tensors: Tensor) -> Tensor:
        if output.name in names:
            return tensors[names.index(output.name)]
        if output.name in known:
            return tf.constant(known[output.name])
        values = dict(zip(names, tensors, strict=True))
        values.update({key: tf.constant(value) for key, value in known.items()})
        mapped = {key: value for key, value in values.items() if key in used}
        return tf.graph_util.import_graph_def(
            definition, input_map=mapped, return_elements=[output.name], name="layered"
        )[0]

    return function
