"""Whether a matrix is better stored, or only multiplied with: what each way needs."""

from __future__ import annotations

import time
from dataclasses import dataclass
from itertools import groupby

import numpy as np

from hessian_tasks.autodiff.products import ShardProducts, cut_points
from hessian_tasks.frozen import FrozenInputs
from hessian_tasks.layered.engine import LayeredEngine
from hessian_tasks.parameters import ParameterLayout
from hessian_tasks.problem import Problem
from hessian_tasks.process import (
    configure_tensorflow,
    peak_bytes,
    reset_peak,
    resident_bytes,
    running_seconds,
)
from hessian_tasks.rebuild import rebuild
from hessian_tasks.shards import Shard
from hessian_tasks.spec import EngineChoice, Matrix, matrix_of
from pipeline.errors import DoesNotFitError
from pipeline.estimates._errors import MeasuredError
from pipeline.estimates._products import threaded_product
from pipeline.estimates.elsewhere import Elsewhere
from pipeline.estimates.estimates import EstimateOptions
from pipeline.estimates.fitting import usual_bytes
from pipeline.estimates.operator import SHARDS_PER_THREAD
from pipeline.run.budget import Budget
from pipeline.run.engines import choose_engine
from pipeline.run.options import RunOptions
from pipeline.run.plan import Plan
from pipeline.run.prepare import Prepared, find_obstacle, least_bytes, prepare
from pipeline.store.places import Location
from pipeline.units import format_bytes, format_seconds, memory_option

__all__ = ["Outlook", "look_ahead"]

# What `hessian estimate` took for trained PINNs of up to a million parameters: 120 to 400 for the
# trace and the norm, and as many for eigenpairs.
TYPICAL_PRODUCTS = 500
# A stored matrix answers everything, and exactly: worth that much of waiting.
PATIENCE_SECONDS = 3600.0


@dataclass(frozen=True)
class MatrixFreeCost:
    """What products cost in this process.

    Attributes:
        seconds_per_product: With one vector, as measured, with all cores.
        reserved_bytes: Resident memory before.
        projected_bytes: Resident memory with the vectors of a usual question.
        num_products: Of a usual question.
    """

    seconds_per_product: float
    reserved_bytes: int
    projected_bytes: int
    num_products: int = TYPICAL_PRODUCTS

    @property
    def seconds(self) -> float:
        """Time of a usual question."""
        return self.num_products * self.seconds_per_product


@dataclass(frozen=True)
class Outlook:
    """Both ways.

    Attributes:
        num_params: P.
        stored_bytes: Of the matrices that were asked for, without padding.
        plan: How they would be computed and stored, or None if that does not fit.
        obstacle: Why not; empty if it does.
        needed_bytes: Memory with which they would fit, if it is that which they lack.
        allowed_bytes: Memory that may be used.
        preparing_seconds: Time that a run takes until it computes, importing, freezing, reading,
            compiling and a trial: what this process has taken.
        matrix_free: What products cost.
        layout: The parameters.
        choice: The engine that was tried, or None if none was.
        elsewhere: What it would take on GPUs, or None if not all of it goes by layers.
    """

    num_params: int
    stored_bytes: int
    plan: Plan | None
    obstacle: str
    needed_bytes: int | None
    allowed_bytes: int
    preparing_seconds: float
    matrix_free: MatrixFreeCost
    layout: ParameterLayout
    choice: EngineChoice | None
    elsewhere: Elsewhere | None

    @property
    def seconds(self) -> float:
        """Time of a run, from its command to the stored matrix."""
        computing = 0.0 if self.plan is None else self.plan.projected_seconds
        return self.preparing_seconds + computing

    @property
    def more_memory(self) -> str:
        """The command with the memory that it needs, where neither way fits; empty otherwise."""
        if self.plan is not None or self.matrix_free.projected_bytes <= self.allowed_bytes:
            return ""
        command, needed = "hessian estimate", self.matrix_free.projected_bytes
        if self.needed_bytes is not None:
            command, needed = "hessian run", self.needed_bytes
        return f"{command} {memory_option(needed)}"

    @property
    def advice(self) -> str:
        """The command that is the better way."""
        if self.more_memory:
            return self.more_memory
        if self.plan is None:
            return "hessian estimate"
        patience = max(PATIENCE_SECONDS, self.matrix_free.seconds)
        return "hessian run" if self.seconds <= patience else "hessian estimate"

    @property
    def reason(self) -> str:
        """Why."""
        if self.more_memory:
            return f"neither way fits into {format_bytes(self.allowed_bytes)}"
        if self.plan is None:
            return "the matrix does not fit; products need it neither in memory nor on disk"
        seconds = format_seconds(self.seconds)
        if self.advice == "hessian run":
            return f"the matrix fits, takes about {seconds} in all, and answers everything exactly"
        return (
            f"the matrix fits, but takes about {seconds}; estimates take about "
            f"{format_seconds(self.matrix_free.seconds)}. For all eigenvalues: hessian run"
        )


def look_ahead(frozen: FrozenInputs, options: RunOptions, location: Location) -> Outlook:
    """Try a few rows, if these fit, and products, and say which way is the better one.

    The problem is rebuilt once for both.

    Args:
        frozen: The inputs.
        options: How the matrix would be computed.
        location: Where it would be stored.

    Raises:
        PlanError: If the engine, the tile side or the like does not apply.
    """
    num_threads = configure_tensorflow(options.num_threads)
    budget, stored = Budget.of(options.allowed_bytes), least_bytes(frozen, options)
    problem, rebuilt = rebuild(frozen), running_seconds()
    # First, in the memory that an estimate has as well: what a trial of rows leaves is a run's.
    products = _try_products(problem, matrix_of(options.engine), num_threads, budget)
    tried = running_seconds() - rebuilt
    prepared, obstacle, needed = _try_rows(frozen, options, location, problem)
    return Outlook(
        num_params=frozen.layout.num_params,
        stored_bytes=stored,
        plan=None if prepared is None else prepared.plan,
        obstacle=obstacle,
        needed_bytes=needed,
        allowed_bytes=budget.allowed,
        preparing_seconds=running_seconds() - tried,
        matrix_free=products,
        layout=frozen.layout,
        choice=None if prepared is None else prepared.choice,
        elsewhere=_on_gpus(prepared, problem, options, stored),
    )


def _try_rows(
    frozen: FrozenInputs, options: RunOptions, location: Location, problem: Problem
) -> tuple[Prepared | None, str, int | None]:
    """What a run begins with, or why it could not, and the memory that it lacks, if it is that."""
    obstacle = find_obstacle(frozen, options, location)
    if obstacle:
        return None, obstacle, None
    try:
        return prepare(frozen, options, None, problem), "", None
    except DoesNotFitError as error:
        return None, str(error), error.needed_bytes


def _on_gpus(
    prepared: Prepared | None, problem: Problem, options: RunOptions, stored_bytes: int
) -> Elsewhere | None:
    if prepared is not None:
        engine = prepared.engines[0]
    elif options.engine in ("auto", "layered"):
        engine = choose_engine(problem, options.engine)[0]
    else:
        return None
    if not isinstance(engine, LayeredEngine) or engine.left_out:
        return None
    num_params, itemsize = engine.layout.num_params, engine.dtype.itemsize
    return Elsewhere(num_params, itemsize, stored_bytes, engine.point_streams)


def _try_products(
    problem: Problem, matrix: Matrix, num_threads: int, budget: Budget
) -> MatrixFreeCost:
    reserved = resident_bytes()
    reset_peak()
    products = ShardProducts(problem, matrix)
    shards = cut_points(problem, num_shards=SHARDS_PER_THREAD * num_threads)
    seconds = sum(
        _seconds(products, list(of_term), num_threads)
        for _, of_term in groupby(shards, key=lambda shard: shard.term)
    )
    # An estimate begins with it: it compiles another way, and multiplies with several vectors.
    heads = threaded_product(products, [shard.head() for shard in shards], num_threads)
    MeasuredError(problem, products, shards)(heads)
    vectors = usual_bytes(products.num_params, budget.allowed, EstimateOptions.max_products)
    return MatrixFreeCost(seconds, reserved, max(peak_bytes(), reserved) + vectors)


def _seconds(products: ShardProducts, shards: list[Shard], num_threads: int) -> float:
    """Time of a product, for one term: all batches of points cost what the first ones do."""
    heads = [shard.head() for shard in shards]
    product = threaded_product(products, heads, num_threads)
    vector = np.ones((products.num_params, 1))
    product(vector)  # compiles
    started = time.perf_counter()
    product(vector)
    seconds = time.perf_counter() - started
    return seconds * sum(len(shard.batches()) for shard in shards) / len(heads)
