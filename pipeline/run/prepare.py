"""What comes before a run: the problem is rebuilt, a few rows are tried, and the plan is made."""

from __future__ import annotations

from dataclasses import dataclass

import psutil
from threadpoolctl import threadpool_limits

from hessian_tasks.frozen import FrozenInputs
from hessian_tasks.process import configure_tensorflow
from hessian_tasks.rebuild import rebuild
from hessian_tasks.spec import EngineChoice, EngineName, matrix_of
from pipeline.errors import StoreMismatchError
from pipeline.run._references import References
from pipeline.run._trial import measure, num_threads_of, wanted_block_rows
from pipeline.run.engines import AnyEngine, choose_engine
from pipeline.run.options import RunOptions
from pipeline.run.plan import COPIES, MIN_TILE_SIDE, Plan, Request, make_plan
from pipeline.store.places import Location
from pipeline.store.store import HessianStore
from pipeline.units import format_bytes

__all__ = ["Prepared", "find_obstacle", "kept_options", "least_bytes", "prepare"]


@dataclass(frozen=True)
class Prepared:
    """A run that is ready to start: the engine is compiled and the plan is made.

    Attributes:
        engine: Computes block rows.
        choice: Which engine that is, and why.
        plan: The plan.
        references: Products to check the result with, or None if it is checked already.
    """

    engine: AnyEngine
    choice: EngineChoice
    plan: Plan
    references: References | None


def prepare(
    frozen: FrozenInputs, options: RunOptions, store: HessianStore | None, *, checked: bool = False
) -> Prepared:
    """Rebuild the problem, try a few rows, and plan.

    Args:
        frozen: The inputs.
        options: How to run.
        store: The store to resume, whose tiles and arrays are kept, or None.
        checked: Whether the store is complete and checked already.

    Raises:
        ReproductionError: If the problem cannot be rebuilt.
        PlanError: If it does not fit into memory.
        StoreMismatchError: If the options contradict the store.
    """
    num_threads = configure_tensorflow(options.num_threads)
    name, tile, per_term = options.engine, options.tile, bool(options.per_term)
    if store is not None:
        name, tile, per_term = kept_options(store, options)
    problem = rebuild(frozen)
    engine, choice = choose_engine(problem, name)
    # Before memory is measured, so that it is planned for.
    references = None if checked else References(problem, matrix_of(choice.name), choice.left_out)
    num_threads = num_threads_of(engine, options.executor, options.num_threads, num_threads)
    with threadpool_limits(1, "blas"):
        cost = measure(engine, per_term, num_threads, options.num_workers)
    request = Request(
        num_params=frozen.layout.num_params,
        itemsize=frozen.dtype.itemsize,
        num_arrays=1 + (len(frozen.terms) - len(choice.left_out) if per_term else 0),
        num_threads=num_threads,
        allowed_bytes=options.allowed_bytes or psutil.virtual_memory().available // 2,
        tile=tile,
        num_block_rows=wanted_block_rows(engine, num_threads, options.num_workers),
        tile_multiple=engine.tile_multiple,
        num_residuals=sum(residuals.count for residuals in choice.residuals),
        matrix=matrix_of(choice.name),
    )
    return Prepared(engine, choice, make_plan(request, cost), references)


def least_bytes(frozen: FrozenInputs, options: RunOptions) -> int:
    """Bytes of the matrices that a run stores, without padding and Jacobians.

    Of the Gauss-Newton matrix it is not known yet which terms have one.
    """
    per_term = options.per_term and options.engine != "ggn"
    num_entries = len(frozen.theta) ** 2 * (1 + (len(frozen.terms) if per_term else 0))
    return num_entries * frozen.dtype.itemsize


def find_obstacle(frozen: FrozenInputs, options: RunOptions, location: Location) -> str:
    """What speaks against the matrix before a row of it is tried, or nothing."""
    stored, free = least_bytes(frozen, options), location.free_bytes()
    if free is not None and stored > free:
        return f"only {format_bytes(free)} are free for {location}"
    num_params = len(frozen.theta)
    smallest = COPIES * min(MIN_TILE_SIDE, num_params) * (stored // num_params)
    allowed = options.allowed_bytes or psutil.virtual_memory().available // 2
    if smallest > allowed:
        return (
            f"the smallest block row takes {format_bytes(smallest)} of memory, and "
            f"{format_bytes(allowed)} are allowed"
        )
    return ""


def kept_options(store: HessianStore, options: RunOptions) -> tuple[EngineName, int, bool]:
    """Engine, tile side and whether there are matrices of terms, which a resumed run keeps.

    Raises:
        StoreMismatchError: If the options contradict the store.
    """
    per_term = len(store.arrays) > 1
    if options.engine not in ("auto", store.engine):
        raise StoreMismatchError(
            f"{store.location} was begun with engine {store.engine}, but --engine "
            f"{options.engine} was asked for. Leave --engine out to resume, or give another "
            "--store."
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
    return store.engine, store.tile, per_term
