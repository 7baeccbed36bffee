"""What a loss term depends on, in words."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from hessian_tasks.jets import Index
from hessian_tasks.networks.joint import Joint
from hessian_tasks.networks.models import parameter_layout
from hessian_tasks.problem import Problem
from hessian_tasks.reading._evaluations import Dependence
from hessian_tasks.reading._quadratic import QuadraticModel, ResidualModel

__all__ = ["derivatives_that_matter", "describe"]


def describe(
    problem: Problem, dependence: Dependence, model: QuadraticModel | ResidualModel
) -> str:
    """What a term depends on, as ``u.xx, u.yy at 1,000 points, adds up point by point``.

    Args:
        problem: The problem, its model resolved to a Keras model.
        dependence: Where the term evaluates networks, and which derivatives it asks for.
        model: Its derivatives by these, which say what matters.
    """
    found, matter = [], list(derivatives_that_matter(problem, dependence, model))
    for number, evaluation in enumerate(dependence.evaluations):
        names = [name for name, place, *_ in matter if place == number]
        points = len(evaluation.points)
        if names:
            found.append(f"{', '.join(names)} at {points:,} point{'' if points == 1 else 's'}")
    table = parameter_layout(problem.model).variables
    words = ["; ".join(found) or "nothing of the network"]
    if dependence.direct:
        words.append(f"reads {', '.join(table[position].path for position in dependence.direct)}")
    return ", ".join([*words, "adds up point by point"] if found else words)


def derivatives_that_matter(
    problem: Problem, dependence: Dependence, model: QuadraticModel | ResidualModel
) -> Iterator[tuple[str, int, int, slice]]:
    """The derivatives on which a term depends near its jets, of the same arguments.

    Yields:
        What a residual would ask for, as ``u.xx``; the number of the evaluation; where it is among
        the derivatives there, and among their outputs.
    """
    joint = Joint(problem)
    columns, outputs_of = joint.column_names(), joint.outputs()
    for number, evaluation in enumerate(dependence.evaluations):
        parts = model.parts(number)
        for slot, index in enumerate(evaluation.indices):
            for network, outputs in outputs_of.items():
                if any(part[slot, outputs].any() for part in parts):
                    name = _name_derivative(network or "u", index, columns)
                    yield name, number, slot, outputs


def _name_derivative(network: str, index: Index, columns: Sequence[str]) -> str:
    """A derivative as a residual would ask for it.

    Example:
        >>> _name_derivative("u", (0, 0), "xy"), _name_derivative("u", (), "xy")
        ('u.xx', 'u')
        >>> _name_derivative("u", (1,), ())
        'u.x1'
    """
    names = columns or [f"x{axis}" for axis in range(max(index, default=0) + 1)]
    return ".".join(filter(None, [network, "".join(names[axis] for axis in index)]))
