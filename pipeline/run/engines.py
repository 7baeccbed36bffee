"""Which engine computes a problem's Hessian, or its Gauss-Newton matrix."""

from __future__ import annotations

from hessian_tasks.autodiff import AutodiffEngine
from hessian_tasks.autodiff.generalised import find_kinds
from hessian_tasks.autodiff.matrices import AutodiffCurvature, AutodiffJacobian
from hessian_tasks.devices import DevicePool
from hessian_tasks.errors import NotLayeredError
from hessian_tasks.gauss_newton import GaussNewtonEngine
from hessian_tasks.layered.engine import LayeredEngine
from hessian_tasks.layered.gauss_newton import layered_matrices
from hessian_tasks.problem import Problem, ResidualTerm
from hessian_tasks.process import gpu_names
from hessian_tasks.reading import read_terms
from hessian_tasks.spec import EngineChoice, EngineName
from pipeline.errors import PlanError

__all__ = ["AnyEngine", "choose_engine", "uses_numpy"]

AnyEngine = AutodiffEngine | LayeredEngine | GaussNewtonEngine


def choose_engine(problem: Problem, name: EngineName) -> tuple[AnyEngine, EngineChoice]:
    """Build the engine that was asked for, or the fastest one that applies.

    Args:
        problem: The problem, its model resolved to a Keras model.
        name: An engine, or ``"auto"``: the fastest one for the Hessian.

    Raises:
        PlanError: If the layered engine, or the Gauss-Newton matrix, was asked for and does not
            apply.

    Example:
        >>> from hessian_tasks.problems.poisson import problem
        >>> choose_engine(problem(width=4, depth=2), "auto")[1].name
        'layered'
    """
    devices = DevicePool(gpu_names())
    if name == "ggn":
        return _choose_matrices(problem, devices)
    if name == "autodiff":
        return AutodiffEngine(problem, devices=devices), EngineChoice("autodiff", "asked for")
    try:
        engine = LayeredEngine(problem, devices)
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
    problem: Problem, devices: DevicePool
) -> tuple[GaussNewtonEngine, EngineChoice]:
    kinds = find_kinds(readings := read_terms(problem))
    missing = kinds.left_out
    chosen = [reading for reading in readings if reading.term.name not in missing]
    if not chosen:
        reasons = "; ".join(f"term {name!r} {reason}" for name, reason in missing.items())
        raise PlanError(
            f"No term has a Gauss-Newton matrix: {reasons}. Declare them as ResidualTerm or "
            "DensityTerm, or compute the Hessian: leave --engine out."
        )
    notes = [
        f"term {name!r} with the loss kept, {'convex' if convex else 'not convex'} in the jets"
        for name, convex in kinds.convex.items()
    ]
    notes += [f"without term {name!r}, which {reason}" for name, reason in missing.items()]
    try:
        engine = GaussNewtonEngine(problem, layered_matrices(chosen), by_layers=True)
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


def uses_numpy(engine: AnyEngine) -> bool:
    """Whether a block row is NumPy on one core, rather than TensorFlow on all."""
    if isinstance(engine, GaussNewtonEngine):
        return engine.by_layers
    return isinstance(engine, LayeredEngine) and not engine.devices
