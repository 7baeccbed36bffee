"""The graph of a network, traced once, and where its weights are in it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy.typing as npt
import tensorflow as tf

from hessian_tasks.errors import NotLayeredError
from hessian_tasks.jets import Tensor
from hessian_tasks.layered.read._subgraph import sources, walk_back
from hessian_tasks.networks.joint import Joint
from hessian_tasks.networks.models import dtype_of, parameter_layout, trainable_variables
from hessian_tasks.parameters import ParameterLayout
from hessian_tasks.problem import Problem
from hessian_tasks.reading import functions_inlined

__all__ = ["TracedNetwork", "trace_network"]


@dataclass(frozen=True, eq=False)
class TracedNetwork:
    """All networks of a problem as one graph.

    Attributes:
        graph: The graph.
        points: Its argument ``[None, d]``, the inputs of all networks side by side.
        output: What it returns.
        layout: The table of weights.
        parameters: Positions in that table of the tensors that are weights, by their names.
        constants: Values of all other tensors that the graph captures.
        depends: What every tensor depends on, of ``"points"`` and ``"weights"``.
    """

    graph: Any
    points: Tensor
    output: Tensor
    layout: ParameterLayout
    parameters: dict[str, int]
    constants: dict[str, npt.NDArray[Any]]
    depends: dict[str, frozenset[str]]


def trace_network(problem: Problem) -> TracedNetwork:
    """Trace the networks of a problem on points.

    Args:
        problem: The problem, its model resolved to a Keras model.

    Raises:
        NotLayeredError: If that is not possible, or they return no matrix.
    """
    joint = Joint(problem)
    spec = tf.TensorSpec([None, joint.width], dtype_of(problem.model))
    try:
        traced = tf.function(lambda points: joint(points), autograph=False)
        with functions_inlined():
            concrete = traced.get_concrete_function(spec)
    except Exception as error:
        raise NotLayeredError(
            f"the network cannot be traced on points ({type(error).__name__})"
        ) from error
    if len(concrete.outputs) != 1 or concrete.outputs[0].shape.rank != 2:
        raise NotLayeredError("the network does not return one tensor [N, outputs]")
    graph = concrete.graph
    parameters, constants = _read_captures(graph, problem.model)
    _check_states(concrete.outputs[0], {*parameters, *constants})
    return TracedNetwork(
        graph=graph,
        points=graph.inputs[0],
        output=concrete.outputs[0],
        layout=parameter_layout(problem.model),
        parameters=parameters,
        constants=constants,
        depends=_find_dependencies(graph, parameters),
    )


def _read_captures(graph: Any, model: Any) -> tuple[dict[str, int], dict[str, npt.NDArray[Any]]]:
    parameters: dict[str, int] = {}
    constants: dict[str, npt.NDArray[Any]] = {}
    trainable = {v.handle.ref(): i for i, v in enumerate(trainable_variables(model))}
    others = {v.value.handle.ref(): v.value for v in model.non_trainable_weights}
    captured = {internal.name: external for external, internal in graph.captures}
    for operation in graph.get_operations():
        if operation.type == "ReadVariableOp":
            handle = captured.get(operation.inputs[0].name)
            name = operation.outputs[0].name
            if handle is not None and handle.ref() in trainable:
                parameters[name] = trainable[handle.ref()]
            elif handle is not None and handle.ref() in others:
                constants[name] = others[handle.ref()].numpy()
    for name, external in captured.items():
        if external.dtype != tf.resource:
            constants[name] = external.numpy()
    return parameters, constants


def _check_states(output: Tensor, known: set[str]) -> None:
    """Refuse what is no function: layers that draw random numbers unless a loss says otherwise."""
    for operation in walk_back(output, known):
        if operation.type == "ReadVariableOp":
            raise NotLayeredError(
                "the network reads a state, as of random numbers, which is none of its weights"
            )


def _find_dependencies(graph: Any, parameters: dict[str, int]) -> dict[str, frozenset[str]]:
    depends: dict[str, frozenset[str]] = {graph.inputs[0].name: frozenset({"points"})}
    for operation in graph.get_operations():
        for tensor in operation.outputs:
            inputs = [depends.get(source.name, frozenset()) for source in sources(tensor)]
            found = frozenset().union(*inputs)
            if tensor.name in parameters:
                found = frozenset({"weights"})
            depends.setdefault(tensor.name, found)
    return depends
