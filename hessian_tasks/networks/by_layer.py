"""A problem for each layer of θ: the loss by that layer's weights, all others held fixed.

Their Hessians are the diagonal blocks of the layers. Weights are told by their places, not by
names, and all problems have the same networks: a factory is called once.
"""

from __future__ import annotations

from dataclasses import replace

from hessian_tasks.networks.trainables import (
    Trainables,
    held_of,
    networks_of,
    parameters_of,
    resolve,
)
from hessian_tasks.parameters import owner_of
from hessian_tasks.problem import Problem

__all__ = ["problems_by_layer"]


def problems_by_layer(problem: Problem) -> dict[str, Problem]:
    """Resolved problems with θ in one layer each, by the layers of θ in their order.

    The parameters of a problem are a layer, too.

    Raises:
        ModelError: If there is no built network.
        ProblemError: If a parameter cannot be used, or there is nothing of a name in ``only``.

    Example:
        >>> from hessian_tasks.networks.models import parameter_layout
        >>> from hessian_tasks.problems.poisson import problem
        >>> found = problems_by_layer(problem(width=4, depth=2))
        >>> {name: parameter_layout(part.model).num_params for name, part in found.items()}
        {'hidden_1': 12, 'hidden_2': 20, 'output': 5}
    """
    whole = resolve(problem)
    networks, parameters = networks_of(whole.model), parameters_of(whole.model)
    held = {weight.position for weight in held_of(whole.model)}
    candidates = Trainables(networks, parameters).candidates
    layers: dict[str, set[int]] = {}
    for position, weight in enumerate(candidates):
        if position not in held:
            layers.setdefault(owner_of(weight.path), set()).add(position)
    found = {}
    for layer, positions in layers.items():
        model = Trainables(networks, parameters)
        model.hold(set(range(len(candidates))) - positions)
        found[layer] = replace(whole, model=model)
    return found
