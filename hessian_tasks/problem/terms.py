"""Loss terms: what the user declares of a loss, each with its inputs as arrays.

A term is one of three kinds. With N points x_n and C components,

    residual    w / (N C) Σ_nc r_nc²       the mean square of what an equation leaves
    density     w / N Σ_n e_n              the mean of an energy, or of any function of u
    loss        w · loss(model, data)      whatever TensorFlow code makes of the model

The code of a term is given by name what its signature asks for: the term's own data, split with its
points, and the parameters of the problem.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Literal, Self, TypeAlias, TypeGuard

import numpy as np
import numpy.typing as npt

from hessian_tasks.errors import ProblemError
from hessian_tasks.problem._given import check_callable, check_name, finite, named_arrays, real

__all__ = ["DensityTerm", "LossTerm", "PointTerm", "ResidualTerm", "Term", "TermKind", "is_batched"]

# What terms are called in a store.
TermKind: TypeAlias = Literal["residual", "density", "loss"]


class PointTerm:
    """A term that adds up over collocation points: a residual's, or a density's.

    Attributes:
        kind: What it is called in a store.
        squared: Whether the mean is that of the squares.
        function: The user's function of points, jet, and what else it names.
        columns: Names of the points' columns, where they have any.
    """

    kind: ClassVar[TermKind]
    squared: ClassVar[bool]
    name: str
    points: npt.ArrayLike
    weight: float
    data: Mapping[str, npt.ArrayLike]
    columns: tuple[str, ...] | None

    @property
    def function(self) -> Callable[..., Any]:
        """What is evaluated at the points."""
        raise NotImplementedError

    def __post_init__(self) -> None:
        check_name(self.name, "loss term")
        check_callable(self.function, self.kind, self.name)
        object.__setattr__(self, "weight", real(self.weight, self.name))
        object.__setattr__(self, "columns", _column_names(self.points))
        points = finite(self.points, f"the points of term {self.name!r}")
        # TensorFlow takes derivatives with respect to integers to be zero, without a word.
        points = points.astype(np.float64) if points.dtype.kind in "biu" else points
        if points.ndim != 2 or len(points) == 0:
            raise ProblemError(
                f"The points of term {self.name!r} have shape {points.shape}; expected "
                "[N, d], one row a point and one column a coordinate."
            )
        object.__setattr__(self, "points", points)
        object.__setattr__(self, "data", named_arrays(self.name, self.data))
        for key, array in self.arrays.items():
            if array.ndim == 0 or len(array) != len(points):
                raise ProblemError(
                    f"{key!r} of term {self.name!r} has shape {array.shape}; expected one entry "
                    f"for each of its {len(points)} points."
                )
        if "points" in self.data:
            raise ProblemError(f"Term {self.name!r} has its points and data named 'points'.")

    @property
    def num_points(self) -> int:
        """N."""
        return len(np.asarray(self.points))

    @property
    def arrays(self) -> dict[str, npt.NDArray[Any]]:
        """The inputs that are frozen into the store, by name; one entry a point each."""
        data = {key: np.asarray(array) for key, array in self.data.items()}
        return {"points": np.asarray(self.points), **data}

    def with_arrays(self, arrays: Mapping[str, npt.NDArray[Any]]) -> Self:
        """The same term at other points, with other data."""
        data = {key: array for key, array in arrays.items() if key != "points"}
        # Both are dataclasses.
        return replace(self, points=arrays["points"], data=data)  # type: ignore[type-var]

    def __repr__(self) -> str:
        plural = "" if self.num_points == 1 else "s"
        kind = type(self).__name__
        return f"{kind}({self.name!r}, {self.num_points} point{plural}, weight={self.weight})"


@dataclass(frozen=True, repr=False)
class ResidualTerm(PointTerm):
    """A term ``weight * mean(residual(x, u)**2)`` over collocation points.

    Attributes:
        name: Identifier of the term; its arrays in the store carry it.
        points: Collocation points ``[N, d]``, one column a coordinate; of a data frame whose
            columns have the coordinates' names, each column is taken by its name.
        residual: ``residual(x, u)`` with ``x`` the points as a tensor ``[N, d]``
            and ``u`` the network's :class:`~hessian_tasks.jets.Jet`; returns a
            tensor ``[N]`` or ``[N, C]``, or a list of such components. Further arguments are
            given by name: the problem's parameters, and the term's data.
        weight: Factor of the term in the total loss.
        data: Arrays with one entry a point, such as measured values, or what an input of that name
            takes of a network with several.
        columns: Names of the points' columns, where they have any.

    Raises:
        ProblemError: If the name is no identifier, the points are not a finite
            matrix, the data do not belong to them, or the weight is not finite.

    Example:
        >>> ResidualTerm("pde", points=[[0.0, 1.0]], residual=lambda x, u: u.d("xx"))
        ResidualTerm('pde', 1 point, weight=1.0)
        >>> ResidualTerm("fit", [[0]], lambda x, u, y: u.value - y, data={"y": [[2.5]]})
        ResidualTerm('fit', 1 point, weight=1.0)
    """

    name: str
    points: npt.ArrayLike
    residual: Callable[..., Any]
    weight: float = 1.0
    data: Mapping[str, npt.ArrayLike] = field(default_factory=dict)
    columns: tuple[str, ...] | None = field(default=None, init=False)
    kind: ClassVar[TermKind] = "residual"
    squared: ClassVar[bool] = True

    @property
    def function(self) -> Callable[..., Any]:
        """The residual."""
        return self.residual


@dataclass(frozen=True, repr=False)
class DensityTerm(PointTerm):
    """A term ``weight * mean(density(x, u))`` over points: an energy, Huber's loss, log cosh.

    Attributes:
        name: Identifier of the term; its arrays in the store carry it.
        points: Points ``[N, d]``, as those of a :class:`ResidualTerm`.
        density: ``density(x, u)`` as a residual has it; returns a tensor ``[N]`` or ``[N, 1]``.
        weight: Factor of the term in the total loss.
        data: Arrays with one entry a point.
        columns: Names of the points' columns, where they have any.

    Raises:
        ProblemError: As :class:`ResidualTerm` does.

    Example:
        >>> DensityTerm("energy", [[0.0], [1.0]], lambda x, u: u.d("x") ** 2 / 2 - u.value)
        DensityTerm('energy', 2 points, weight=1.0)
    """

    name: str
    points: npt.ArrayLike
    density: Callable[..., Any]
    weight: float = 1.0
    data: Mapping[str, npt.ArrayLike] = field(default_factory=dict)
    columns: tuple[str, ...] | None = field(default=None, init=False)
    kind: ClassVar[TermKind] = "density"
    squared: ClassVar[bool] = False

    @property
    def function(self) -> Callable[..., Any]:
        """The density."""
        return self.density


@dataclass(frozen=True)
class LossTerm:
    """A term ``weight * loss(model)`` with any TensorFlow code inside.

    Attributes:
        name: Identifier of the term.
        loss: ``loss(model, **data)`` returning a scalar tensor. It may use nested
            tapes, ``tf.gradients``, control flow and Keras losses. It must be
            deterministic. The problem's parameters are given to it by name, if it asks for them.
        weight: Factor of the term in the total loss.
        data: Arrays that are handed to ``loss`` by name and frozen into the store.
            What the function captures by itself is checked through the recorded
            loss and gradient, but not stored.
        batched: Declares that the loss is a mean over N examples, the entries of its data along
            their first axis: of n_b of them each, in batches b, ``loss = Σ_b n_b/N loss_b``. It
            is then computed batch by batch, in memory for one of them; see
            :mod:`hessian_tasks.loss.batches`. Where a problem is frozen or trained, that is
            checked.

    Raises:
        ProblemError: If a name is no identifier, an array holds NaN or
            infinity, the weight is not finite, or the term is batched and its data are not one
            entry an example.

    Example:
        >>> import keras, tensorflow as tf
        >>> X, Y = np.zeros((600, 28, 28, 1), "float32"), np.zeros(600, int)
        >>> def loss(model, x, y):
        ...     found = keras.losses.sparse_categorical_crossentropy(y, model(x))
        ...     return tf.reduce_mean(found)
        >>> LossTerm("fit", loss, data={"x": X, "y": Y}, batched=True).num_examples
        600
    """

    name: str
    loss: Callable[..., Any]
    weight: float = 1.0
    data: Mapping[str, npt.ArrayLike] = field(default_factory=dict)
    batched: bool = False
    kind: ClassVar[TermKind] = "loss"

    def __post_init__(self) -> None:
        check_name(self.name, "loss term")
        check_callable(self.loss, self.kind, self.name)
        object.__setattr__(self, "weight", real(self.weight, self.name))
        object.__setattr__(self, "data", named_arrays(self.name, self.data))
        if not isinstance(self.batched, bool):
            raise ProblemError(
                f"Term {self.name!r} has batched={self.batched!r}; expected True or False. How "
                "many examples are computed at once follows from their size."
            )
        if self.batched:
            self._check_examples()

    def _check_examples(self) -> None:
        shapes = {key: array.shape for key, array in self.arrays.items()}
        lengths = {shape[:1] for shape in shapes.values()}
        # No arrays, one without axes, one without entries.
        if len(lengths) != 1 or lengths & {(), (0,)}:
            found = ", ".join(f"{key} {shape}" for key, shape in shapes.items()) or "none"
            raise ProblemError(
                f"Term {self.name!r} is batched, with data of shapes: {found}. Expected at least "
                "one array, and of all the same length N >= 1, one entry an example. What all "
                "examples share goes into the function's closure."
            )

    @property
    def num_examples(self) -> int:
        """N, of a batched term."""
        return len(next(iter(self.arrays.values())))

    @property
    def arrays(self) -> dict[str, npt.NDArray[Any]]:
        """The inputs that are frozen into the store, by name."""
        return {key: np.asarray(array) for key, array in self.data.items()}

    def with_arrays(self, arrays: Mapping[str, npt.NDArray[Any]]) -> LossTerm:
        """The same term on other data."""
        return replace(self, data=dict(arrays))

    def at(self, rows: npt.NDArray[np.intp]) -> LossTerm:
        """The same term, which is batched, on some of its examples."""
        return self.with_arrays({key: array[rows] for key, array in self.arrays.items()})

    def __repr__(self) -> str:
        return f"LossTerm({self.name!r}, data={sorted(self.data)}, weight={self.weight})"


Term: TypeAlias = ResidualTerm | DensityTerm | LossTerm


def is_batched(term: Term) -> TypeGuard[LossTerm]:
    """Whether a term is a loss that is declared a mean over the entries of its data."""
    return isinstance(term, LossTerm) and term.batched


def _column_names(points: Any) -> tuple[str, ...] | None:
    names = list(getattr(points, "columns", ()))
    return tuple(map(str, names)) if any(isinstance(name, str) for name in names) else None
