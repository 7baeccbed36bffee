"""Where a run's frozen inputs come from: a problem, or what was made from them and holds them."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path

from hessian_tasks.errors import ProblemError
from hessian_tasks.frozen import FrozenInputs
from hessian_tasks.networks.trainables import choose
from hessian_tasks.networks.weights import load_weights
from hessian_tasks.problem import Problem
from hessian_tasks.rebuild import freeze
from hessian_tasks.source import ProblemSource
from pipeline.errors import StoreError
from pipeline.run._builtin import check_options
from pipeline.store.agreement import altered_inputs, read_inputs
from pipeline.store.opened import HoldsInputs
from pipeline.store.trust import check_named, how_to_name, remember
from pipeline.store.vetting import STORE

__all__ = ["freeze_source", "load_source", "stored_inputs"]


def freeze_source(
    source: ProblemSource,
    weights: str | Path | None = None,
    *,
    take_network: bool = False,
    only: Sequence[str] | None = None,
) -> FrozenInputs:
    """Load a problem, put in trained weights, and freeze its inputs.

    Args:
        source: Where the problem comes from.
        weights: A file of trained weights, as :func:`~hessian_tasks.networks.weights.load_weights`
            reads it.
        take_network: Take the network of the ``.keras`` file instead of the problem's.
        only: What θ consists of, in place of what the problem says.

    Raises:
        ProblemError: If the problem or its weights cannot be used.
    """
    problem = load_source(source, weights, take_network=take_network, only=only)
    return freeze(problem, source)


def load_source(
    source: ProblemSource,
    weights: str | Path | None = None,
    *,
    take_network: bool = False,
    only: Sequence[str] | None = None,
) -> Problem:
    """Load a problem and put in trained weights, of which arguments :func:`freeze_source` has.

    Raises:
        ProblemError: If the problem or its weights cannot be used.
    """
    remember(source)
    problem = source.load()
    if weights is None and take_network:
        raise ProblemError("There is no network to take: give the .keras file as weights, too.")
    if weights is not None:
        problem = load_weights(weights, problem, take_network=take_network)
    return problem if only is None else choose(problem, only)


def stored_inputs(store: HoldsInputs, source: ProblemSource | None = None) -> FrozenInputs:
    """Read the inputs that a store, or estimates, were made from.

    Args:
        store: The store, or the estimates.
        source: Where to build the problem from instead of the recorded source, which
            may have moved or have been a live object.

    Raises:
        StoreError: If an array cannot be read, or is not what was recorded.
        ProblemError: If the source cannot be read any more, or is not what the user has named
            before.
    """
    if source is None:
        source = _recorded_source(store)
    else:
        remember(source)
    frozen = read_inputs(store, source)
    altered = altered_inputs(store, frozen)
    if altered:
        raise StoreError(
            f"{store.location} is not as it was written: {altered} from what it records of itself. "
            "Compute it again, into another --store."
        )
    return frozen


def _recorded_source(store: HoldsInputs) -> ProblemSource:
    recorded, where = store.attributes["source"], shlex.quote(str(store.location))
    commands = [(f"hessian report {where} --problem", "")]
    if store.kind == STORE:
        commands = [(f"hessian verify {where} --problem", ""), ("hessian run", f"--store {where}")]
    advice = how_to_name(recorded["reference"], recorded["options"], *commands)
    source = ProblemSource(recorded["reference"], recorded["options"], advice=advice)
    check_named(source, str(store.location))
    check_options(source, store)
    return source
