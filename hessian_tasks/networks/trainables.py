"""What is trained: the weights of the networks, in their order, and then the parameters.

A problem whose model is resolved has the network itself as its model, or, where it has parameters
or several networks, :class:`Trainables`, which has the weights of all. So θ and its layout,
training, freezing and all engines take them for what they are: weights.

Where ``only`` leaves weights out of θ, these are among those that are not trainable, and everyone
takes them for frozen ones. The networks themselves stay as they are: terms, regularisers and files
see them whole, and the loss is the same function.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import keras
import numpy as np
import numpy.typing as npt
import tensorflow as tf

from hessian_tasks.errors import ModelError, ProblemError
from hessian_tasks.networks._selection import positions_held
from hessian_tasks.networks.models import dtype_of, resolve_model
from hessian_tasks.parameters import LAYER, Held
from hessian_tasks.problem import Problem

__all__ = [
    "UNNAMED",
    "Trainables",
    "choose",
    "every_weight",
    "held_of",
    "networks_of",
    "parameters_of",
    "resolve",
]

# The name of a single network, which no argument of a term can have.
UNNAMED = ""


class Weight:
    """A variable as a weight of a network is, at another place.

    Attributes:
        path: Where it is, for labels: layer and name.
        value: Its ``tf.Variable``.
    """

    def __init__(self, path: str, variable: Any) -> None:
        """Take a variable.

        Args:
            path: Where it is.
            variable: The ``tf.Variable``.
        """
        self.path = path
        self.value = variable

    @property
    def shape(self) -> tuple[int, ...]:
        """Its shape."""
        return tuple(self.value.shape)

    @property
    def dtype(self) -> str:
        """Its dtype, by name."""
        return str(self.value.dtype.name)

    def numpy(self) -> npt.NDArray[Any]:
        """Its present value."""
        return np.asarray(self.value.numpy())

    def assign(self, value: npt.ArrayLike) -> None:
        """Give it a value."""
        self.value.assign(value)


class Trainables:
    """Networks with parameters beside them, in the place of one network.

    Attributes:
        networks: The Keras models, by name.
        parameters: The parameters, by name.
        name: Nothing that paths of weights could begin with.
    """

    name = ""

    def __init__(self, networks: Mapping[str, Any], parameters: Mapping[str, Any]) -> None:
        """Put networks and parameters together.

        Args:
            networks: Built Keras models, by name.
            parameters: Numbers, arrays or ``tf.Variable``s, by name.

        Raises:
            ProblemError: If a variable is not trainable, of another dtype than the weights, or
                one of them.
            ModelError: If the networks' weights differ in dtype.
        """
        self.networks = dict(networks)
        dtypes = {name: dtype_of(network) for name, network in self.networks.items()}
        if len(set(dtypes.values())) > 1:
            raise ModelError(f"The networks' weights have different dtypes: {dtypes}.")
        dtype = next(iter(dtypes.values()))
        self.parameters: dict[str, Weight] = {}
        self._held: set[int] = set()
        owners = {id(weight.value): weight.path for weight in self.candidates}
        for name, value in parameters.items():
            variable = _variable(name, value, dtype)
            owner = owners.setdefault(id(variable), f"parameter {name!r}")
            if owner != f"parameter {name!r}":
                raise ProblemError(
                    f"Parameter {name!r} is the variable of {owner}, which would count twice. "
                    "Declare it once."
                )
            self.parameters[name] = Weight(f"{LAYER}/{name}", variable)

    @property
    def candidates(self) -> list[Weight]:
        """What could be trained: of each network, once where they share it, then the parameters."""
        return [*_once(self._found(trainable=True)), *self.parameters.values()]

    @property
    def paths(self) -> list[list[str]]:
        """The paths of the candidates, of which shared ones have several."""
        found = self._found(trainable=True)
        return [
            [other.path for other in found if other.value is weight.value] or [weight.path]
            for weight in self.candidates
        ]

    def hold(self, positions: Collection[int]) -> None:
        """Hold fixed the candidates at these positions, and train all others."""
        self._held = {id(w.value) for i, w in enumerate(self.candidates) if i in positions}

    @property
    def held(self) -> tuple[Held, ...]:
        """The candidates that are held fixed."""
        places = enumerate(self.candidates)
        return tuple(Held(i, w.path, w.shape) for i, w in places if id(w.value) in self._held)

    @property
    def trainable_weights(self) -> list[Weight]:
        """The candidates that are not held fixed."""
        return [weight for weight in self.candidates if id(weight.value) not in self._held]

    @property
    def non_trainable_weights(self) -> list[Weight]:
        """The candidates that are held fixed, then those weights of the networks that are none."""
        held = [weight for weight in self.candidates if id(weight.value) in self._held]
        return [*held, *_once(self._found(trainable=False))]

    def _found(self, *, trainable: bool) -> list[Weight]:
        kind = "trainable_weights" if trainable else "non_trainable_weights"
        return [
            Weight(self._path(name, weight), weight.value)
            for name, network in self.networks.items()
            for weight in getattr(network, kind)
        ]

    def _path(self, name: str, weight: Any) -> str:
        path = weight.path.removeprefix(f"{self.networks[name].name}/")
        return path if len(self.networks) == 1 else f"{name}/{path}"

    @property
    def variables(self) -> list[Any]:
        """All that the networks have, seeds too, and the parameters."""
        found = [v for network in self.networks.values() for v in network.variables]
        return [*_once(found), *self.parameters.values()]

    @property
    def losses(self) -> list[Any]:
        """The regularisers of the networks."""
        return [loss for network in self.networks.values() for loss in network.losses]

    @property
    def inputs(self) -> list[Any]:
        """Those of the networks that say what they are."""
        networks = self.networks.values()
        return [entry for network in networks for entry in getattr(network, "inputs", None) or []]

    def _flatten_layers(self, **options: Any) -> list[Any]:
        # By the name that Keras has for it.
        networks = self.networks.values()
        return [layer for network in networks for layer in network._flatten_layers(**options)]

    def __call__(self, points: Any) -> Any:
        """The outputs of all networks, one beside the other."""
        return tf.concat([network(points) for network in self.networks.values()], axis=1)


def _once(weights: Iterable[Any]) -> list[Any]:
    found: dict[int, Any] = {}
    for weight in weights:
        found.setdefault(id(weight.value), weight)
    return list(found.values())


def _variable(name: str, value: Any, dtype: str) -> Any:
    value = value.value if isinstance(value, keras.Variable) else value
    if not isinstance(value, tf.Variable):
        return tf.Variable(np.asarray(value, dtype), name=name, dtype=dtype)
    if not value.trainable:
        raise ProblemError(
            f"Parameter {name!r} is a tf.Variable that is not trainable. Make it trainable, or "
            "leave it out of parameters: it is a constant then."
        )
    if value.dtype.name != dtype:
        raise ProblemError(
            f"Parameter {name!r} is a tf.Variable of dtype {value.dtype.name}, but the network's "
            f"weights are {dtype}. Make it with dtype={dtype!r}."
        )
    return value


def resolve(problem: Problem, held: Collection[int] | None = None) -> Problem:
    """The problem with built networks, and its parameters as variables, in the place of its model.

    A problem that is resolved stays as it is.

    Args:
        problem: The problem.
        held: Positions of the weights that are held fixed, where these are recorded: no names,
            which another build of the network may not have, are looked for then.

    Raises:
        ModelError: If there is no built network.
        ProblemError: If a parameter cannot be used, or there is nothing of a name in ``only``.

    Example:
        >>> from hessian_tasks import ResidualTerm
        >>> from hessian_tasks.networks.models import parameter_layout
        >>> from hessian_tasks.problems.networks import mlp
        >>> pde = ResidualTerm("pde", [[0.5]], lambda x, u, nu: u.d("x") - nu * u.d("xx"))
        >>> problem = resolve(Problem(mlp(1, width=2, depth=1), [pde], "x", parameters={"nu": 0.1}))
        >>> parameter_layout(problem.model).describe(7)
        'parameters/nu[]'
    """
    if isinstance(problem.model, Trainables):
        return problem
    several = isinstance(problem.model, Mapping)
    declared = problem.model if several else {UNNAMED: problem.model}
    networks = {name: resolve_model(model) for name, model in declared.items()}
    if not (several or problem.parameters or held or problem.only):
        return replace(problem, model=networks[UNNAMED])
    model = Trainables(networks, problem.parameters)
    if held is None and problem.only:
        held = positions_held(model.paths, problem.only)
    model.hold(held or ())
    return replace(problem, model=model)


def choose(problem: Problem, only: Sequence[str]) -> Problem:
    """The problem with θ consisting of these, whether it is resolved already or not.

    Raises:
        ProblemError: If there is nothing of a name in ``only``.
    """
    problem = replace(problem, only=only)
    if isinstance(problem.model, Trainables):
        problem.model.hold(positions_held(problem.model.paths, problem.only or ()))
    return problem


def every_weight(model: Any) -> list[Any]:
    """All weights of a resolved problem's model, in an order that does not depend on ``only``."""
    if isinstance(model, Trainables):
        known = {id(weight.value) for weight in model.candidates}
        others = [w for w in model.non_trainable_weights if id(w.value) not in known]
        return [*model.candidates, *others]
    return [*model.trainable_weights, *model.non_trainable_weights]


def held_of(model: Any) -> tuple[Held, ...]:
    """What ``only`` holds fixed of a resolved problem's model."""
    return model.held if isinstance(model, Trainables) else ()


def networks_of(model: Any) -> dict[str, Any]:
    """The Keras models of a resolved problem's model, by name."""
    return model.networks if isinstance(model, Trainables) else {UNNAMED: model}


def parameters_of(model: Any) -> dict[str, Any]:
    """The variables of the parameters of a resolved problem's model, by name."""
    if not isinstance(model, Trainables):
        return {}
    return {name: weight.value for name, weight in model.parameters.items()}
