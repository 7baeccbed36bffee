"""Weights that other libraries wrote, put into the problem's network: all of them, or none."""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import keras
import numpy as np
import numpy.typing as npt

from hessian_tasks.errors import ModelError, WeightsWarning
from hessian_tasks.networks._matching import DenseLayer, Matched, match
from hessian_tasks.networks._tensors import Tensors, read_tensors, read_theta
from hessian_tasks.networks.models import assign_weights, dtype_of, inner_layers, set_theta
from hessian_tasks.networks.numerics import evaluated_somewhere
from hessian_tasks.networks.trainables import Trainables, every_weight, networks_of
from hessian_tasks.problem import Problem

__all__ = ["assign_tensors", "assign_theta"]

Array = npt.NDArray[Any]

ADVICE = (
    "What no names and shapes can say, an .npy file does: θ, the trainable weights in the order of "
    "the problem's network, kernels [in, out], and then the parameters."
)


def assign_theta(path: Path, problem: Problem) -> None:
    """Put the parameter vector of an ``.npy`` file into a resolved problem.

    Raises:
        ModelError: If the file is unreadable, of another size, or not finite.
    """
    model = problem.model
    size = sum(int(np.prod(weight.shape)) for weight in model.trainable_weights)
    theta = _rounded(path, {"theta": read_theta(path, size)}, dtype_of(model))["theta"]
    set_theta(model, theta)
    if others := [weight.path for weight in model.non_trainable_weights]:
        shown = ", ".join(others[:6]) + (", …" if len(others) > 6 else "")
        _warn(f"{path} has θ alone: {shown}, not in θ, stay as the problem has them.")


def assign_tensors(path: Path, problem: Problem) -> set[str]:
    """Put the tensors of a file into the dense layers of a resolved problem's one network.

    A tensor by the name of a parameter is that parameter's value.

    Args:
        path: An ``.npz``, ``.safetensors``, ``.pt`` or ``.pth`` file.
        problem: The problem.

    Returns:
        The names of the parameters that the file has.

    Raises:
        ModelError: If the file is unreadable or does not fit; the network is as before.
    """
    (network,) = networks_of(problem.model).values()
    layers = _dense_layers(path, network, len(problem.coordinates))
    num_weights = sum(int(np.prod(weight.shape)) for weight in every_weight(problem.model))
    found = read_tensors(path, num_weights)
    own = problem.model.parameters if isinstance(problem.model, Trainables) else {}
    parameters = {name: own[name] for name in own if name in found.arrays}
    values = _values(path, found, layers, parameters)
    rounded = _rounded(path, values, dtype_of(problem.model))
    targets = [*_weights(layers), *parameters.values()]
    assign_weights(problem.model, targets, list(rounded.values()))
    return set(parameters)


def _values(
    path: Path, found: Tensors, layers: list[Any], parameters: Mapping[str, Any]
) -> dict[str, Array]:
    """The arrays of a file in the order and shapes of the weights, by their names."""
    shapes = {k: v.shape for k, v in found.arrays.items() if k not in parameters}
    wanted = [DenseLayer(x.name, tuple(x.kernel.shape), x.use_bias) for x in layers]
    try:
        matched, doubt = match(shapes, wanted, ordered=found.ordered)
    except ModelError as error:
        raise ModelError(f"Weights file {path} does not fit: {error}. {ADVICE}") from error
    if doubt:
        _warn(
            f"{path}: {doubt}. They were taken in the order of the file, in which its network "
            "defines its layers. Compare the loss with that of training: hessian loss."
        )
    return dict(_in_order(found.arrays, matched)) | {
        name: _of_parameter(path, name, found.arrays[name], variable)
        for name, variable in parameters.items()
    }


def _in_order(arrays: Mapping[str, Array], matched: list[Matched]) -> Iterator[tuple[str, Array]]:
    for layer in matched:
        kernel = arrays[layer.kernel]
        yield layer.kernel, kernel.T if layer.turned else kernel
        if layer.bias is not None:
            yield layer.bias, arrays[layer.bias]


def _of_parameter(path: Path, name: str, value: Array, variable: Any) -> Array:
    # Libraries have numbers as arrays of one entry.
    shape = tuple(variable.shape)
    if value.shape != shape and not (value.size == 1 and int(np.prod(shape)) == 1):
        raise ModelError(
            f"Weights file {path} does not fit: {name!r} is {list(value.shape)} where the "
            f"parameter of that name is {list(shape)}."
        )
    return value


def _rounded(path: Path, values: Mapping[str, Array], dtype: str) -> dict[str, Array]:
    """Finite values in the network's dtype."""
    found = {}
    for name, value in values.items():
        with np.errstate(over="ignore"):
            found[name] = value.astype(dtype)
        if not np.isfinite(found[name]).all():
            raise ModelError(
                f"Weights file {path} has NaN, infinity or what is too large for {dtype} in "
                f"{name[:80]!a}. Train again, or take another file."
            )
    if any(not np.array_equal(found[name], value) for name, value in values.items()):
        _warn(
            f"{path} is of float64, and was rounded to {dtype}, the network's. With dtype "
            "float64 the problem takes its values as they are."
        )
    return found


def _dense_layers(path: Path, network: Any, num_coordinates: int) -> list[Any]:
    """The layers of a chain of Dense ones, in the order in which they are evaluated."""
    layers = [layer for layer in inner_layers(network) if type(layer) is keras.layers.Dense]
    known = {id(weight) for layer in layers for weight in layer.weights}
    if others := [weight.path for weight in network.weights if id(weight) not in known]:
        raise _no_chain(path, f"it has {others[0]}")
    with _recorded(layers) as calls:
        if not evaluated_somewhere(network, num_coordinates):
            raise _no_chain(path, "the shape of its inputs is not known")
    if sorted(map(id, calls)) != sorted(map(id, layers)):
        raise _no_chain(path, "a layer is evaluated more than once, or not at all")
    for before, layer in itertools.pairwise(calls):
        if layer.kernel.shape[0] != before.units:
            raise _no_chain(path, f"{layer.name} takes more or less than {before.name} gives")
    return calls


@contextmanager
def _recorded(layers: list[Any]) -> Iterator[list[Any]]:
    """The layers that are called, in their order, while the context lasts."""
    calls: list[Any] = []

    def recorded(layer: Any) -> Any:
        own = layer.call

        def call(*arguments: Any, **options: Any) -> Any:
            calls.append(layer)
            return own(*arguments, **options)

        return call

    with ExitStack() as stack:
        for layer in layers:
            # Keras would take an attribute that is set for something to save.
            object.__setattr__(layer, "call", recorded(layer))
            stack.callback(object.__delattr__, layer, "call")
        yield calls


def _no_chain(path: Path, reason: str) -> ModelError:
    return ModelError(
        f"Names and shapes of tensors, as in {path}, are matched to networks of one dense layer "
        f"after the other, and this is none: {reason}. {ADVICE}"
    )


def _weights(layers: list[Any]) -> Iterator[Any]:
    for layer in layers:
        yield layer.kernel
        if layer.use_bias:
            yield layer.bias


def _warn(message: str) -> None:
    # The same line each time, so that Python says it once for each file.
    warnings.warn(message, WeightsWarning, stacklevel=1)
