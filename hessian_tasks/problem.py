"""What the user declares: a network, its coordinates and the terms of its loss.

The total loss is the sum of the terms,

    L(θ) = Σ_k w_k · mean over points and components of r_k(x; θ)²    (residual terms)
         + Σ_k w_k · loss_k(model)                                   (loss terms)

and the Hessian of L with respect to all trainable weights is what gets computed.
"""

from __future__ import annotations

import math
import numbers
import re
import reprlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from hessian_tasks.errors import ProblemError

__all__ = ["LossTerm", "Problem", "ResidualTerm"]

_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]*")


@dataclass(frozen=True)
class ResidualTerm:
    """A term ``weight * mean(residual(x, u)**2)`` over collocation points.

    Attributes:
        name: Identifier of the term; its arrays in the store carry it.
        points: Collocation points ``[N, d]``, one column a coordinate; of a data frame whose
            columns have the coordinates' names, each column is taken by its name.
        residual: ``residual(x, u)`` with ``x`` the points as a tensor ``[N, d]``
            and ``u`` the network's :class:`~hessian_tasks.jets.Jet`; returns a
            tensor ``[N]`` or ``[N, C]``, or a list of such components.
        weight: Factor of the term in the total loss.
        columns: Names of the points' columns, where they have any.

    Raises:
        ProblemError: If the name is no identifier, the points are not a finite
            matrix, or the weight is not finite.

    Example:
        >>> ResidualTerm("pde", points=[[0.0, 1.0]], residual=lambda x, u: u.d("xx"))
        ResidualTerm('pde', 1 point, weight=1.0)
    """

    name: str
    points: npt.ArrayLike
    residual: Callable[[Any, Any], Any]
    weight: float = 1.0
    columns: tuple[str, ...] | None = field(default=None, init=False, repr=False)

    def __post_init__(self) -> None:
        _check_name(self.name, "loss term")
        object.__setattr__(self, "weight", _real(self.weight, self.name))
        object.__setattr__(self, "columns", _column_names(self.points))
        points = _finite(self.points, f"the points of term {self.name!r}")
        # TensorFlow takes derivatives with respect to integers to be zero, without a word.
        points = points.astype(np.float64) if points.dtype.kind in "biu" else points
        if points.ndim != 2 or len(points) == 0:
            raise ProblemError(
                f"The points of term {self.name!r} have shape {points.shape}; expected "
                "[N, d], one row a point and one column a coordinate."
            )
        object.__setattr__(self, "points", points)

    @property
    def arrays(self) -> dict[str, npt.NDArray[Any]]:
        """The inputs that are frozen into the store, by name."""
        return {"points": np.asarray(self.points)}

    def with_arrays(self, arrays: Mapping[str, npt.NDArray[Any]]) -> ResidualTerm:
        """The same term at other points."""
        return replace(self, points=arrays["points"])

    def __repr__(self) -> str:
        number = len(np.asarray(self.points))
        plural = "" if number == 1 else "s"
        return f"ResidualTerm({self.name!r}, {number} point{plural}, weight={self.weight})"


@dataclass(frozen=True)
class LossTerm:
    """A term ``weight * loss(model)`` with any TensorFlow code inside.

    Attributes:
        name: Identifier of the term.
        loss: ``loss(model, **data)`` returning a scalar tensor. It may use nested
            tapes, ``tf.gradients``, control flow and Keras losses. It must be
            deterministic.
        weight: Factor of the term in the total loss.
        data: Arrays that are handed to ``loss`` by name and frozen into the store.
            What the function captures by itself is checked through the recorded
            loss and gradient, but not stored.

    Raises:
        ProblemError: If a name is no identifier, an array holds NaN or
            infinity, or the weight is not finite.
    """

    name: str
    loss: Callable[..., Any]
    weight: float = 1.0
    data: Mapping[str, npt.ArrayLike] = field(default_factory=dict)

    def __post_init__(self) -> None:
        _check_name(self.name, "loss term")
        object.__setattr__(self, "weight", _real(self.weight, self.name))
        data = {key: _finite(a, f"{key!r} of term {self.name!r}") for key, a in self.data.items()}
        for key in data:
            _check_name(key, f"array of term {self.name!r}")
        object.__setattr__(self, "data", data)

    @property
    def arrays(self) -> dict[str, npt.NDArray[Any]]:
        """The inputs that are frozen into the store, by name."""
        return {key: np.asarray(array) for key, array in self.data.items()}

    def with_arrays(self, arrays: Mapping[str, npt.NDArray[Any]]) -> LossTerm:
        """The same term on other data."""
        return replace(self, data=dict(arrays))

    def __repr__(self) -> str:
        return f"LossTerm({self.name!r}, data={sorted(self.data)}, weight={self.weight})"


@dataclass(frozen=True)
class Problem:
    """A network and the loss whose Hessian is wanted.

    Attributes:
        model: A built Keras model, or a function without arguments returning one
            (the way in for subclassed models).
        terms: The loss terms; their names differ.
        coordinates: Names of the network's inputs, in the order of the columns of
            the points. May be empty if every term is a :class:`LossTerm`.
        exact_solution: If known, ``exact_solution(points)`` maps a NumPy array
            ``[N, d]`` to the solution ``[N, outputs]``; training reports the error.

    Raises:
        ProblemError: If there are no terms, two share a name, or points do not
            have one column a coordinate.

    Example:
        >>> term = ResidualTerm("pde", points=[[0.0, 1.0]], residual=lambda x, u: u.value)
        >>> Problem(model=lambda: None, coordinates="x", terms=[term])
        Traceback (most recent call last):
            ...
        hessian_tasks.errors.ProblemError: The points of term 'pde' have 2 columns, \
but the problem has 1 coordinate: x.
    """

    model: Any
    terms: Sequence[ResidualTerm | LossTerm]
    coordinates: Sequence[str] = ()
    exact_solution: Callable[[npt.NDArray[Any]], npt.NDArray[Any]] | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "coordinates", tuple(self.coordinates))
        object.__setattr__(self, "terms", tuple(map(self._in_order, _checked_terms(self.terms))))
        names = [term.name for term in self.terms]
        if len(set(names)) < len(names):
            raise ProblemError(f"Two loss terms share a name: {names}. Give each its own.")
        _check_arrays(self.terms)
        if len(set(self.coordinates)) < len(self.coordinates):
            raise ProblemError(f"Two coordinates share a name: {list(self.coordinates)}.")
        for term in self.terms:
            if isinstance(term, ResidualTerm):
                self._check_points(term)

    def _in_order(self, term: ResidualTerm | LossTerm) -> ResidualTerm | LossTerm:
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

    def _check_points(self, term: ResidualTerm) -> None:
        num_columns = np.asarray(term.points).shape[1]
        num_coordinates = len(self.coordinates)
        if num_columns != num_coordinates:
            plural = "" if num_coordinates == 1 else "s"
            raise ProblemError(
                f"The points of term {term.name!r} have {num_columns} columns, but the "
                f"problem has {num_coordinates} coordinate{plural}: "
                f"{', '.join(self.coordinates) or 'none'}."
            )


def _checked_terms(terms: Any) -> Sequence[ResidualTerm | LossTerm]:
    if isinstance(terms, ResidualTerm | LossTerm):
        raise ProblemError(f"The problem's terms are a single term; expected a list: [{terms!r}].")
    found = list(terms) if isinstance(terms, Iterable) else [terms]
    for term in found:
        if not isinstance(term, ResidualTerm | LossTerm):
            raise ProblemError(
                f"One of the problem's terms is a {type(term).__name__}; expected a list of "
                "ResidualTerm and LossTerm."
            )
    if not found:
        raise ProblemError("The problem has no loss terms; expected at least one.")
    return found


def _check_arrays(terms: Sequence[ResidualTerm | LossTerm]) -> None:
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


def _column_names(points: Any) -> tuple[str, ...] | None:
    names = list(getattr(points, "columns", ()))
    return tuple(map(str, names)) if any(isinstance(name, str) for name in names) else None


def _real(value: Any, name: str) -> float:
    """A weight as a number of Python's, from that or from an array or tensor without axes."""
    weight = math.nan
    # Tensors without a value, numbers that are too large: whatever an object says to this.
    with suppress(Exception):
        array = np.asarray(value)
        real = array.dtype.kind in "iuf" or isinstance(value, numbers.Real)
        if array.shape == () and real and not isinstance(value, bool):
            weight = float(value)
    if not math.isfinite(weight):
        raise ProblemError(
            f"The weight of term {name!r} is {reprlib.repr(value)}; expected one finite number."
        )
    return weight


def _check_name(name: str, what: str) -> None:
    if not _NAME.fullmatch(name):
        raise ProblemError(
            f"{name!r} cannot name the {what}: expected letters, digits and underscores, "
            "starting with a letter."
        )


def _finite(values: npt.ArrayLike, what: str) -> npt.NDArray[Any]:
    try:
        array = np.asarray(values)
    except ValueError as error:
        raise ProblemError(f"Expected an array for {what}: {error}") from error
    if array.dtype.kind not in "biuf":
        raise ProblemError(f"Expected numbers in {what}, got dtype {array.dtype}.")
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise ProblemError(f"There are NaN or infinite values in {what}.")
    return array
