"""The gradient of the loss, with the losses of all terms, compiled."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from hessian_tasks.errors import ProblemError
from hessian_tasks.jets import Tensor
from hessian_tasks.loss.batches import Part, SumOverBatches
from hessian_tasks.loss.reads import Reads, ancestors, check_variables, read_by
from hessian_tasks.loss.terms import by_term, term_loss
from hessian_tasks.networks.fixed import random_states
from hessian_tasks.networks.models import dtype_of, trainable_variables
from hessian_tasks.problem import Problem, Term
from hessian_tasks.problem.terms import is_batched

__all__ = [
    "compile_losses_and_gradient",
    "flatten",
    "gradient",
    "losses_and_gradient",
]


def flatten(gradients: Sequence[Tensor]) -> Tensor:
    """Concatenate per-variable gradients to one vector ``[P]``, in order."""
    dense = [tf.convert_to_tensor(g) for g in gradients]
    return tf.concat([tf.reshape(g, [-1]) for g in dense], axis=0)


def gradient(loss: Callable[[], Tensor], variables: Sequence[Tensor]) -> Tensor:
    """``∂loss/∂variables`` as one vector; zero where the loss does not depend on them."""
    with tf.GradientTape() as tape:
        value = loss()
    zero = tf.UnconnectedGradients.ZERO
    return flatten(tape.gradient(value, variables, unconnected_gradients=zero))


@dataclass(frozen=True, eq=False)
class CompiledLosses:
    """The losses of all terms and the gradient of their sum, compiled, at the current weights.

    Calling it gives the weighted losses ``[T]`` and ``∇L`` ``[P]`` in the model's dtype.

    Attributes:
        problem: The problem, its model resolved to a Keras model.
        function: Computes them.
        read: What each term reads, in the order of the terms.
    """

    problem: Problem
    function: Callable[[], tuple[Tensor, Tensor]]
    read: tuple[Reads, ...]

    def __call__(self) -> tuple[Tensor, Tensor]:
        """The weighted losses ``[T]`` and ``∇L`` ``[P]``."""
        return self.function()

    def evaluate(self) -> tuple[dict[str, float], npt.NDArray[Any]]:
        """The weighted losses by term, and ``∇L``.

        Raises:
            ProblemError: If a loss or the gradient is not finite, or a layer draws random numbers.
        """
        states = random_states(self.problem.model)
        values, grad = (tensor.numpy() for tensor in self())
        _check_draws(states, random_states(self.problem.model))
        losses = {t.name: float(v) for t, v in zip(self.problem.terms, values, strict=True)}
        for name, value in losses.items():
            if not np.isfinite(value):
                raise ProblemError(f"The loss of term {name!r} is {value} at the given weights.")
        if not np.isfinite(grad).all():
            raise ProblemError(
                "The gradient of the loss holds NaN or infinity at the given weights."
            )
        return losses, grad

    def digests(self) -> dict[str, str]:
        """By term, a digest of what it reads beside the network and its own arrays."""
        network = [variable.value for variable in self.problem.model.variables]
        dtype = dtype_of(self.problem.model)
        found = {}
        for term, reads in zip(self.problem.terms, self.read, strict=True):
            # A batch is no constant of the graph.
            own = () if is_batched(term) else term.arrays.values()
            arrays = [a.astype(dtype) if a.dtype.kind == "f" else a for a in own]
            found[term.name] = reads.digest(network, arrays)
        return found


def compile_losses_and_gradient(problem: Problem) -> CompiledLosses:
    """Compile the losses of all terms and the gradient of their sum.

    Args:
        problem: The problem, its model resolved to a Keras model.

    Raises:
        ProblemError: If a term reads a variable that is trainable and not one of the network's.
    """
    variables = trainable_variables(problem.model)
    # Of each term, in the graph of its part; of batches, in that of the last that is traced.
    values: dict[str, Tensor] = {}

    def total(part: Part) -> Tensor:
        for term in part.terms:
            values[term.name] = term_loss(problem, term, arrays=part.arrays)
            _check_layers(problem, term, values[term.name])
        return tf.add_n([values[term.name] for term in part.terms])

    def evaluate(part: Part) -> tuple[Tensor, Tensor]:
        grad = gradient(lambda: total(part), variables)
        return by_term(problem, {term.name: values[term.name] for term in part.terms}), grad

    compiled = SumOverBatches(problem, problem.terms, evaluate)
    traced = [values[term.name] for term in problem.terms]
    # A weighted loss is a product, of the weight and the term's value.
    read = tuple(read_by(value.op.inputs[1], value.graph) for value in traced)
    network = [variable.value for variable in problem.model.variables]
    for term, reads in zip(problem.terms, read, strict=True):
        check_variables(reads, network, term.name)
    return CompiledLosses(problem, compiled, read)


def _check_draws(before: Mapping[str, Any], after: Mapping[str, Any]) -> None:
    """Refuse what two evaluations need not show, as a flip of one image, which may come twice."""
    drawn = [name for name, states in before.items() if after[name] != states]
    if drawn:
        raise ProblemError(
            f"The loss is random: layer {drawn[0]} of the network draws random numbers where it is "
            "called, so that there is no one Hessian. Call the network with training=False in the "
            "loss, or leave the layer out of it and transform the data before."
        )


def _check_layers(problem: Problem, term: Term, value: Tensor) -> None:
    """Refuse a layer's losses that depend on its inputs, unless the term itself adds them up."""
    layers = [layer for layer in problem.model._flatten_layers() if layer._get_own_losses()]
    if not layers:
        return
    counted = ancestors(value)
    for layer in layers:
        for loss in layer._get_own_losses():
            if tf.is_symbolic_tensor(loss) and loss.op not in counted:
                raise ProblemError(
                    f"Layer {layer.name!r} adds a loss of its own where it is called "
                    "(activity_regularizer or add_loss), which depends on the points that it is "
                    f"called at, and is no part of term {term.name!r}. Leave it out of the layer, "
                    "or write it as a LossTerm that calls the network and adds model.losses."
                )


def losses_and_gradient(problem: Problem) -> tuple[dict[str, float], npt.NDArray[Any]]:
    """The value of every term, and the gradient of their sum.

    Args:
        problem: The problem, its model resolved to a Keras model.

    Returns:
        The weighted losses by term, and ``∇L`` ``[P]`` in the model's dtype.

    Raises:
        ProblemError: If a loss or the gradient is not finite, or a term reads what it must not.
    """
    return compile_losses_and_gradient(problem).evaluate()
