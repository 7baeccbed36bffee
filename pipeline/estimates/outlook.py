"""Whether a matrix is better stored, or only multiplied with: what each way needs."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Literal

import numpy as np

from hessian_tasks.autodiff.products import ShardProducts, cut_points
from hessian_tasks.frozen import FrozenInputs
from hessian_tasks.layered.engine import LayeredEngine
from hessian_tasks.parameters import ParameterLayout
from hessian_tasks.process import configure_tensorflow, peak_bytes, reset_peak, resident_bytes
from hessian_tasks.rebuild import rebuild
from hessian_tasks.spec import EngineChoice, matrix_of
from pipeline.errors import DoesNotFitError
from pipeline.estimates._products import threaded_product
from pipeline.estimates.elsewhere import Elsewhere
from pipeline.estimates.operator import SHARDS_PER_THREAD
from pipeline.run.engines import AnyEngine, choose_engine
from pipeline.run.options import RunOptions
from pipeline.run.plan import Plan
from pipeline.run.prepare import find_obstacle, least_bytes, prepare
from pipeline.store.places import Location
from pipeline.units import format_seconds

__all__ = ["Outlook", "look_ahead"]

# What `hessian estimate` took for trained PINNs of up to a million parameters: 120 to 400 for the
# trace and the norm, and as many for eigenpairs.
TYPICAL_PRODUCTS = 500
# Vectors that are in memory together, in float64: the basis of Lanczos' method and what XTrace has.
TYPICAL_VECTORS = 100
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
        matrix_free: What products cost.
        layout: The parameters.
        choice: The engine that was tried, or None if none was.
        elsewhere: What it would take on GPUs, or None if not all of it goes by layers.
    """

    num_params: int
    stored_bytes: int
    plan: Plan | None
    obstacle: str
    matrix_free: MatrixFreeCost
    layout: ParameterLayout
    choice: EngineChoice | None
    elsewhere: Elsewhere | None = None

    @property
    def advice(self) -> Literal["hessian run", "hessian estimate"]:
        """The command that is the better way."""
        if self.plan is None:
            return "hessian estimate"
        patience = max(PATIENCE_SECONDS, self.matrix_free.seconds)
        return "hessian run" if self.plan.projected_seconds <= patience else "hessian estimate"

    @property
    def reason(self) -> str:
        """Why."""
        if self.plan is None:
            return "the matrix does not fit; products need it neither in memory nor on disk"
        seconds = format_seconds(self.plan.projected_seconds)
        if self.advice == "hessian run":
            return f"the matrix fits, takes about {seconds}, and answers everything exactly"
        return (
            f"the matrix fits, but takes about {seconds}; estimates take about "
            f"{format_seconds(self.matrix_free.seconds)}. For all eigenvalues: hessian run"
        )


def look_ahead(frozen: FrozenInputs, options: RunOptions, location: Location) -> Outlook:
    """Try a few rows, if these fit, and products, and say which way is the better one.

    Args:
        frozen: The inputs.
        options: How the matrix would be computed.
        location: Where it would be stored.

    Raises:
        PlanError: If the engine, the tile side or the like does not apply.
    """
    plan, choice, obstacle = None, None, find_obstacle(frozen, options, location)
    engine: AnyEngine | None = None
    if not obstacle:
        try:
            prepared = prepare(frozen, options, None)
            plan, choice, engine = prepared.plan, prepared.choice, prepared.engines[0]
        except DoesNotFitError as error:
            obstacle = str(error)
    cost = _try_products(frozen, options)
    num_params = frozen.layout.num_params
    if engine is None and options.engine in ("auto", "layered"):
        engine, _ = choose_engine(rebuild(frozen), options.engine)
    stored = least_bytes(frozen, options)
    elsewhere = _on_gpus(engine, stored)
    return Outlook(num_params, stored, plan, obstacle, cost, frozen.layout, choice, elsewhere)


def _on_gpus(engine: AnyEngine | None, stored_bytes: int) -> Elsewhere | None:
    if not isinstance(engine, LayeredEngine) or engine.left_out:
        return None
    num_params, itemsize = engine.layout.num_params, engine.dtype.itemsize
    return Elsewhere(num_params, itemsize, stored_bytes, engine.point_streams)


def _try_products(frozen: FrozenInputs, options: RunOptions) -> MatrixFreeCost:
    num_threads = configure_tensorflow(options.num_threads)
    problem = rebuild(frozen)
    reserved = resident_bytes()
    reset_peak()
    products = ShardProducts(problem, matrix_of(options.engine))
    shards = cut_points(problem, num_shards=SHARDS_PER_THREAD * num_threads)
    product = threaded_product(products, shards, num_threads)
    vector = np.ones((products.num_params, 1))
    product(vector)  # compiles
    started = time.perf_counter()
    product(vector)
    seconds = time.perf_counter() - started
    vectors = TYPICAL_VECTORS * vector.nbytes
    return MatrixFreeCost(seconds, reserved, max(peak_bytes(), reserved) + vectors)
