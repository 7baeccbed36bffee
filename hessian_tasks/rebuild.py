"""Freezing a problem's inputs, and rebuilding the problem from them.

A worker builds the problem from its source, puts the frozen weights, points and term
weights in place of its own, and must then find the recorded loss and gradient. A
factory that draws random points twice, a changed library or another machine's
arithmetic can therefore never mix two problems in one array.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from hessian_tasks.errors import ModelError, ProblemError, ReproductionError
from hessian_tasks.frozen import Evaluated, FrozenInputs, FrozenTerm
from hessian_tasks.loss.gradient import compile_losses_and_gradient, losses_and_gradient
from hessian_tasks.loss.means import check_means
from hessian_tasks.loss.regularization import with_regularization
from hessian_tasks.loss.rounding import measure_rounding
from hessian_tasks.networks.architecture import model_config, model_from_config
from hessian_tasks.networks.models import (
    dtype_of,
    get_theta,
    parameter_layout,
    resolve_model,
    set_theta,
)
from hessian_tasks.networks.numerics import check_precision, compute_the_same
from hessian_tasks.networks.trainables import UNNAMED, held_of, networks_of, parameters_of, resolve
from hessian_tasks.parameters import ParameterLayout
from hessian_tasks.problem import Problem, Term
from hessian_tasks.reading import warn_of_flat_derivatives
from hessian_tasks.source import ProblemSource

__all__ = ["freeze", "rebuild"]


def freeze(problem: Problem, source: ProblemSource) -> FrozenInputs:
    """Record the inputs of a problem, and its loss and gradient at θ.

    Raises:
        ProblemError: If the weights, the loss or the gradient are not finite, or a term is not what
            it is declared to be.
        ModelError: If the network cannot be used.

    Warns:
        ProblemWarning: If a term depends on derivatives that are zero everywhere.
    """
    problem = with_regularization(resolve(problem))
    theta = get_theta(problem.model)
    layout = replace(parameter_layout(problem.model), held=held_of(problem.model))
    if not np.isfinite(theta).all():
        bad = int(np.flatnonzero(~np.isfinite(theta))[0])
        raise ProblemError(
            f"The network's weights hold NaN or infinity, first in {layout.describe(bad)}. "
            "Train again, or load other weights."
        )
    theta = theta.astype(dtype_of(problem.model))
    for network in networks_of(problem.model).values():
        check_precision(network, len(problem.coordinates))
    check_means(problem)
    warn_of_flat_derivatives(problem)
    compiled = compile_losses_and_gradient(problem)
    at_theta = Evaluated(*compiled.evaluate())
    reads = compiled.digests()
    return FrozenInputs(
        theta=theta,
        state=get_theta(problem.model, trainable=False).astype(np.float64),
        gradient=at_theta.gradient,
        layout=layout,
        terms=tuple(_freeze_term(t, at_theta.losses[t.name], reads[t.name]) for t in problem.terms),
        coordinates=tuple(problem.coordinates),
        source=source,
        source_digest=source.digest,
        model_config=_config(problem),
        imports=source.imports,
        rounding=measure_rounding(compiled, at_theta),
    )


def _freeze_term(term: Term, loss: float, reads: str) -> FrozenTerm:
    return FrozenTerm(term.name, term.kind, term.weight, loss, term.arrays, reads)


def rebuild(frozen: FrozenInputs) -> Problem:
    """Build the problem again and check that it is the one that was frozen.

    Raises:
        ReproductionError: If the loss or gradient differs by more than rounding.
        ProblemError: If the source no longer gives such a problem.
    """
    problem = frozen.source.load()
    problem = with_regularization(replace(problem, model=_rebuild_model(problem, frozen)))
    recorded = {term.name: term for term in frozen.terms}
    found = {term.name: sorted(term.arrays) for term in problem.terms}
    expected = {name: sorted(term.arrays) for name, term in recorded.items()}
    if list(found.items()) != list(expected.items()):
        raise ProblemError(
            f"The problem has the loss terms {found}, but {expected} were recorded: its source has "
            "changed."
        )
    terms = [
        replace(term.with_arrays(recorded[term.name].arrays), weight=recorded[term.name].weight)
        for term in problem.terms
    ]
    problem = replace(problem, terms=terms)
    _check_reproduction(problem, frozen)
    return problem


def _rebuild_model(problem: Problem, frozen: FrozenInputs) -> Any:
    """The network that was frozen: the problem's own, or the recorded one where that is another.

    A loss may read the problem's own network by other ways than its argument. But a network that
    belongs to a user, and may have been trained further since, is not touched.
    """
    held = [variable.position for variable in frozen.layout.held]
    own = resolve(problem, held).model
    recorded = _recorded_model(problem, frozen, held, own)
    fits = _shapes(parameter_layout(own)) == _shapes(frozen.layout) and (
        dtype_of(own) == frozen.dtype and len(get_theta(own, trainable=False)) == len(frozen.state)
    )
    if fits and (frozen.source.live is None or _is_new(own, problem.model)):
        _set_weights(own, frozen)
    elif fits:
        _set_own_parameters(own, problem, frozen)
    agrees = fits and _agrees(own, frozen)
    if recorded is None:
        if not agrees:
            raise ModelError(_NOT_THE_SAME[fits])
        return own
    pairs = zip(networks_of(own).values(), networks_of(recorded).values(), strict=True)
    same = all(compute_the_same(*pair, len(problem.coordinates)) for pair in pairs)
    return own if agrees and same else recorded


_NOT_THE_SAME = {
    True: (
        "The problem's network has other weights now than those that were frozen, and Keras cannot "
        "copy it. Set its weights back, or pass a function that builds it: Problem(model=make, …)."
    ),
    False: (
        "The problem's network has other shapes or another dtype than the one that was frozen. "
        "Pass the problem as it was."
    ),
}


def _shapes(layout: ParameterLayout) -> list[tuple[int, ...]]:
    # Keras counts the names of layers on with every network that a process builds.
    return [variable.shape for variable in layout.variables]


def _recorded_model(
    problem: Problem, frozen: FrozenInputs, held: list[int], own: Any
) -> Any | None:
    if frozen.model_config is None:
        return None
    # Variables that belong to a user are not touched: these are others, of the same shapes.
    values = {name: np.asarray(value) for name, value in problem.parameters.items()}
    num_weights = len(frozen.theta) + len(frozen.state) - sum(v.size for v in values.values())
    like = next(iter(networks_of(own).values()))
    network = model_from_config(frozen.model_config, num_weights, like)
    model = resolve(replace(problem, model=network, parameters=values), held).model
    _set_weights(model, frozen)
    return model


def _set_weights(model: Any, frozen: FrozenInputs) -> None:
    set_theta(model, frozen.theta)
    set_theta(model, frozen.state, trainable=False)


def _set_own_parameters(model: Any, problem: Problem, frozen: FrozenInputs) -> None:
    """Set the parameters that were given as numbers: their variables are nobody else's."""
    declared = parameters_of(model)
    own = {id(declared[n]) for n, given in problem.parameters.items() if not _is_variable(given)}
    # Those that only= leaves out are among the others.
    weights = [*model.trainable_weights, *model.non_trainable_weights]
    edges = np.cumsum([math.prod(weight.shape) for weight in weights])[:-1]
    values = np.split(np.concatenate([frozen.theta.astype(np.float64), frozen.state]), edges)
    for weight, value in zip(weights, values, strict=True):
        if id(weight.value) in own:
            weight.assign(value.reshape(weight.shape).astype(weight.dtype))


def _is_variable(given: Any) -> bool:
    return isinstance(given, tf.Variable | keras.Variable)


def _agrees(model: Any, frozen: FrozenInputs) -> bool:
    state = get_theta(model, trainable=False).astype(np.float64)
    return np.array_equal(get_theta(model), frozen.theta) and np.array_equal(
        state, frozen.state, equal_nan=True
    )


def _is_new(model: Any, declared: Any) -> bool:
    """Whether factories have made the networks for this one call."""
    makers = declared if isinstance(declared, Mapping) else {UNNAMED: declared}
    for name, network in networks_of(model).items():
        if makers[name] is network:
            return False
        others = {id(weight) for weight in resolve_model(makers[name]).weights}
        if any(id(weight) in others for weight in network.weights):
            return False
    return True


def _config(problem: Problem) -> str | None:
    """The architecture of the network, where there is one and Keras can build it again."""
    first, *others = networks_of(problem.model).values()
    return None if others else model_config(first, len(problem.coordinates))


def _check_reproduction(problem: Problem, frozen: FrozenInputs) -> None:
    found = Evaluated(*losses_and_gradient(problem)).disagreement(frozen.evaluated)
    if found:
        raise ReproductionError(
            f"Rebuilt from its frozen inputs, {found}. The loss is not deterministic, its code, "
            "data or libraries have changed, or a term uses another model than the one it is "
            "given; nothing was computed."
        )
