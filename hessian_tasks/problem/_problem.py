"""What the user declares: networks, coordinates, parameters and the terms of the loss.

The total loss is the sum of the terms, see :mod:`hessian_tasks.problem.terms`,

    L(θ) = Σ_k w_k · mean over points and components of r_k(x; θ)²    (residual terms)
         + Σ_k w_k · mean over points of e_k(x; θ)                    (density terms)
         + Σ_k w_k · loss_k(model)                                   (loss terms)

and the Hessian of L with respect to all trainable weights, and then the parameters, is what gets
computed; or with respect to some of them, all else held fixed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from hessian_tasks.errors import ProblemError
from hessian_tasks.problem._given import check_name, finite
from hessian_tasks.problem.terms import (
    LossTerm,
    PointTerm,
    Term,
)

__all__ = ["Problem"]


@dataclass(frozen=True)
class Problem:
    """A network and the loss whose Hessian is wanted.

    Attributes:
        model: A built Keras model, or a function without arguments returning one
            (the way in for subclassed models). Or several of them by name,
            ``{"u": net_u, "k": net_k}``, with the same coordinates: terms are given the
            first, or the one that they call their network by, and ask for the others by name.
        terms: The loss terms; their names differ.
        coordinates: Names of the network's inputs, in the order of the columns of
            the points. May be empty if every term is a :class:`LossTerm`.
        parameters: What is trained beside the network, last in θ: numbers, arrays, or trainable
            ``tf.Variable`` of the user's own, by name. Terms are given them by name.
        only: What θ consists of, if not of all: names of layers, ``"hidden_1"``, of variables,
            ``"output/bias"``, of networks where there are several, ``"u"`` and then
            ``"u/hidden_1"``, and of parameters; ``"parameters"`` are all of these. The rest is held
            fixed at its present value, as frozen weights are, and the loss stays the same. Give
            layers names for this: Keras counts its own on with every network.
        exact_solution: If known, ``exact_solution(points)`` maps a NumPy array
            ``[N, d]`` to the solution ``[N, outputs]``; training reports the error.

    Raises:
        ProblemError: If there are no terms, two share a name, points do not
            have one column a coordinate, or ``only`` is empty.

    Example:
        >>> from hessian_tasks import Problem, ResidualTerm
        >>> term = ResidualTerm("pde", points=[[0.0, 1.0]], residual=lambda x, u: u.value)
        >>> Problem(model=lambda: None, coordinates="x", terms=[term])
        Traceback (most recent call last):
            ...
        hessian_tasks.errors.ProblemError: The points of term 'pde' have 2 columns, \
but the problem has 1 coordinate: x.
    """

    model: Any
    terms: Sequence[Term]
    coordinates: Sequence[str] = ()
    exact_solution: Callable[[npt.NDArray[Any]], npt.NDArray[Any]] | None = None
    parameters: Mapping[str, Any] = field(default_factory=dict)
    only: Sequence[str] | str | None = None

    def __post_init__(self) -> None:
        if self.only is not None:
            object.__setattr__(self, "only", _checked_names(self.only))
        if not isinstance(self.parameters, Mapping):
            raise ProblemError(
                f"The problem's parameters are a {type(self.parameters).__name__}; expected "
                'numbers by name: {"nu": 0.01}.'
            )
        if not isinstance(self.coordinates, Iterable):
            raise ProblemError(
                f"The problem's coordinates are {self.coordinates!r}; expected their names, as in "
                '"xy".'
            )
        object.__setattr__(self, "parameters", dict(self.parameters))
        object.__setattr__(self, "coordinates", tuple(self.coordinates))
        object.__setattr__(self, "terms", tuple(map(self._in_order, _checked_terms(self.terms))))
        names = [term.name for term in self.terms]
        if len(set(names)) < len(names):
            raise ProblemError(f"Two loss terms share a name: {names}. Give each its own.")
        _check_arrays(self.terms)
        if len(set(self.coordinates)) < len(self.coordinates):
            raise ProblemError(f"Two coordinates share a name: {list(self.coordinates)}.")
        for term in self.terms:
            if isinstance(term, PointTerm):
                self._check_points(term)
        self._check_names()

    def _check_names(self) -> None:
        networks = self.model if isinstance(self.model, Mapping) else {}
        for name in networks:
            check_name(name, "network")
        for name, value in self.parameters.items():
            check_name(name, "parameter")
            if name in networks:
                raise ProblemError(f"A network and a parameter are both named {name!r}.")
            finite(value, f"parameter {name!r}")
        for term in self.terms:
            if taken := sorted(term.data.keys() & {*networks, *self.parameters}):
                raise ProblemError(
                    f"Term {term.name!r} has data named {taken[0]!r}, as a network or parameter of "
                    "the problem is. Give one of them another name."
                )

    def _in_order(self, term: Term) -> Term:
        """The term with its points' columns, if they have names, in the coordinates' order."""
        if isinstance(term, LossTerm) or term.columns is None:
            return term
        if sorted(term.columns) != sorted(self.coordinates):
            raise ProblemError(
                f"The points of term {term.name!r} have the columns {list(term.columns)}, but the "
                f"coordinates are {list(self.coordinates)}. Choose and name the columns alike."
            )
        order = [term.columns.index(name) for name in self.coordinates]
        return replace(term, points=np.asarray(term.points)[:, order])

    def _check_points(self, term: PointTerm) -> None:
        num_columns = np.asarray(term.points).shape[1]
        num_coordinates = len(self.coordinates)
        if num_columns != num_coordinates:
            plural = "" if num_coordinates == 1 else "s"
            raise ProblemError(
                f"The points of term {term.name!r} have {num_columns} columns, but the "
                f"problem has {num_coordinates} coordinate{plural}: "
                f"{', '.join(self.coordinates) or 'none'}."
            )


def _checked_terms(terms: Any) -> Sequence[Term]:
    if isinstance(terms, Term):
        raise ProblemError(f"The problem's terms are a single term; expected a list: [{terms!r}].")
    found = list(terms) if isinstance(terms, Iterable) else [terms]
    for term in found:
        if not isinstance(term, Term):
            raise ProblemError(
                f"One of the problem's terms is a {type(term).__name__}; expected a list of "
                "ResidualTerm, DensityTerm and LossTerm."
            )
    if not found:
        raise ProblemError("The problem has no loss terms; expected at least one.")
    return found


def _checked_names(only: Any) -> tuple[str, ...]:
    names = [only] if isinstance(only, str) else only
    if not isinstance(names, Iterable):
        names = [only]
    found = tuple(dict.fromkeys(names))
    for name in found:
        if not isinstance(name, str):
            raise ProblemError(
                f"The problem's only has a {type(name).__name__}; expected names of layers, "
                'variables, networks or parameters, as in only=["output", "nu"].'
            )
    if not found:
        raise ProblemError(
            "The problem's only is empty, which leaves nothing to differentiate by. Name layers, "
            "variables, networks or parameters in it, or leave it out."
        )
    return found


def _check_arrays(terms: Sequence[Term]) -> None:
    # The names under which a store keeps them.
    owners: dict[str, str] = {}
    for term in terms:
        for key in term.arrays:
            other = owners.setdefault(f"{term.name}_{key}", term.name)
            if other != term.name:
                raise ProblemError(
                    f"Terms {other!r} and {term.name!r} both have an array that a store would keep "
                    f"as {f'{term.name}_{key}'!r}. Give one of them another name."
                )
