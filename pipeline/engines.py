"""Which engine computes a problem's Hessian, or its Gauss-Newton matrix."""

from __future__ import annotations

from hessian_tasks.autodiff import AutodiffEngine
from hessian_tasks.devices import DevicePool
from hessian_tasks.errors import NotLayeredError
from hessian_tasks.gauss_newton import AutodiffJacobian, GaussNewtonEngine
from hessian_tasks.layered.engine import LayeredEngine
from hessian_tasks.layered.gauss_newton import layered_jacobians
from hessian_tasks.linearised import lacks_residuals, residual_terms
from hessian_tasks.problem import Problem
from hessian_tasks.process import gpu_names
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
        return _choose_jacobians(problem, devices)
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


def _choose_jacobians(
    problem: Problem, devices: DevicePool
) -> tuple[GaussNewtonEngine, EngineChoice]:
    if reason := lacks_residuals(problem):
        raise PlanError(f"{reason}, or compute the Hessian: leave --engine out.")
    try:
        engine = GaussNewtonEngine(problem, layered_jacobians(problem), by_layers=True)
        reason = ""
    except NotLayeredError as error:
        jacobians = [AutodiffJacobian(problem, term) for term in residual_terms(problem)]
        engine = GaussNewtonEngine(problem, jacobians, by_layers=False, devices=devices)
        reason = f"by autodiff because {error}"
    return engine, EngineChoice("ggn", reason, engine.residuals)


def uses_numpy(engine: AnyEngine) -> bool:
    """Whether a block row is NumPy on one core, rather than TensorFlow on all."""
    if isinstance(engine, GaussNewtonEngine):
        return engine.by_layers
    return isinstance(engine, LayeredEngine) and not engine.devices
