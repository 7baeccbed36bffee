"""Which engine computes a problem's Hessian, or its Gauss-Newton matrix, or which two do both."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from hessian_tasks.autodiff import AutodiffEngine
from hessian_tasks.autodiff.generalised import Kinds, find_kinds
from hessian_tasks.autodiff.matrices import AutodiffCurvature, AutodiffJacobian
from hessian_tasks.devices import DevicePool
from hessian_tasks.errors import NotLayeredError
from hessian_tasks.gauss_newton import GaussNewtonEngine
from hessian_tasks.layered.engine import LayeredEngine
from hessian_tasks.layered.expand.network import Network
from hessian_tasks.layered.gauss_newton import layered_matrices
from hessian_tasks.problem import Problem, ResidualTerm
from hessian_tasks.process import gpu_names
from hessian_tasks.reading import Reading, read_terms
from hessian_tasks.spec import EngineChoice, EngineName
from pipeline.errors import PlanError

__all__ = ["AnyEngine", "choose_engine", "choose_engines", "uses_numpy"]

AnyEngine = AutodiffEngine | LayeredEngine | GaussNewtonEngine


def choose_engine(
    problem: Problem, name: EngineName, readings: Sequence[Reading] | None = None
) -> tuple[AnyEngine, EngineChoice]:
    """Build the engine that was asked for, or the fastest one that applies.

    Args:
        problem: The problem, its model resolved to a Keras model.
        name: An engine, or ``"auto"``: the fastest one for the Hessian.
        readings: All of its terms, if they are read already.

    Raises:
        PlanError: If the layered engine, or the Gauss-Newton matrix, was asked for and does not
            apply.

    Example:
        >>> from hessian_tasks.problems.poisson import problem
        >>> choose_engine(problem(width=4, depth=2), "auto")[1].name
        'layered'
    """
    devices, readings = DevicePool(gpu_names()), readings or read_terms(problem)
    if name == "ggn":
        return _choose_matrices(readings, find_kinds(readings), devices)
    return _choose_hessian(readings, name, devices)


def choose_engines(
    problem: Problem,
    name: EngineName,
    *,
    with_ggn: bool = False,
    readings: Sequence[Reading] | None = None,
) -> tuple[tuple[AnyEngine, ...], EngineChoice]:
    """The engine of the Hessian, and that of the Gauss-Newton matrix beside it, if that is wanted.

    Networks and terms are read once for both.

    Args:
        problem: The problem, its model resolved to a Keras model.
        name: An engine, as :func:`choose_engine` takes it.
        with_ggn: Whether the Gauss-Newton matrix is wanted beside the Hessian.
        readings: All of its terms, if they are read already.

    Raises:
        PlanError: As :func:`choose_engine` does; or if a term has no Gauss-Newton matrix, or that
            was asked for alone.

    Example:
        >>> from hessian_tasks.problems.poisson import problem
        >>> engines, choice = choose_engines(problem(width=4, depth=2), "auto", with_ggn=True)
        >>> [engine.name for engine in engines], choice.name
        (['layered', 'ggn'], 'layered')
    """
    if not with_ggn:
        engine, choice = choose_engine(problem, name, readings)
        return (engine,), choice
    if name == "ggn":
        raise PlanError(
            "--engine ggn computes the Gauss-Newton matrix alone, and --with-ggn computes it "
            "beside the Hessian. Leave one of them out."
        )
    devices, readings = DevicePool(gpu_names()), readings or read_terms(problem)
    kinds = find_kinds(readings)
    if kinds.left_out:
        raise PlanError(
            f"Not every term has a Gauss-Newton matrix: {_reasons(kinds)}. Leave --with-ggn out, "
            "or compute that of the other terms, if there are any, into another --store with "
            "--engine ggn."
        )
    first, choice = _choose_hessian(readings, name, devices)
    network = first.network if isinstance(first, LayeredEngine) else None
    second, beside = _choose_matrices(readings, kinds, devices, network)
    reasons = [choice.reason, beside.reason and f"Gauss-Newton matrix: {beside.reason}"]
    return (first, second), replace(
        choice,
        reason="; ".join(filter(None, reasons)),
        residuals=beside.residuals,
        readings={**beside.readings, **choice.readings},
        with_ggn=True,
    )


def _reasons(kinds: Kinds) -> str:
    return "; ".join(f"term {name!r} {reason}" for name, reason in kinds.left_out.items())


def _choose_hessian(
    readings: Sequence[Reading], name: EngineName, devices: DevicePool
) -> tuple[AnyEngine, EngineChoice]:
    problem = readings[0].problem
    if name == "autodiff":
        return AutodiffEngine(problem, devices=devices), EngineChoice("autodiff", "asked for")
    try:
        engine = LayeredEngine(problem, devices, readings)
    except NotLayeredError as error:
        if name == "layered":
            raise PlanError(
                f"The layered engine does not take this problem: {error}. "
                "Leave --engine out, or give --engine autodiff."
            ) from error
        reason = f"because {error}"
        return AutodiffEngine(problem, devices=devices), EngineChoice("autodiff", reason)
    others = [f"{term} {reason}" for term, reason in engine.left_out.items()]
    reason = f"but by autodiff: {'; '.join(others)}" if others else ""
    return engine, EngineChoice("layered", reason, readings=engine.readings)


def _choose_matrices(
    readings: Sequence[Reading], kinds: Kinds, devices: DevicePool, network: Network | None = None
) -> tuple[GaussNewtonEngine, EngineChoice]:
    problem, missing = readings[0].problem, kinds.left_out
    chosen = [reading for reading in readings if reading.term.name not in missing]
    if not chosen:
        raise PlanError(
            f"No term has a Gauss-Newton matrix: {_reasons(kinds)}. Declare them as ResidualTerm "
            "or DensityTerm, or compute the Hessian: leave --engine out."
        )
    notes = [
        f"term {name!r} with the loss kept, {'convex' if convex else 'not convex'} in the jets"
        for name, convex in kinds.convex.items()
    ]
    notes += [f"without term {name!r}, which {reason}" for name, reason in missing.items()]
    try:
        engine = GaussNewtonEngine(problem, layered_matrices(chosen, network), by_layers=True)
    except NotLayeredError as error:
        notes.insert(0, f"by autodiff because {error}")
        matrices = [
            AutodiffJacobian(problem, term)
            if isinstance(term, ResidualTerm)
            else AutodiffCurvature(problem, term)
            for term in (reading.term for reading in chosen)
        ]
        engine = GaussNewtonEngine(problem, matrices, by_layers=False, devices=devices)
    read = chosen if engine.by_layers else []
    words = {reading.term.name: reading.words for reading in read}
    return engine, EngineChoice("ggn", "; ".join(notes), engine.residuals, missing, words)


def uses_numpy(*engines: AnyEngine) -> bool:
    """Whether a block row is NumPy on one core, rather than TensorFlow on all."""
    return all(
        engine.by_layers
        if isinstance(engine, GaussNewtonEngine)
        else isinstance(engine, LayeredEngine) and not engine.devices
        for engine in engines
    )
