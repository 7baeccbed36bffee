"""Whether the terms of a bridge are the loss that its library computes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import tensorflow as tf

from hessian_tasks.bridges._components import value_of
from hessian_tasks.bridges._declared import evaluate_own
from hessian_tasks.errors import ProblemError
from hessian_tasks.problem import Term

__all__ = ["check_same"]

# How far the weights are moved, relative to their size.
MOVE = 0.1


def check_same(model: Any, terms: Sequence[Term]) -> None:
    """Hold every term against the component of DeepXDE's loss that it is read from.

    They differ where equations or conditions see more than the point that they are evaluated at: a
    mean over all training points, or a place among them. They are compared at weights near θ, where
    no training has made a loss so small that it is rounding; the weights are put back.

    Args:
        model: The ``dde.Model``, compiled.
        terms: The terms, in the order of its components.

    Raises:
        ProblemError: Naming the first term that differs.
    """
    network = model.net

    def both() -> tuple[Any, Any]:
        expected = evaluate_own(model, model.data)
        return expected, tf.stack([value_of(term, network, expected.dtype) for term in terms])

    compiled = tf.function(both, autograph=False).get_concrete_function()
    with _moved(network.trainable_variables):
        expected, found = (np.asarray(tensor, np.float64) for tensor in compiled())
    eps = float(np.finfo(compiled.outputs[0].dtype.as_numpy_dtype).eps)
    # Inner derivatives lose up to half the digits; another loss differs in the first.
    allowed = eps**0.4 * np.abs(expected) + eps * np.abs(expected).sum()
    for term, own, value, most in zip(terms, expected, found, allowed, strict=True):
        if np.isfinite(own) and not abs(value - own) <= most:
            raise ProblemError(
                f"Evaluated at its own points alone, {term.name!r} is {value:.9g}, but DeepXDE's "
                f"own loss has {own:.9g} there: its code sees other points, as in a mean over "
                "all. Declare it as a LossTerm of a Problem with the model's net."
            )


@contextmanager
def _moved(variables: Sequence[Any]) -> Iterator[None]:
    before = [variable.numpy() for variable in variables]
    rng = np.random.default_rng(5)
    try:
        for variable, value in zip(variables, before, strict=True):
            size = float(np.sqrt(np.mean(np.square(value)))) or 1.0
            variable.assign(
                value + (MOVE * size * rng.normal(size=value.shape)).astype(value.dtype)
            )
        yield
    finally:
        for variable, value in zip(variables, before, strict=True):
            variable.assign(value)
