"""What a loss term is a function of, as arguments to differentiate it by."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from hessian_tasks.errors import NotLayeredError
from hessian_tasks.jets import Index, Tensor
from hessian_tasks.loss.graphs import forget_gradients
from hessian_tasks.loss.terms import View
from hessian_tasks.networks.models import dtype_of, parameter_layout, trainable_variables
from hessian_tasks.problem import Problem
from hessian_tasks.reading._evaluations import Dependence, functions_inlined, shifted
from hessian_tasks.reading._stand_in import Known, below, view_of_stand_ins

__all__ = ["Arguments", "gradients", "view_of_jets"]

Array: TypeAlias = npt.NDArray[Any]
Floats: TypeAlias = npt.NDArray[np.float64]

# Entries of weights that a term may read itself: each costs a product, and a row of ℓ_ww.
MAX_DIRECT = 512


class Evaluate(Protocol):
    """``ℓ'`` and ``ℓ'' v`` by all arguments, from the jets and vectors v by all arguments."""

    def __call__(
        self, jets: Sequence[Array], vectors: Sequence[Floats], others: float = 0.0
    ) -> tuple[list[Floats], list[Floats]]:
        """Evaluate; ``others`` is what derivatives are that are not asked for."""
        ...


class Arguments:
    """The jets of every evaluation, then the weights that the term reads itself.

    Attributes:
        num_jets: How many of them are jets.
        shapes: Of all arguments.
        dtype: The model's.
        tolerance: Relative errors that are rounding.
    """

    def __init__(
        self, problem: Problem, dependence: Dependence, jets: Sequence[tuple[int, ...]]
    ) -> None:
        """Take the arguments.

        Args:
            problem: The problem, its model resolved to a Keras model.
            dependence: What the term depends on.
            jets: Shapes of the jets of every evaluation, ``(N, R, outputs)``.

        Raises:
            NotLayeredError: If the term reads too many weights itself.
        """
        self._problem = problem
        self._dependence = dependence
        self.num_jets = len(jets)
        every = trainable_variables(problem.model)
        self._variables = [every[position] for position in dependence.direct]
        self.shapes = [*jets, *(tuple(v.shape) for v in self._variables)]
        self.dtype = dtype_of(problem.model)
        # Rounding that inner derivatives have made larger, up to six digits of sixteen, or three of
        # seven; a mean over N points couples them by 1/N of the largest entry.
        self.tolerance = float(np.finfo(self.dtype).eps) ** 0.6
        if sum(int(np.prod(variable.shape)) for variable in self._variables) > MAX_DIRECT:
            table = parameter_layout(problem.model).variables
            names = [table[position].path for position in dependence.direct]
            raise NotLayeredError(
                f"reads {', '.join(names[:3])}{', …' if len(names) > 3 else ''} other than through "
                "the network"
            )

    def zeros(self) -> list[Floats]:
        """Zeros for all arguments."""
        return [np.zeros(shape) for shape in self.shapes]

    def units(self, evaluation: int) -> Iterator[list[Floats]]:
        """For every entry of a point's jet: 1 there at all points, 0 elsewhere."""
        for entry in np.ndindex(*self.shapes[evaluation][1:]):
            unit = self.zeros()
            unit[evaluation][:, *entry] = 1
            yield unit

    def direct_units(self) -> Iterator[list[Floats]]:
        """For every entry of the weights that the term reads: 1 there, 0 elsewhere."""
        for position in range(self.num_jets, len(self.shapes)):
            for entry in np.ndindex(*self.shapes[position]):
                unit = self.zeros()
                unit[position][entry] = 1
                yield unit

    def flat(self, parts: Sequence[Floats]) -> Floats:
        """The entries of the weights among derivatives by all arguments."""
        return np.concatenate([np.zeros(0), *[part.ravel() for part in parts[self.num_jets :]]])

    def tensors(self, jets: Sequence[Tensor]) -> list[Tensor]:
        """All arguments in a graph in which the jets are these."""
        return [*jets, *self._variables]

    def view(self, jets: Sequence[Tensor], others: Tensor) -> View:
        """The network as the term sees it, with these jets; see :func:`view_of_jets`."""
        return view_of_jets(self._problem, self._dependence, jets, others)

    def compile(self, loss: Callable[[View], Tensor]) -> Evaluate:
        """A function of the jets and of v, by all arguments, that gives ``ℓ'`` and ``ℓ'' v``."""
        count = len(self.shapes)

        def derivatives(others: Tensor, *tensors: Tensor) -> list[Tensor]:
            arguments = self.tensors(tensors[: self.num_jets])
            slopes = gradients(loss(self.view(arguments, others)), arguments)
            vectors = tensors[self.num_jets :]
            along = [tf.reduce_sum(s * v) for s, v in zip(slopes, vectors, strict=True)]
            products = gradients(tf.add_n(along), arguments) if along else []
            return [*slopes, *products]

        evaluate = self.run(derivatives, [(), *self.shapes[: self.num_jets], *self.shapes])

        def apply(
            jets: Sequence[Array], vectors: Sequence[Floats], others: float = 0.0
        ) -> tuple[list[Floats], list[Floats]]:
            found = evaluate([np.array(others), *jets, *vectors])
            return found[:count], found[count:]

        return apply

    def run(
        self, function: Callable[..., Sequence[Tensor]], shapes: Sequence[tuple[int, ...]]
    ) -> Callable[[Sequence[Array]], list[Floats]]:
        """Compile a function of arrays of these shapes."""
        specs = [tf.TensorSpec(shape, self.dtype) for shape in shapes]
        with functions_inlined():
            traced = tf.function(function, autograph=False).get_concrete_function(*specs)
        compiled = forget_gradients(traced)

        def evaluate(arrays: Sequence[Array]) -> list[Floats]:
            tensors = [tf.constant(array, self.dtype) for array in arrays]
            return [tensor.numpy().astype(np.float64) for tensor in compiled(*tensors)]

        return evaluate


def view_of_jets(
    problem: Problem, dependence: Dependence, jets: Sequence[Tensor], others: Tensor
) -> View:
    """The networks as a term sees them, with given jets.

    Args:
        problem: The problem, its model resolved to a Keras model.
        dependence: What the term depends on.
        jets: Of every evaluation ``[N, R, outputs]``.
        others: All other derivatives. Backpropagation asks for some, which do not matter then.
    """
    places = [{i: r for r, i in enumerate(e.indices)} for e in dependence.evaluations]

    def known(call: int, index: Index, parts: Sequence[Tensor]) -> Tensor:
        if call >= len(dependence.calls):
            raise NotLayeredError("calls the network more often when it is read again")
        place, outputs = dependence.calls[call], dependence.outputs[call]
        slot = places[place].get(shifted(index, dependence.starts[call]))
        if slot is not None:
            return jets[place][:, slot, outputs]
        width = len(range(*outputs.indices(jets[place].shape[2])))
        return tf.fill((parts[0].shape[0], width), others)

    inner = [below(evaluation.indices) for evaluation in dependence.evaluations]

    def needed(call: int, index: Index) -> bool:
        return shifted(index, dependence.starts[call]) in inner[dependence.calls[call]]

    return view_of_stand_ins(problem.model, Known(known, needed))[0]


def gradients(y: Tensor, arguments: Sequence[Tensor]) -> list[Tensor]:
    """``∂y/∂x`` for every argument x, zeros where y does not depend on it."""
    found = tf.gradients(y, list(arguments))
    return [
        tf.zeros(x.shape, x.dtype) if slope is None else tf.convert_to_tensor(slope)
        for x, slope in zip(arguments, found, strict=True)
    ]
