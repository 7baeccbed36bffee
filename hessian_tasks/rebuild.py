"""Freezing a problem's inputs, and rebuilding the problem from them.

A worker builds the problem from its source, puts the frozen weights, points and term
weights in place of its own, and must then find the recorded loss and gradient. A
factory that draws random points twice, a changed library or another machine's
arithmetic can therefore never mix two problems in one array.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from hessian_tasks.errors import ProblemError, ReproductionError
from hessian_tasks.frozen import Evaluated, FrozenInputs, FrozenTerm
from hessian_tasks.loss import (
    compile_losses_and_gradient,
    losses_and_gradient,
    required_derivatives,
)
from hessian_tasks.models import (
    dtype_of,
    get_theta,
    model_config,
    model_from_config,
    parameter_layout,
    resolve_model,
    set_theta,
)
from hessian_tasks.problem import LossTerm, Problem, ResidualTerm
from hessian_tasks.regularization import with_regularization
from hessian_tasks.source import ProblemSource

__all__ = ["freeze", "rebuild"]


def freeze(problem: Problem, source: ProblemSource) -> FrozenInputs:
    """Record the inputs of a problem, and its loss and gradient at θ.

    Raises:
        ProblemError: If the weights, the loss or the gradient are not finite.
        ModelError: If the network cannot be used.
    """
    problem = with_regularization(replace(problem, model=resolve_model(problem.model)))
    theta = get_theta(problem.model)
    layout = parameter_layout(problem.model)
    if not np.isfinite(theta).all():
        bad = int(np.flatnonzero(~np.isfinite(theta))[0])
        raise ProblemError(
            f"The network's weights hold NaN or infinity, first in {layout.describe(bad)}. "
            "Train again, or load other weights."
        )
    theta = theta.astype(dtype_of(problem.model))
    compiled = compile_losses_and_gradient(problem)
    losses, gradient = compiled.evaluate()
    reads = compiled.digests()
    return FrozenInputs(
        theta=theta,
        state=get_theta(problem.model, trainable=False).astype(np.float64),
        gradient=gradient,
        layout=layout,
        terms=tuple(_freeze_term(problem, t, losses[t.name], reads[t.name]) for t in problem.terms),
        coordinates=tuple(problem.coordinates),
        source=source,
        source_digest=source.digest,
        model_config=model_config(problem.model),
        imports=source.imports,
    )


def _freeze_term(
    problem: Problem, term: ResidualTerm | LossTerm, loss: float, reads: str
) -> FrozenTerm:
    kind = "loss"
    derivatives: tuple[str, ...] = ()
    if isinstance(term, ResidualTerm):
        kind, derivatives = "residual", tuple(required_derivatives(problem, term))
    return FrozenTerm(term.name, kind, term.weight, loss, derivatives, term.arrays, reads)


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
    if frozen.model_config is not None:
        num_weights = len(frozen.theta) + len(frozen.state)
        model = model_from_config(frozen.model_config, num_weights)
    else:
        model = resolve_model(problem.model)
    set_theta(model, frozen.theta)
    set_theta(model, frozen.state, trainable=False)
    return model


def _check_reproduction(problem: Problem, frozen: FrozenInputs) -> None:
    found = Evaluated(*losses_and_gradient(problem)).disagreement(frozen.evaluated)
    if found:
        raise ReproductionError(
            f"Rebuilt from its frozen inputs, {found}. The loss is not deterministic, its code, "
            "data or libraries have changed, or a term uses another model than the one it is "
            "given; nothing was computed."
        )
