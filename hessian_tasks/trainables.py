"""What is trained: the network's weights, and then the parameters of the problem.

A problem whose model is resolved has the network itself as its model, or, where it has parameters,
:class:`Trainables`, which is the network with more weights. So θ and its layout, training, freezing
and all engines take parameters for what they are: weights.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from hessian_tasks.errors import ProblemError
from hessian_tasks.models import dtype_of, resolve_model
from hessian_tasks.problem import Problem

__all__ = ["LAYER", "Parameter", "Trainables", "network_of", "parameters_of", "resolve"]

# The layer to which parameters belong in labels.
LAYER = "parameters"


class Parameter:
    """A trainable number or array, as Keras has weights.

    Attributes:
        name: Its name.
        path: Where it is, for labels.
        value: Its ``tf.Variable``.
    """

    def __init__(self, name: str, variable: Any) -> None:
        """Take a variable.

        Args:
            name: Its name.
            variable: The ``tf.Variable``.
        """
        self.name = name
        self.path = f"{LAYER}/{name}"
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
    """A network with parameters beside it; whatever else is asked of it is the network's.

    Attributes:
        network: The Keras model.
        parameters: The parameters, by name.
    """

    def __init__(self, network: Any, parameters: Mapping[str, Any]) -> None:
        """Put parameters beside a network.

        Args:
            network: A built Keras model.
            parameters: Numbers, arrays or ``tf.Variable``s, by name.

        Raises:
            ProblemError: If a variable is not trainable, or of another dtype than the weights.
        """
        self.network = network
        dtype = dtype_of(network)
        self.parameters = {n: Parameter(n, _variable(n, v, dtype)) for n, v in parameters.items()}

    @property
    def trainable_weights(self) -> list[Any]:
        """The network's, then the parameters."""
        return [*self.network.trainable_weights, *self.parameters.values()]

    @property
    def weights(self) -> list[Any]:
        """The network's, then the parameters."""
        return [*self.network.weights, *self.parameters.values()]

    def __call__(self, *args: Any, **options: Any) -> Any:
        """Call the network."""
        return self.network(*args, **options)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.network, name)


def _variable(name: str, value: Any, dtype: str) -> Any:
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


def resolve(problem: Problem) -> Problem:
    """The problem with a built network, and its parameters as variables, in the place of its model.

    A problem that is resolved stays as it is.

    Raises:
        ModelError: If there is no built network.
        ProblemError: If a parameter cannot be used.

    Example:
        >>> from hessian_tasks import ResidualTerm
        >>> from hessian_tasks.models import parameter_layout
        >>> from hessian_tasks.problems.networks import mlp
        >>> pde = ResidualTerm("pde", [[0.5]], lambda x, u, nu: u.d("x") - nu * u.d("xx"))
        >>> problem = resolve(Problem(mlp(1, width=2, depth=1), [pde], "x", parameters={"nu": 0.1}))
        >>> parameter_layout(problem.model).describe(7)
        'parameters/nu[]'
    """
    if isinstance(problem.model, Trainables):
        return problem
    network = resolve_model(problem.model)
    model = Trainables(network, problem.parameters) if problem.parameters else network
    return replace(problem, model=model)


def network_of(model: Any) -> Any:
    """The Keras model of a resolved problem's model."""
    return model.network if isinstance(model, Trainables) else model


def parameters_of(model: Any) -> dict[str, Parameter]:
    """The parameters of a resolved problem's model."""
    return model.parameters if isinstance(model, Trainables) else {}
