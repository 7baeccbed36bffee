"""Regularisers of the network's weights, as a term of the loss of their own.

Keras adds what ``kernel_regularizer`` and the like ask for to ``model.losses``, which whoever
trains the network is to add to the loss. Here they are the term ``regularization`` of weight 1,
unless a term of the user's adds them up already. As in Keras, those of frozen layers do not count.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import tensorflow as tf

from hessian_tasks.errors import ProblemError
from hessian_tasks.jets import Tensor
from hessian_tasks.loss.terms import term_loss
from hessian_tasks.networks.trainables import networks_of
from hessian_tasks.problem import LossTerm, Problem
from hessian_tasks.problem.terms import is_batched

__all__ = ["REGULARIZATION", "with_regularization"]

REGULARIZATION = "regularization"


def with_regularization(problem: Problem) -> Problem:
    """The problem with its network's regularisers among the terms.

    Args:
        problem: The problem, its model resolved to a Keras model.

    Raises:
        ProblemError: If a term adds up some of the regularisers and not all, or another term is
            called ``regularization``.

    Example:
        >>> import keras
        >>> from hessian_tasks import ResidualTerm
        >>> dense = keras.layers.Dense(1, kernel_regularizer=keras.regularizers.L2(0.5))
        >>> net = keras.Sequential([keras.Input((1,)), dense])
        >>> fit = ResidualTerm("fit", [[1.0]], lambda x, u: u.value)
        >>> [term.name for term in with_regularization(Problem(net, [fit], "x")).terms]
        ['fit', 'regularization']
    """
    regularised = _regularised(problem.model)
    terms = [term for term in problem.terms if isinstance(term, LossTerm)]
    if not regularised or any(isinstance(term.loss, _Sum) for term in terms):
        return problem
    counted = _counted(replace(problem, terms=terms), regularised) if terms else set()
    if len(counted) == len(regularised):
        return problem
    if counted:
        missing = [v.path for v in regularised if id(v) not in counted]
        raise ProblemError(
            f"The loss terms add up some of the network's regularisers, and not those of "
            f"{', '.join(missing)}. Add all of model.losses, or none: then they become a term."
        )
    if any(term.name == REGULARIZATION for term in problem.terms):
        raise ProblemError(
            f"The network's regularisers become a loss term called {REGULARIZATION!r}, but the "
            "problem has another term of that name. Rename it, or add model.losses in it."
        )
    return replace(problem, terms=[*problem.terms, LossTerm(REGULARIZATION, _Sum(regularised))])


def _regularised(model: Any) -> list[Any]:
    networks = networks_of(model).values()
    weights = [weight for network in networks for weight in network.trainable_weights]
    # Networks may share layers.
    once = {id(weight): weight for weight in weights}
    return [weight for weight in once.values() if weight.regularizer is not None]


class _Sum:
    """The sum of the regularisers of weights, as a loss."""

    def __init__(self, regularised: list[Any]) -> None:
        self._regularised = regularised

    def __call__(self, model: Any) -> Tensor:
        return tf.add_n([tf.convert_to_tensor(v.regularizer(v)) for v in self._regularised])


def _counted(problem: Problem, regularised: list[Any]) -> set[int]:
    """Ids of the variables whose regularisers are called by the terms."""

    def trace() -> list[Tensor]:
        # An example of a batched term is enough.
        some = [term.at(np.arange(1)) if is_batched(term) else term for term in problem.terms]
        return [term_loss(problem, term) for term in some]

    with _watched(problem.model, regularised) as called:
        tf.function(trace, autograph=False).get_concrete_function()
    return called


class _Watch:
    """Stands for a regulariser, and notes that it is called."""

    def __init__(self, regularizer: Any, variables: list[Any], called: set[int]) -> None:
        self.regularizer, self._called = regularizer, called
        self._ids = {id(v) for v in variables if v.regularizer is regularizer}

    def __call__(self, weights: Any) -> Any:
        # One regulariser may be that of several layers.
        self._called |= {id(weights)} & self._ids or self._ids
        return self.regularizer(weights)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.regularizer, name)


@contextmanager
def _watched(model: Any, regularised: list[Any]) -> Iterator[set[int]]:
    """Watch the regularisers, where ``model.losses`` finds them and as attributes of layers."""
    called: set[int] = set()
    watches = {id(v.regularizer): _Watch(v.regularizer, regularised, called) for v in regularised}
    places = [(variable, "regularizer") for variable in regularised]
    places += [
        (layer, name)
        for layer in model._flatten_layers()
        for name, value in vars(layer).items()
        if id(value) in watches
    ]
    try:
        for owner, name in places:
            setattr(owner, name, watches[id(getattr(owner, name))])
        yield called
    finally:
        for owner, name in places:
            watch = getattr(owner, name)
            if isinstance(watch, _Watch):
                setattr(owner, name, watch.regularizer)
