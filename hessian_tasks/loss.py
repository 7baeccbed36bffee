"""The loss, term by term, as a TensorFlow function of the model's weights."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from hessian_tasks.errors import HessianError, ProblemError
from hessian_tasks.jets import Jet, Tensor, forward_derivative
from hessian_tasks.models import dtype_of, trainable_variables
from hessian_tasks.problem import LossTerm, Problem, ResidualTerm
from hessian_tasks.reads import Reads, ancestors, check_variables, read_by

__all__ = [
    "CompiledLosses",
    "compile_losses_and_gradient",
    "flatten",
    "gradient",
    "losses_and_gradient",
    "points_elsewhere",
    "required_derivatives",
    "required_indices",
    "residual_columns",
    "term_loss",
    "term_residual",
]


def term_loss(
    problem: Problem,
    term: ResidualTerm | LossTerm,
    derivative: Callable[[Tensor, Tensor, int], Tensor] = forward_derivative,
) -> Tensor:
    """The weighted value of one loss term, a scalar in the model's dtype.

    Call it inside ``tf.function``.

    Args:
        problem: The problem, its model resolved to a Keras model.
        term: One of its terms.
        derivative: How the jets of residual terms differentiate.

    Raises:
        ProblemError: If the residual or the loss has the wrong shape or dtype, or
            raises by itself.
    """
    dtype = dtype_of(problem.model)
    try:
        if isinstance(term, ResidualTerm):
            residual = term_residual(problem, term, derivative)
            value = tf.reduce_mean(tf.square(residual))
        else:
            arrays = {key: _constant(array, dtype) for key, array in term.arrays.items()}
            value = tf.convert_to_tensor(term.loss(problem.model, **arrays))
    except HessianError:
        raise
    except Exception as error:
        raise ProblemError(f"Term {term.name!r} failed: {type(error).__name__}: {error}") from error
    if value.shape.rank != 0:
        raise ProblemError(
            f"The loss of term {term.name!r} has shape {value.shape}; expected a scalar. "
            "Reduce it, for example with tf.reduce_mean."
        )
    _check_precision(value.dtype.name, dtype, f"The loss of term {term.name!r} has")
    return tf.constant(term.weight, dtype) * tf.cast(value, dtype)


def _check_precision(found: str, dtype: str, what: str) -> None:
    # Rounding to fewer digits on the way, or to integers, would go unnoticed in the result.
    if found not in ("float64", dtype):
        raise ProblemError(
            f"{what} dtype {found}, but the weights are {dtype}: the Hessian would be no better "
            f"than {found}. Pass dtype={dtype!r} to the layers, inputs and losses of Keras."
        )


def term_residual(
    problem: Problem,
    term: ResidualTerm,
    derivative: Callable[[Tensor, Tensor, int], Tensor] = forward_derivative,
    points: Tensor | None = None,
) -> Tensor:
    """The residual of a term at its points, ``[N, components]`` in the model's dtype.

    Call it inside ``tf.function``.

    Args:
        problem: The problem, its model resolved to a Keras model.
        term: One of its residual terms.
        derivative: How its jet differentiates.
        points: Other points than the term's, ``[N, d]`` in the model's dtype.

    Raises:
        ProblemError: If the residual has the wrong shape, or the network's inputs the wrong dtype.
    """
    dtype = dtype_of(problem.model)
    for entry in getattr(problem.model, "inputs", None) or []:
        _check_precision(str(entry.dtype), dtype, "The network's input has")
    points = _constant(np.asarray(term.points), dtype) if points is None else points
    jet = Jet(problem.model, points, problem.coordinates, derivative)
    return residual_columns(term, points, jet)


def residual_columns(term: ResidualTerm, points: Tensor, jet: Jet) -> Tensor:
    """The residual of a term for a given jet, ``[N, components]``.

    Raises:
        ProblemError: If the residual has the wrong shape.
    """
    components = term.residual(points, jet)
    if not isinstance(components, list | tuple):
        components = [components]
    return tf.concat([_as_columns(c, term, points.shape[0]) for c in components], axis=1)


def _as_columns(component: Tensor, term: ResidualTerm, num_points: int) -> Tensor:
    component = tf.convert_to_tensor(component)
    shape = tuple(component.shape)
    if shape == (num_points,):
        return component[:, tf.newaxis]
    # [N] - [N, 1] broadcasts to [N, N]: the classic silent mistake of PINN losses.
    if len(shape) != 2 or shape[0] != num_points or (num_points > 1 and shape[1] == num_points):
        raise ProblemError(
            f"The residual of term {term.name!r} has shape {shape} at {num_points} points; "
            "expected [N] or [N, components]. Derivatives have shape [N, outputs], so take "
            "columns of the points as x[:, 0:1], not x[:, 0]."
        )
    return component


def _constant(array: npt.NDArray[Any], dtype: Any) -> Tensor:
    return tf.constant(array, dtype=dtype if array.dtype.kind == "f" else None)


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
            ProblemError: If a loss or the gradient is not finite.
        """
        values, grad = (tensor.numpy() for tensor in self())
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
            arrays = [a.astype(dtype) if a.dtype.kind == "f" else a for a in term.arrays.values()]
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
    values: list[Tensor] = []

    def total() -> Tensor:
        for term in problem.terms:
            values.append(term_loss(problem, term))
            _check_layers(problem, term, values[-1])
        return tf.add_n(values)

    def evaluate() -> tuple[Tensor, Tensor]:
        grad = gradient(total, variables)
        return tf.stack(values), grad

    function = tf.function(evaluate, autograph=False)
    # Traced here, once: TensorFlow takes a second problem's trace for a mistake and warns.
    compiled = function.get_concrete_function()
    # A weighted loss is a product, of the weight and the term's value.
    read = tuple(read_by(value.op.inputs[1], compiled.graph) for value in values)
    network = [variable.value for variable in problem.model.variables]
    for term, reads in zip(problem.terms, read, strict=True):
        check_variables(reads, network, term.name)
    return CompiledLosses(problem, compiled, read)


def _check_layers(problem: Problem, term: ResidualTerm | LossTerm, value: Tensor) -> None:
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


def required_derivatives(problem: Problem, term: ResidualTerm) -> list[str]:
    """Which derivatives a residual uses, by name, such as ``["", "xx", "yy"]``."""
    names = problem.coordinates
    return sorted("".join(names[a] for a in index) for index in required_indices(problem, term))


def required_indices(problem: Problem, term: ResidualTerm) -> set[tuple[int, ...]]:
    """Which derivatives a residual uses, found by running it once.

    Returns:
        Sorted tuples of axes, such as ``(0, 0)`` for u_xx; ``()`` is the value itself.
    """
    requested: set[tuple[int, ...]] = set()

    def trace() -> Tensor:
        requested.update(_asked(problem, term).requested)
        return tf.constant(0)

    tf.function(trace, autograph=False).get_concrete_function()
    return requested


def points_elsewhere(problem: Problem, term: ResidualTerm) -> list[npt.NDArray[Any]]:
    """The other points ``[N, d]`` at which a residual uses the network, found by running it."""
    function = tf.function(lambda: _asked(problem, term).elsewhere, autograph=False)
    return [tensor.numpy() for tensor in function.get_concrete_function()()]


def _asked(problem: Problem, term: ResidualTerm) -> Jet:
    """The jet of a term after its residual has run."""
    points = _constant(np.asarray(term.points), dtype_of(problem.model))
    jet = Jet(problem.model, points, problem.coordinates)
    term.residual(points, jet)
    return jet
