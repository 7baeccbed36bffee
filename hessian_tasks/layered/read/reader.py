"""Reading a Keras model into a :class:`~hessian_tasks.layered.read.program.Program`.

The model is traced once; from its output backwards, every operation of the graph either
is one of a program or the layered engine does not apply, and says which one it was.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from hessian_tasks.errors import NotLayeredError
from hessian_tasks.jets import Tensor
from hessian_tasks.layered.read._contractions import Contracted, read_contraction
from hessian_tasks.layered.read._replay import replays
from hessian_tasks.layered.read._subgraph import make_function, plain, sources, walk_back
from hessian_tasks.layered.read._trace import TracedNetwork, trace_network
from hessian_tasks.layered.read.program import Feature, Linear, Node, Program, Site
from hessian_tasks.loss.graphs import forget_gradients
from hessian_tasks.problem import Problem

__all__ = ["read_program"]

_NEURON_WISE = """
Abs Acos Acosh Add AddN AddV2 Asin Asinh Atan Atan2 Atanh BiasAdd Cos Cosh Div DivNoNan Elu Equal
Erf Erfc Exp Expm1 Greater GreaterEqual Identity IdentityN Inv LeakyRelu Less LessEqual Log Log1p
LogicalAnd LogicalNot LogicalOr Maximum Minimum Mul MulNoNan Neg NotEqual OnesLike Pow RealDiv
Reciprocal Relu Relu6 Rsqrt Select SelectV2 Selu Sigmoid Sign Sin Sinh Softplus Softsign Sqrt Square
SquaredDifference Sub Tan Tanh ZerosLike
"""
NEURON_WISE = frozenset(_NEURON_WISE.split())
LINEAR = frozenset(["ConcatV2", "GatherV2", "Mean", "Split", "SplitV", "StridedSlice", "Sum"])


def read_program(problem: Problem) -> Program:
    """Read a problem's networks as one program.

    Args:
        problem: The problem, its model resolved to a Keras model.

    Raises:
        NotLayeredError: If the network has an operation that is not of a program's kinds or
            whose custom gradient is not its derivative, or uses a kernel twice.
    """
    traced = trace_network(problem)
    try:
        return _Reader(traced).read()
    finally:
        forget_gradients(traced)


class _Reader:
    def __init__(self, traced: TracedNetwork) -> None:
        self.output = traced.output
        self.points = traced.points
        self.layout = traced.layout
        self.parameters = traced.parameters
        self.constants = traced.constants
        self.depends = traced.depends
        self.kept = _find_kept(traced.graph)
        self.program = Program()
        self.wires: dict[str | int, int] = {}
        self.pieces: list[tuple[Tensor, list[Tensor]]] = []

    def read(self) -> Program:
        self._check_kernels()
        self.program.output = self._wire(self.output)
        self._check_overlap()
        self._check_custom_gradients()
        return self.program

    def _check_custom_gradients(self) -> None:
        # After everything is read, because it adds operations to the graph.
        for tensor, boundary in self.pieces:
            operations = walk_back(tensor, {t.name for t in boundary})
            wrapped = [operation.name for operation in operations if operation.type == "IdentityN"]
            if not wrapped:
                continue
            try:
                same = replays(tensor, boundary, self.constants)
            except Exception as error:
                raise NotLayeredError(
                    f"the custom gradient of {wrapped[0]} cannot be replayed "
                    f"({type(error).__name__})"
                ) from error
            if not same:
                raise NotLayeredError(
                    f"operation {wrapped[0]} has a custom gradient that is not its derivative"
                )

    def _check_overlap(self) -> None:
        sites = [self.program.site(wire) for wire in self.program.sites]
        for before, after in pairwise(sites):
            if before.stop > after.offset:
                raise NotLayeredError(f"{self.layout.describe(after.offset)} is used twice")

    def _check_kernels(self) -> None:
        uses: Counter[int] = Counter()
        for operation in walk_back(self.output, set()):
            if operation.type == "MatMul":
                kernel = self.parameters.get(plain(operation.inputs[1]).name)
                uses.update([kernel] if kernel is not None else [])
        for kernel, count in uses.items():
            if count > 1:
                raise NotLayeredError(f"{self._name(kernel)} is used {count} times")

    def _name(self, variable: int) -> str:
        return self.layout.variables[variable].path

    def _wire(self, tensor: Tensor) -> int:
        tensor = plain(tensor)
        key = self.parameters.get(tensor.name, tensor.name)
        if key not in self.wires:
            self.wires[key] = self._make(tensor)
        return self.wires[key]

    def _make(self, tensor: Tensor) -> int:
        operation, depends = tensor.op, self.depends[tensor.name]
        if tensor.name in self.parameters:
            return self._parameter(self.parameters[tensor.name])
        if tensor.shape.rank != 2 or tensor.shape[1] is None:
            raise self._unknown(operation, f" of shape {tensor.shape}")
        if "weights" not in depends:
            function = self._function(tensor, [self.points])
            return self.program.add(Feature(function), tensor.shape[1])
        if self._adds_bias(operation):
            return self._dense(operation.inputs[0].op, operation)
        if operation.type == "MatMul":
            return self._dense(operation, None)
        if operation.type in NEURON_WISE:
            return self._node(tensor)
        if operation.type in LINEAR:
            return self._linear(tensor)
        found = read_contraction(tensor, self.depends, self.constants)
        if found is None:
            raise self._unknown(operation)
        return self._contraction(found)

    def _unknown(self, operation: Any, what: str = "") -> NotLayeredError:
        return NotLayeredError(
            f"operation {operation.type} ({operation.name}){what} is neither a product with one "
            "kernel nor neuron-wise"
        )

    def _adds_bias(self, operation: Any) -> bool:
        if operation.type not in ("BiasAdd", "AddV2", "Add"):
            return False
        product, bias = operation.inputs[0].op, self.parameters.get(operation.inputs[1].name)
        if product.type != "MatMul" or bias is None or len(product.outputs[0].consumers()) > 1:
            return False
        kernel = self.parameters.get(plain(product.inputs[1]).name)
        if kernel is None:
            return False
        first, second = self.layout.variables[kernel], self.layout.variables[bias]
        return first.stop == second.offset and second.size == first.shape[1]

    def _dense(self, product: Any, addition: Any | None) -> int:
        source, matrix = product.inputs
        if product.get_attr("transpose_a") or product.get_attr("transpose_b"):
            raise self._unknown(product, " with a transposed factor")
        kernel = self.parameters.get(plain(matrix).name)
        if kernel is None:
            return self._fixed_product(product)
        variable = self.layout.variables[kernel]
        site = Site(
            source=self._wire(source),
            offset=variable.offset,
            num_inputs=variable.shape[0],
            bias=addition is not None,
            width=variable.shape[1],
        )
        return self.program.add(site, site.width)

    def _fixed_product(self, product: Any) -> int:
        source, matrix = product.inputs
        if self.depends[matrix.name]:
            raise self._unknown(product, " with a kernel that is computed from others")
        function = make_function(matrix, [], self.constants)
        value = np.asarray(
            tf.function(function, autograph=False).get_concrete_function()(), np.float64
        )
        return self.program.add(Linear(((self._wire(source), value),)), value.shape[1])

    def _parameter(self, variable: int) -> int:
        entry = self.layout.variables[variable]
        if len(entry.shape) > 1 and entry.size != entry.shape[-1]:
            raise NotLayeredError(f"{self._name(variable)} is a matrix, but used neuron by neuron")
        site = Site(source=None, offset=entry.offset, num_inputs=0, bias=True, width=entry.size)
        return self.program.add(site, site.width)

    def _linear(self, tensor: Tensor) -> int:
        operation = tensor.op
        sources = [t for t in operation.inputs if self.depends[t.name]]
        if len({t.name for t in sources}) < len(sources):
            raise self._unknown(operation, " that uses a tensor twice")
        function = make_function(tensor, sources, self.constants)
        parts = []
        for source in sources:
            wire = self._wire(source)
            parts.append((wire, self._matrix(function, sources, source)))
        width = tensor.shape[1]
        if any(matrix.shape[1] != width for _, matrix in parts):
            raise self._unknown(operation, " along the points")
        return self.program.add(Linear(tuple(parts)), width)

    def _contraction(self, found: Contracted) -> int:
        """Products of single neurons of two wires, and sums of these; or sums alone."""
        add, coefficients = self.program.add, found.coefficients
        wires = [self._wire(factor) for factor in found.factors]
        width = coefficients.shape[-1]
        if len(wires) == 1:
            return add(Linear(((wires[0], coefficients),)), width)
        pairs = np.argwhere(coefficients.any(axis=-1))
        chosen = [
            add(Linear(((wire, np.eye(self.program.widths[wire])[:, neurons]),)), len(pairs))
            for wire, neurons in zip(wires, pairs.T, strict=True)
        ]
        product = add(Node(tuple(chosen), lambda a, b: a * b), len(pairs))
        return add(Linear(((product, coefficients[tuple(pairs.T)]),)), width)

    def _matrix(self, function: Any, sources: list[Tensor], one: Tensor) -> Any:
        """Matrix of a linear map from one of its sources: what it makes of the unit vectors."""
        width = one.shape[1]

        def image() -> Tensor:
            eye = tf.eye(width, dtype=one.dtype)
            return function(
                *[eye if t is one else tf.zeros([width, t.shape[1]], t.dtype) for t in sources]
            )

        return _evaluate(image)

    def _node(self, tensor: Tensor) -> int:
        boundary: dict[str, Tensor] = {}
        self._expand(tensor, boundary, root=True)
        tensors = list(boundary.values())
        width = tensor.shape[1]
        inputs = tuple(self._widened(self._wire(t), width, tensor.op) for t in tensors)
        return self.program.add(Node(inputs, self._function(tensor, tensors)), width)

    def _function(self, tensor: Tensor, boundary: list[Tensor]) -> Callable[..., Tensor]:
        """A function that will be differentiated."""
        for operation in walk_back(tensor, {t.name for t in boundary}):
            takes_variable = any(source.dtype == tf.resource for source in operation.inputs)
            if takes_variable and operation.type != "ReadVariableOp":
                raise NotLayeredError(
                    f"operation {operation.type} ({operation.name}) reads weights inside of it"
                )
        self.pieces.append((tensor, boundary))
        return make_function(tensor, boundary, self.constants)

    def _expand(self, tensor: Tensor, boundary: dict[str, Tensor], *, root: bool = False) -> None:
        """Collect the wires that a neuron-wise expression starts from."""
        depends = self.depends[tensor.name]
        if not depends or tensor.name in boundary:
            return
        mixed = "weights" in depends
        inside = tensor.op.type in NEURON_WISE and mixed and tensor.name not in self.parameters
        if root or (inside and tensor.name not in self.kept and not self._adds_bias(tensor.op)):
            for source in sources(tensor):
                self._expand(source, boundary)
        else:
            boundary[tensor.name] = tensor

    def _widened(self, wire: int, width: int, operation: Any) -> int:
        """A wire of one neuron, repeated; a scalar slope is one."""
        if self.program.widths[wire] == width:
            return wire
        if self.program.widths[wire] != 1:
            raise self._unknown(operation, f" of widths {self.program.widths[wire]} and {width}")
        return self.program.add(Linear(((wire, np.ones((1, width))),)), width)


def _find_kept(graph: Any) -> set[str]:
    """Tensors that must be wires, because they are used other than neuron by neuron."""
    kept: set[str] = set()
    for operation in graph.get_operations():
        if operation.type not in NEURON_WISE:
            kept.update(plain(tensor).name for tensor in operation.inputs)
    return kept


def _evaluate(function: Callable[[], Tensor]) -> npt.NDArray[Any]:
    # Traced here, once: TensorFlow takes a second network's trace for a mistake and warns.
    compiled = tf.function(function, autograph=False).get_concrete_function()
    return np.asarray(compiled(), np.float64)
