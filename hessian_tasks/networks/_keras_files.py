"""Keras' own files of weights: they bring values, the problem says what network they are of."""

from __future__ import annotations

import io
import itertools
import math
import os
import tempfile
import zipfile
from pathlib import Path
from typing import Any

import h5py
import keras

from hessian_tasks.errors import ModelError, plain
from hessian_tasks.networks._bounds import check_file
from hessian_tasks.networks.architecture import model_config
from hessian_tasks.networks.models import assign_weights, inner_layers, resolve_model
from hessian_tasks.networks.numerics import compute_the_same

__all__ = ["load_weights_file", "take_network_file"]

ADVICE = (
    "Choose the options that it was trained with, or take the file's network instead of the "
    "problem's: --take-network, or take_network=True."
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
