"""Trained weights from files: the file brings values, the problem says what network they are of."""

from __future__ import annotations

import io
import itertools
import math
import os
import tempfile
import warnings
import zipfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import keras
import numpy as np

from hessian_tasks.errors import ModelError, ProblemError, WeightsWarning, plain
from hessian_tasks.networks._bounds import check_file
from hessian_tasks.networks.architecture import model_config
from hessian_tasks.networks.models import assign_weights, inner_layers, resolve_model
from hessian_tasks.networks.numerics import compute_the_same
from hessian_tasks.networks.trainables import every_weight, resolve
from hessian_tasks.problem import Problem

__all__ = ["load_values", "load_weights", "load_weights_file", "save_values", "take_network_file"]

ADVICE = (
    "Choose the options that it was trained with, or take the file's network instead of the "
    "problem's: --take-network, or take_network=True."
)


def load_weights(path: str | Path, problem: Problem, *, take_network: bool = False) -> Problem:
    """The problem with the values of a file; a model that it holds itself is changed in place.

    Args:
        path: A ``.keras`` or ``.weights.h5`` file, whose values go into the problem's network; or
            an ``.npz`` file with those of all networks and of the parameters.
        problem: The problem.
        take_network: Take the network of the ``.keras`` file instead of the problem's.

    Raises:
        ProblemError: If the file holds one network, and the problem has several.
        ModelError: If the file is missing, unreadable or does not fit.

    Warns:
        WeightsWarning: If the problem has parameters, of which the file has no values.
    """
    if take_network:
        problem = replace(problem, model=take_network_file(path))
    elif Path(path).suffix == ".npz":
        return load_values(path, problem)
    elif isinstance(problem.model, Mapping):
        raise ProblemError(
            f"The problem has several networks, and {path} holds the weights of one. Expected "
            "an .npz file, as hessian train --out trained.npz writes it."
        )
    else:
        model = load_weights_file(path, problem.model, len(problem.coordinates))
        problem = replace(problem, model=model)
    _warn_of_parameters(path, problem.parameters)
    return problem


def _warn_of_parameters(path: str | Path, parameters: Mapping[str, Any]) -> None:
    if not parameters:
        return
    values = ", ".join(
        f"{name} = {np.array2string(np.asarray(value), precision=7, separator=', ', threshold=8)}"
        for name, value in parameters.items()
    )
    one = "parameter %s, which stays as the problem has it"
    which = one if len(parameters) == 1 else "parameters %s, which stay as the problem has them"
    warnings.warn(
        f"{path} has no value of the {which % ' '.join(values.split())}. "
        "Where that was trained, give its value in the problem, or all weights in an .npz file, as "
        "hessian train --out trained.npz writes it.",
        WeightsWarning,
        # The same line each time, so that Python says it once for each file.
        stacklevel=1,
    )


def load_weights_file(path: str | Path, model: Any, num_coordinates: int = 0) -> Any:
    """Read a file's values into a problem's network, whose dtype and frozen layers stay.

    Of a ``.keras`` file Keras builds the network too, in safe mode, which runs no code from the
    file: it has to have the same shapes, and to compute the same. Where Keras cannot build it, as
    for subclassed models and Lambda layers, the values are taken by the places of the layers.

    Args:
        path: A ``.keras`` or ``.weights.h5`` file.
        model: The problem's model, or its factory. A model is changed in place.
        num_coordinates: Width of its input where the model does not say.

    Returns:
        The problem's network with the file's values.

    Raises:
        ModelError: If the file is missing, unreadable or does not fit; the network is as before.
    """
    path = _check_path(path)
    own = resolve_model(model)
    check_file(path, sum(math.prod(weight.shape) for weight in own.weights))
    before = [weight.numpy() for weight in own.weights]
    try:
        if path.suffix == ".keras":
            _load_keras(path, own, num_coordinates)
        else:
            _load_by_place(path, own)
    except BaseException:
        assign_weights(own, own.weights, before)
        raise
    return own


def save_values(path: Path, model: Any) -> None:
    """Write the values of all weights of a resolved problem's model, parameters too, as ``.npz``.

    Args:
        path: The file.
        model: The model.
    """
    weights = enumerate(every_weight(model))
    np.savez(path, **{f"{i:04}/{weight.path}": weight.numpy() for i, weight in weights})


def load_values(path: str | Path, problem: Problem) -> Problem:
    """The problem, resolved, with the values that :func:`save_values` wrote.

    Raises:
        ModelError: If the file is missing, unreadable or does not fit.
    """
    problem = resolve(problem)
    weights = every_weight(problem.model)
    check_file(Path(path), sum(math.prod(weight.shape) for weight in weights))
    try:
        with np.load(path, allow_pickle=False) as archive:
            values = {name.partition("/")[2]: archive[name] for name in sorted(archive.files)}
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise ModelError(f"Weights file {path} cannot be read ({plain(error)}).") from error
    theirs = [f"{name} {list(value.shape)}" for name, value in values.items()]
    ours = [f"{weight.path} {list(weight.shape)}" for weight in weights]
    for found, own in itertools.zip_longest(theirs, ours, fillvalue="nothing"):
        if found.partition(" ")[2] != own.partition(" ")[2]:
            raise ModelError(
                f"Weights file {path} does not fit this problem: it has {found} where the problem "
                f"has {own}. Choose the options that it was trained with."
            )
    assign_weights(problem.model, weights, list(values.values()))
    return problem


def take_network_file(path: str | Path) -> Any:
    """The network of a ``.keras`` file, in place of a problem's.

    Raises:
        ModelError: If the file is missing, unreadable, holds no network, or one that Keras cannot
            build from a config.
    """
    path = _check_path(path)
    if path.suffix != ".keras":
        raise ModelError(f"{path} holds no network to take, only weights; expected a .keras file.")
    check_file(path)
    try:
        stored = _build(path)
    except Exception as error:
        raise ModelError(
            f"Keras cannot build the network of {path} ({plain(error)}). Declare that network as "
            "the problem's, and leave --take-network out."
        ) from error
    if model_config(stored) is None:
        raise ModelError(
            f"The network of {path} cannot be kept in a store. Declare it as the problem's, and "
            "leave --take-network out."
        )
    return stored


def _check_path(path: str | Path) -> Path:
    path = Path(path)
    if not os.path.isfile(path):  # pathlib's raises where a name is too long
        kind = "is no regular file" if os.path.exists(path) else "does not exist"
        raise ModelError(f"Weights file {path} {kind}.")
    if not path.name.endswith((".keras", ".weights.h5")):
        raise ModelError(
            f"Weights file {path} has an unknown ending; expected .keras or .weights.h5."
        )
    return path


def _build(path: Path) -> Any:
    return keras.saving.load_model(path, compile=False, safe_mode=True)


def _load_keras(path: Path, own: Any, num_coordinates: int) -> None:
    try:
        stored = _build(path)
    # Keras documents no common base class: a damaged archive raises OSError, zipfile or HDF5
    # errors, an unknown class TypeError, code in the file ValueError.
    except Exception as error:
        _load_by_place(path, own, f", and Keras cannot build its network ({plain(error)})")
        return
    _check_shapes(path, own, stored)
    assign_weights(own, own.weights, [weight.numpy() for weight in stored.weights])
    if not compute_the_same(own, stored, num_coordinates):
        raise ModelError(
            f"The network in {path} has weights of the same shapes as the problem's, but computes "
            f"something else{_different_layer(own, stored)}. {ADVICE}"
        )


def _check_shapes(path: Path, own: Any, stored: Any) -> None:
    pairs = itertools.zip_longest(_tensors(stored), _tensors(own), fillvalue="nothing")
    for theirs, ours in pairs:
        if theirs.partition(" ")[2] != ours.partition(" ")[2]:
            raise ModelError(
                f"The network in {path} is not the problem's: it has {theirs} where the problem's "
                f"has {ours}. {ADVICE}"
            )


def _tensors(model: Any) -> list[str]:
    prefix = f"{model.name}/"
    return [f"{w.path.removeprefix(prefix)} {list(w.shape)}" for w in model.weights]


def _different_layer(own: Any, stored: Any) -> str:
    for ours, theirs in zip(inner_layers(own), inner_layers(stored), strict=False):
        if _kind(ours) != _kind(theirs):
            return f": {theirs.name} is {_kind(theirs)} there, {ours.name} is {_kind(ours)} here"
    return ""


def _kind(layer: Any) -> str:
    activation = getattr(layer, "activation", None)
    name = getattr(activation, "__name__", type(activation).__name__)
    return type(layer).__name__ + ("" if activation is None else f" with {name}")


def _load_by_place(path: Path, own: Any, also: str = "") -> None:
    """Have Keras read the values, each into the layer at the place that it was written from."""
    try:
        own.load_weights(path)
    except Exception as error:
        reason = _different_tensor(path, own) or f"{type(error).__name__}: {plain(error)[:300]}"
        raise ModelError(
            f"Weights file {path} cannot be loaded into this problem's network ({reason}){also}. "
            "Choose the options that it was trained with."
        ) from error


def _different_tensor(path: Path, own: Any) -> str:
    """What differs first from what the network would write, or nothing if that cannot be said."""
    try:
        with tempfile.TemporaryDirectory() as directory:
            written = Path(directory) / "own.weights.h5"
            own.save_weights(written)
            ours = _contents(written.read_bytes())
        content = path.read_bytes()
        if path.suffix == ".keras":
            with zipfile.ZipFile(path) as archive:
                content = archive.read("model.weights.h5")
        theirs = _contents(content)
    except (OSError, KeyError, zipfile.BadZipFile):
        return ""
    for place in [*ours, *theirs]:
        if ours.get(place) != theirs.get(place):
            found, expected = (table.get(place, "absent") for table in (theirs, ours))
            return f"tensor {place} is {found} in the file, {expected} in the network"
    return ""


def _contents(content: bytes) -> dict[str, str]:
    """Shapes of the tensors in a file of weights, by their place."""
    found: dict[str, str] = {}

    def visit(place: str, entry: Any) -> None:
        if isinstance(entry, h5py.Dataset):
            found[place] = str(list(entry.shape))

    with h5py.File(io.BytesIO(content)) as file:
        file.visititems(visit)
    return found
