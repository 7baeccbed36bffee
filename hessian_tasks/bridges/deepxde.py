"""DeepXDE's models as problems (L. Lu et al., SIAM Review 63, 208, 2021).

A ``dde.Model`` minimises Σ_k w_k ℓ_k, where ℓ_k is the loss of an equation's residual, or of a
condition's error, at training points. Each of them becomes a term, which evaluates the network at
its own points alone; that their values are those of DeepXDE's own loss is found by evaluating both.
"""

from __future__ import annotations

import inspect
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import accumulate, pairwise
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from hessian_tasks.bridges import imported
from hessian_tasks.bridges._components import Component, condition, equation, fit
from hessian_tasks.bridges._declared import Declared, check_supported, declared_by, is_fit
from hessian_tasks.bridges._same import check_same
from hessian_tasks.problem import LossTerm, Problem, Term

__all__ = ["problem"]

Array: TypeAlias = npt.NDArray[Any]

_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]*")
# What terms are given by name.
_TAKEN = {"auxiliary", "points", "values"}


def problem(model: Any) -> Problem:
    """A compiled ``dde.Model`` of DeepXDE's TensorFlow 2 backend as a problem.

    The terms are ``pde``, ``pde_2``, … for the equations, then one for each condition, called by
    its class: ``dirichlet``, ``dirichlet_2``, ``ic``; or ``fit`` for data; and ``regularization``.
    They have the loss functions and weights that the model was compiled with, and the training
    points that it has now. The parameters are its ``external_trainable_variables``, called as the
    equations call them. Nothing is copied: the problem's network is the model's.

    Args:
        model: The model, trained, restored or neither.

    Raises:
        ProblemError: If DeepXDE is not installed, the model is not compiled, or something of it is
            not supported; says what to do instead.

    Example:
        A model ``model`` of the Burgers equation with one initial and one boundary condition::

            from hessian_tasks.bridges import deepxde
            from pipeline import compute_hessian

            hessian = compute_hessian(deepxde.problem(model), "burgers.zarr")
            hessian.problem.terms  # pde, dirichlet, ic
    """
    imported("deepxde")
    check_supported(model)
    declared = declared_by(model)
    terms = [*_terms(model, declared)]
    found = Problem(
        model=model.net,
        terms=terms,
        coordinates=_coordinates(model.data),
        parameters=_parameters(model),
    )
    check_same(model, terms)
    return found


def _terms(model: Any, declared: Declared) -> Iterator[Term]:
    data = model.data
    names = _names(data, declared)
    components = iter(map(Component, names, declared.losses, declared.weights))
    if is_fit(data):
        yield fit(next(components), np.asarray(data.train_x), np.asarray(data.train_y))
    else:
        yield from _of_equations(data, declared, components)
        edges = accumulate(data.num_bcs, initial=0)
        for bc, (start, stop) in zip(data.bcs, pairwise(edges), strict=True):
            yield condition(next(components), bc, np.asarray(data.train_x[start:stop]))
    for component in components:
        yield LossTerm(component.name, lambda network: tf.add_n(network.losses), component.weight)


def _of_equations(data: Any, declared: Declared, components: Iterator[Component]) -> Iterator[Term]:
    start = sum(data.num_bcs)
    arrays = {"points": np.asarray(data.train_x[start:])}
    if data.train_aux_vars is not None:
        arrays["auxiliary"] = np.asarray(data.train_aux_vars[start:])
    for number in range(declared.num_equations):
        yield equation(next(components), data.pde, number, arrays)


def _names(data: Any, declared: Declared) -> list[str]:
    """What the terms are called.

    DeepXDE has no names for its components; those of conditions are the names of their classes.
    """
    kinds = ["fit"] if is_fit(data) else ["pde"] * declared.num_equations
    kinds += [_snake(type(bc).__name__.removesuffix("BC")) for bc in getattr(data, "bcs", [])]
    kinds += ["regularization"] * declared.is_regularised
    counts: Counter[str] = Counter()
    names = []
    for kind in kinds:
        counts[kind] += 1
        names.append(f"{kind}_{counts[kind]}" if counts[kind] > 1 else kind)
    return names


def _snake(name: str) -> str:
    """The name of a class as that of a term.

    Example:
        >>> _snake("PointSetOperator"), _snake("IC")
        ('point_set_operator', 'ic')
    """
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower()


def _coordinates(data: Any) -> Sequence[str]:
    """Names of the columns of the points: x, y, z, and t where the last is a time."""
    import deepxde as dde

    number = np.asarray(data.train_x).shape[1]
    geometry = getattr(data, "geom", None)
    times = isinstance(geometry, dde.geometry.GeometryXTime | dde.geometry.TimeDomain)
    space = number - times
    names = "xyz"[:space] if space <= 3 else [f"x{i + 1}" for i in range(space)]
    return [*names, *["t"] * times]


def _parameters(model: Any) -> dict[str, Any]:
    """The trainable variables beside the network, called as the equations' code calls them."""
    known = _read_by(getattr(model.data, "pde", None))
    found: dict[str, Any] = {}
    for number, variable in enumerate(model.external_trainable_variables, 1):
        names = [n for n, value in known.items() if value is variable and _NAME.fullmatch(n)]
        free = [name for name in names if name not in {*found, *_TAKEN}]
        found[free[0] if free else f"variable_{number}"] = variable
    return found


def _read_by(function: Any) -> dict[str, Any]:
    """What a function's code reads from around it, by name."""
    if not inspect.isfunction(function):
        return {}
    read = inspect.getclosurevars(function)
    return {**read.globals, **read.nonlocals}
