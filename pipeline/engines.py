"""Which engine computes a problem's Hessian."""

from __future__ import annotations

from hessian_tasks.autodiff import AutodiffEngine
from hessian_tasks.errors import NotLayeredError
from hessian_tasks.layered.engine import LayeredEngine
from hessian_tasks.problem import Problem
from hessian_tasks.spec import EngineChoice, EngineName
from pipeline.errors import PlanError

__all__ = ["AnyEngine", "choose_engine"]

AnyEngine = AutodiffEngine | LayeredEngine


def choose_engine(problem: Problem, name: EngineName) -> tuple[AnyEngine, EngineChoice]:
    """Build the engine that was asked for, or the fastest one that applies.

    Args:
        problem: The problem, its model resolved to a Keras model.
        name: An engine, or ``"auto"``.

    Raises:
        PlanError: If the layered engine was asked for and does not apply.

    Example:
        >>> from hessian_tasks.problems.poisson import problem
        >>> choose_engine(problem(width=4, depth=2), "auto")[1]
        EngineChoice(name='layered', reason='')
    """
    if name == "autodiff":
        return AutodiffEngine(problem), EngineChoice("autodiff", "asked for")
    try:
        engine = LayeredEngine(problem)
    except NotLayeredError as error:
        if name == "layered":
            raise PlanError(
                f"The layered engine does not take this problem: {error}. "
                "Leave --engine out, or give --engine autodiff."
            ) from error
        return AutodiffEngine(problem), EngineChoice("autodiff", f"because {error}")
    others = [term.name for term in problem.terms if term.name not in engine.layered_terms]
    reason = f"but {', '.join(others)} by autodiff" if others else ""
    return engine, EngineChoice("layered", reason)
