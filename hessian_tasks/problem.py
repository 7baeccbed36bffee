"""What the user declares: a network, its coordinates and the terms of its loss.

The total loss is the sum of the terms,

    L(θ) = Σ_k w_k · mean over points and components of r_k(x; θ)²    (residual terms)
         + Σ_k w_k · loss_k(model)                                   (loss terms)

and the Hessian of L with respect to all trainable weights is what gets computed.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
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
        points: Collocation points ``[N, d]``, one column a coordinate.
        residual: ``residual(x, u)`` with ``x`` the points as a tensor ``[N, d]``
            and ``u`` the network's :class:`~hessian_tasks.jets.Jet`; returns a
            tensor ``[N]`` or ``[N, C]``, or a list of such components.
        weight: Factor of the term in the total loss.

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

    def __post_init__(self) -> None:
        _check_term(self.name, self.weight)
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
            What the function captures by itself is checked through a digest and the
            recorded loss and gradient, but not stored.

    Raises:
        ProblemError: If a name is no identifier, an array holds NaN or
            infinity, or the weight is not finite.
    """

    name: str
    loss: Callable[..., Any]
    weight: float = 1.0
    data: Mapping[str, npt.ArrayLike] = field(default_factory=dict)

    def __post_init__(self) -> None:
        _check_term(self.name, self.weight)
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
        object.__setattr__(self, "terms", tuple(self.terms))
        object.__setattr__(self, "coordinates", tuple(self.coordinates))
        if not self.terms:
            raise ProblemError("The problem has no loss terms; expected at least one.")
        names = [term.name for term in self.terms]
        if len(set(names)) < len(names):
            raise ProblemError(f"Two loss terms share a name: {names}. Give each its own.")
        if len(set(self.coordinates)) < len(self.coordinates):
            raise ProblemError(f"Two coordinates share a name: {list(self.coordinates)}.")
        for term in self.terms:
            if isinstance(term, ResidualTerm):
                self._check_points(term)

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


def _check_term(name: str, weight: float) -> None:
    _check_name(name, "loss term")
    if not math.isfinite(weight):
        raise ProblemError(f"The weight of term {name!r} is {weight}; expected a finite number.")


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
