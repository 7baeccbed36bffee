"""The network's program with its weights: streams forwards, cotangents backwards."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import combinations_with_replacement
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from hessian_tasks.jets import Tensor, evaluate_by
from hessian_tasks.layered.expand._composition import (
    Variable,
    differentiate,
    evaluate,
    stream_polynomials,
)
from hessian_tasks.layered.expand._streams import Streams
from hessian_tasks.layered.read.program import Feature, Linear, Node, Program, Site
from hessian_tasks.layered.read.reader import read_program
from hessian_tasks.networks.joint import Joint
from hessian_tasks.networks.models import dtype_of, get_theta
from hessian_tasks.problem import Problem

__all__ = ["Array", "Derivatives", "Jacobian", "Network", "WireStreams", "curvature"]

Array: TypeAlias = npt.NDArray[Any]

WireStreams: TypeAlias = list[dict[int, Array]]
"""For every wire the streams that are not zero, ``[N, width]`` each."""

Derivatives: TypeAlias = dict[tuple[int, ...], Array]
"""Derivatives of a node's function that are not zero, by the inputs along which they are taken."""

Jacobian: TypeAlias = dict[tuple[Variable, int], Array]
"""``∂y_t / ∂z^a_s`` by ``((a, s), t)``, those that are not zero, ``[N, width]`` each."""


class Network:
    """Evaluates a program at points; the weights stay what they are.

    What is compiled, the derivatives of features and nodes, serves all terms.
    """

    def __init__(self, program: Program, theta: Array, num_coordinates: int) -> None:
        """Take the weights from θ.

        Args:
            program: The program.
            theta: The parameter vector ``[P]``, whose dtype all arrays get.
            num_coordinates: Number of columns of the points.
        """
        self.program = program
        self.dtype = theta.dtype
        self.weights = {w: program.site(w).weights(theta) for w in program.sites}
        self.matrices = {
            w: {source: matrix.astype(self.dtype) for source, matrix in op.inputs}
            for w, op in enumerate(program.operations)
            if isinstance(op, Linear)
        }
        self.consumers = [program.consumers(wire) for wire in range(len(program.operations))]
        self._num_coordinates = num_coordinates
        self._compiled: dict[tuple[int, Any], Callable[..., Any]] = {}

    @classmethod
    def of(cls, problem: Problem) -> Network:
        """Read a problem's networks, with their present weights.

        Args:
            problem: The problem, its model resolved to a Keras model.

        Raises:
            NotLayeredError: If they are not of the kind that can be taken by layers.
        """
        theta = get_theta(problem.model).astype(dtype_of(problem.model))
        return cls(read_program(problem), theta, Joint(problem).width)

    def again(self, problem: Problem) -> Network:
        """The same networks with the weights that they have now; what was compiled is kept.

        Args:
            problem: The problem that it was read from.
        """
        theta = get_theta(problem.model).astype(self.dtype)
        other = Network(self.program, theta, self._num_coordinates)
        other._compiled = self._compiled
        return other

    def kernel(self, wire: int) -> Array:
        """Kernel of the site that makes a wire, without the bias ``[num_inputs, width]``."""
        return self.weights[wire][: self.program.site(wire).num_inputs]

    def forward(self, points: Array, streams: Streams) -> tuple[WireStreams, list[Derivatives]]:
        """Carry the streams from the points to the output.

        Args:
            points: Points ``[N, d]``.
            streams: Which streams.

        Returns:
            The streams of all wires, and the derivatives of the nodes up to two orders beyond
            what the streams need (empty for other operations).
        """
        wires: WireStreams = []
        derivatives: list[Derivatives] = []
        for wire, operation in enumerate(self.program.operations):
            taken: Derivatives = {}
            if isinstance(operation, Feature):
                made = self._feature(wire, operation, points, streams)
            elif isinstance(operation, Site):
                made = self._site(wire, operation, wires, len(points))
            elif isinstance(operation, Linear):
                made = self._linear(wire, operation, wires)
            else:
                inputs = [wires[source] for source in operation.inputs]
                zero = np.zeros((len(points), self.program.widths[wire]), self.dtype)
                values = [z.get(0, zero) for z in inputs]
                taken = self._differentiate(wire, operation, values, streams.order + 2)
                made = compose(streams, taken, inputs)
            wires.append(made)
            derivatives.append(taken)
        return wires, derivatives

    def _feature(
        self, wire: int, feature: Feature, points: Array, streams: Streams
    ) -> dict[int, Array]:
        indices = tuple(streams.indices())

        def jets(x: Tensor) -> list[Tensor]:
            derivatives = evaluate_by(feature.function)(x)
            return [derivatives(index) for index in indices]

        key = (wire, indices)
        if key not in self._compiled:
            spec = tf.TensorSpec([None, self._num_coordinates], self.dtype)
            function = tf.function(jets, autograph=False)
            self._compiled[key] = function.get_concrete_function(spec)
        found = self._compiled[key](tf.constant(points))
        values = dict(zip(indices, (tensor.numpy() for tensor in found), strict=True))
        made = {}
        for stream in range(len(streams)):
            terms = streams.terms(stream)
            total = sum(self.dtype.type(c) * values[index] for index, c in terms)
            if np.any(total):
                made[stream] = np.asarray(total)
        return made

    def _site(self, wire: int, site: Site, wires: WireStreams, num_points: int) -> dict[int, Array]:
        made = {}
        if site.source is not None:
            made = {s: a @ self.kernel(wire) for s, a in wires[site.source].items()}
        if site.bias:
            bias = np.broadcast_to(self.weights[wire][-1], (num_points, site.width))
            made[0] = made[0] + bias if 0 in made else bias
        return made

    def _linear(self, wire: int, operation: Linear, wires: WireStreams) -> dict[int, Array]:
        made: dict[int, Array] = {}
        for source, _ in operation.inputs:
            for stream, values in wires[source].items():
                image = values @ self.matrices[wire][source]
                made[stream] = made[stream] + image if stream in made else image
        return made

    def _differentiate(
        self, wire: int, node: Node, inputs: Sequence[Array], order: int
    ) -> Derivatives:
        # The number of points is part of the key: with shapes that are known, TensorFlow leaves
        # out what gradients of operations that broadcast need, most of a graph.
        key = (wire, (order, len(inputs[0])))
        if key not in self._compiled:
            specs = [tf.TensorSpec(z.shape, self.dtype) for z in inputs]
            function = tf.function(
                lambda *z: _derivatives(node.function, z, order), autograph=False
            )
            self._compiled[key] = function.get_concrete_function(*specs)
        found = self._compiled[key](*[tf.constant(z) for z in inputs])
        values = {tuple(map(int, name.split())): t.numpy() for name, t in found.items()}
        return {taken: value for taken, value in values.items() if np.any(value)}

    def jacobian(
        self, wire: int, streams: Streams, derivatives: Derivatives, wires: WireStreams
    ) -> Jacobian:
        """The Jacobian of the map that a node makes between streams."""
        inputs = [wires[source] for source in self.program.inputs(wire)]
        found: Jacobian = {}
        for t, polynomial in enumerate(stream_polynomials(streams, len(inputs))):
            for variable in _variables(len(inputs), len(streams)):
                value = evaluate(differentiate(polynomial, variable), derivatives, inputs)
                if value is not None:
                    found[variable, t] = value
        return found

    def pull_back(self, seed: dict[int, Array], jacobians: Mapping[int, Jacobian]) -> WireStreams:
        """Cotangents of all wires from those of the output.

        Args:
            seed: Cotangents of the output's streams ``[..., N, outputs]``.
            jacobians: Of all nodes.

        Returns:
            Cotangents of the streams of every wire, ``[..., N, width]`` each.
        """
        program = self.program
        found: WireStreams = [{} for _ in program.operations]
        found[program.output] = dict(seed)
        for wire in reversed(range(len(program.operations))):
            operation = program.operations[wire]
            if isinstance(operation, Node):
                for ((a, s), t), slope in jacobians[wire].items():
                    if t in found[wire]:
                        _accumulate(found[operation.inputs[a]], s, slope * found[wire][t])
                continue
            for source in program.inputs(wire):
                matrix = self.matrix(wire, source)
                for t, cotangent in found[wire].items():
                    _accumulate(found[source], t, cotangent @ matrix.T)
        return found

    def matrix(self, wire: int, source: int) -> Array:
        """Matrix from one wire to another through a site or a linear map."""
        linear = self.matrices.get(wire)
        return self.kernel(wire) if linear is None else linear[source]


def compose(
    streams: Streams, derivatives: Derivatives, inputs: Sequence[Mapping[int, Array]]
) -> dict[int, Array]:
    """The streams of a neuron-wise function of wires."""
    polynomials = stream_polynomials(streams, len(inputs))
    values = [evaluate(polynomial, derivatives, inputs) for polynomial in polynomials]
    return {stream: value for stream, value in enumerate(values) if value is not None}


def curvature(
    streams: Streams,
    derivatives: Derivatives,
    inputs: Sequence[Mapping[int, Array]],
    cotangents: Mapping[int, Array],
) -> dict[tuple[Variable, Variable], Array]:
    """Second derivatives of a node's output streams, contracted with their cotangents."""
    found: dict[tuple[Variable, Variable], Array] = {}
    variables = _variables(len(inputs), len(streams))
    for t, polynomial in enumerate(stream_polynomials(streams, len(inputs))):
        if t not in cotangents:
            continue
        for first, second in combinations_with_replacement(variables, 2):
            twice = differentiate(differentiate(polynomial, first), second)
            value = evaluate(twice, derivatives, inputs)
            if value is not None:
                value = value * cotangents[t]
                key = (first, second)
                found[key] = found[key] + value if key in found else value
    return found | {(second, first): value for (first, second), value in found.items()}


def _variables(num_inputs: int, num_streams: int) -> list[Variable]:
    return [(a, s) for a in range(num_inputs) for s in range(num_streams)]


def _accumulate(entries: dict[int, Array], key: int, value: Array) -> None:
    entries[key] = entries[key] + value if key in entries else value


def _derivatives(
    function: Callable[..., Tensor], inputs: Sequence[Tensor], order: int
) -> dict[str, Tensor]:
    """All partial derivatives of a neuron-wise function; structural zeros are left out.

    Each neuron's result depends on that neuron's inputs alone, so the gradient of a sum over
    neurons is the derivative of each.
    """
    found: dict[tuple[int, ...], Tensor] = {(): function(*inputs)}
    for length in range(1, order + 1):
        for taken in combinations_with_replacement(range(len(inputs)), length):
            if taken[:-1] in found:
                slope = tf.gradients(found[taken[:-1]], inputs[taken[-1]])[0]
                if slope is not None:
                    found[taken] = slope
    return {" ".join(map(str, taken)): value for taken, value in found.items()}
