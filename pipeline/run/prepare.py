"""What comes before a run: the problem is rebuilt, a few rows are tried, and the plan is made."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from threadpoolctl import threadpool_limits

from hessian_tasks.frozen import FrozenInputs
from hessian_tasks.problem import Problem
from hessian_tasks.process import configure_tensorflow, resident_bytes
from hessian_tasks.reading import read_terms
from hessian_tasks.rebuild import rebuild
from hessian_tasks.spec import EngineChoice, Matrix
from pipeline.errors import StoreMismatchError
from pipeline.run._references import References
from pipeline.run._trial import measure, num_threads_of, wanted_block_rows
from pipeline.run.budget import Budget
from pipeline.run.engines import AnyEngine, choose_engines
from pipeline.run.options import RunOptions
from pipeline.run.plan import COPIES, MIN_TILE_SIDE, Plan, Request, make_plan
from pipeline.store.places import Location
from pipeline.store.store import HessianStore
from pipeline.units import format_bytes

__all__ = [
    "Prepared",
    "find_obstacle",
    "kept_options",
    "least_bytes",
    "nothing_left",
    "prepare",
]


@dataclass(frozen=True)
class Prepared:
    """A run that is ready to start: the engines are compiled and the plan is made.

    Attributes:
        engines: Compute block rows; none where nothing is left to compute.
        choice: Which engines these are, and why.
        plan: The plan.
        references: Products to check the result with, by matrix, or None if it is checked already.
    """

    engines: tuple[AnyEngine, ...]
    choice: EngineChoice
    plan: Plan
    references: Mapping[Matrix, References] | None


def prepare(
    frozen: FrozenInputs,
    options: RunOptions,
    store: HessianStore | None,
    problem: Problem | None = None,
    *,
    timed: bool = True,
) -> Prepared:
    """Rebuild the problem, try a few rows, and plan.

    Args:
        frozen: The inputs.
        options: How to run.
        store: The store to resume, whose tiles and arrays are kept, or None.
        problem: The problem, if it is rebuilt already.
        timed: Whether the plan's time is for somebody to wait by.

    Raises:
        ReproductionError: If the problem cannot be rebuilt.
        PlanError: If it does not fit into memory.
        StoreMismatchError: If the options contradict the store.
    """
    num_threads = configure_tensorflow(options.num_threads)
    if store is not None:
        options = kept_options(store, options)
    problem, per_term = problem or rebuild(frozen), bool(options.per_term)
    budget, readings = Budget.of(options.allowed_bytes), read_terms(problem)
    if options.engine in ("auto", "layered"):
        budget.check_expansions(readings)
    engines, choice = choose_engines(
        problem, options.engine, with_ggn=bool(options.with_ggn), readings=readings
    )
    # Before memory is measured, so that it is planned for.
    references = {m: References(problem, m, choice.left_out) for m in choice.matrices}
    num_threads = num_threads_of(engines, options.executor, options.num_threads, num_threads)
    with threadpool_limits(1, "blas"):
        cost = measure(engines, per_term, num_threads, options.num_workers, timed=timed)
    num_terms = len(frozen.terms) - len(choice.left_out) if per_term else 0
    request = Request(
        num_params=frozen.layout.num_params,
        itemsize=frozen.dtype.itemsize,
        num_arrays=len(choice.matrices) * (1 + num_terms),
        num_threads=num_threads,
        allowed_bytes=budget.allowed,
        tile=options.tile,
        num_block_rows=wanted_block_rows(engines, num_threads, options.num_workers),
        tile_multiple=engines[0].tile_multiple,
        num_residuals=sum(residuals.count for residuals in choice.residuals),
        matrices=choice.matrices,
    )
    return Prepared(engines, choice, make_plan(request, cost), references)


def nothing_left(store: HessianStore, options: RunOptions) -> Prepared:
    """What a store needs that is complete and checked: no problem, engine or trial.

    Args:
        store: The store.
        options: How to run.

    Raises:
        StoreMismatchError: If the options contradict the store.
    """
    kept, reserved = kept_options(store, options), resident_bytes()
    request = Request(
        num_params=store.num_params,
        itemsize=store.dtype.itemsize,
        num_arrays=len(store.all_arrays),
        num_threads=1,
        allowed_bytes=Budget.of(options.allowed_bytes).allowed,
        tile=kept.tile,
        matrices=store.matrices,
    )
    plan = Plan(request, store.tile, 1, reserved, 0, reserved, 0.0)
    return Prepared((), EngineChoice(store.engine, ""), plan, None)


def least_bytes(frozen: FrozenInputs, options: RunOptions) -> int:
    """Bytes of the matrices that a run stores, without padding and Jacobians.

    Of the Gauss-Newton matrix alone it is not known yet which terms have one; beside the Hessian
    all have to.
    """
    per_term = options.per_term and options.engine != "ggn"
    num_matrices = (1 + len(frozen.terms) if per_term else 1) * (2 if options.with_ggn else 1)
    return num_matrices * len(frozen.theta) ** 2 * frozen.dtype.itemsize


def find_obstacle(frozen: FrozenInputs, options: RunOptions, location: Location) -> str:
    """What speaks against the matrix before a row of it is tried, or nothing."""
    stored, free = least_bytes(frozen, options), location.free_bytes()
    if free is not None and stored > free:
        return f"only {format_bytes(free)} are free for {location}"
    num_params = len(frozen.theta)
    smallest = COPIES * min(MIN_TILE_SIDE, num_params) * (stored // num_params)
    allowed = Budget.of(options.allowed_bytes).allowed
    if smallest > allowed:
        return (
            f"the smallest block row takes {format_bytes(smallest)} of memory, and "
            f"{format_bytes(allowed)} are allowed"
        )
    return ""


def kept_options(store: HessianStore, options: RunOptions) -> RunOptions:
    """The options with what the store decides, which a resumed run keeps.

    Raises:
        StoreMismatchError: If the options contradict the store.
    """
    per_term, with_ggn = len(store.arrays) > 1, len(store.matrices) > 1
    if options.engine not in ("auto", store.engine):
        raise StoreMismatchError(
            f"{store.location} was begun with engine {store.engine}, but --engine "
            f"{options.engine} was asked for. Leave --engine out to resume, or give another "
            "--store."
        )
    if options.with_ggn not in (None, with_ggn):
        raise StoreMismatchError(
            f"{store.location} was made for the {' and the '.join(m.title for m in store.matrices)}"
            f", but {'--with-ggn' if options.with_ggn else '--without-ggn'} was asked for. Resume "
            "it without that, or give another --store."
        )
    if options.tile not in (None, store.tile):
        raise StoreMismatchError(
            f"{store.location} has tiles of side {store.tile}, but --tile {options.tile} was asked "
            "for. Leave --tile out to resume, or give another --store."
        )
    if options.per_term not in (None, per_term):
        raise StoreMismatchError(
            f"{store.location} was made {'with' if per_term else 'without'} "
            f"{store.matrix.plural} of the single loss terms. Resume it that way, or give another "
            "--store."
        )
    return replace(
        options, engine=store.engine, tile=store.tile, per_term=per_term, with_ggn=with_ggn
    )
