"""Trained weights from files, by one door: the file brings values, the problem says of what.

Keras' files, those that ``hessian train`` writes, and tensors by name of other libraries.
"""

from __future__ import annotations

import itertools
import math
import os
import re
import warnings
import zipfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from hessian_tasks.errors import ModelError, ProblemError, WeightsWarning, plain
from hessian_tasks.networks._bounds import check_file
from hessian_tasks.networks._foreign import assign_tensors, assign_theta
from hessian_tasks.networks._keras_files import load_weights_file, take_network_file
from hessian_tasks.networks.models import assign_weights
from hessian_tasks.networks.trainables import every_weight, networks_of, resolve
from hessian_tasks.problem import Problem

__all__ = ["load_weights", "save_values"]

KERAS = (".keras", ".weights.h5")
TENSORS = (".safetensors", ".pt", ".pth")
ENDINGS = (*KERAS, ".npz", ".npy", *TENSORS)
# Of the members of an archive that hessian train writes.
_NUMBERED = re.compile(r"[0-9]{4}/")


def load_weights(path: str | Path, problem: Problem, *, take_network: bool = False) -> Problem:
    """The problem with the values of a file; a model that it holds itself is changed in place.

    Args:
        path: A ``.keras`` or ``.weights.h5`` file of the problem's network; an ``.npz`` file of
            ``hessian train``, with all networks and parameters; ``.npz``, ``.safetensors``,
            ``.pt`` and ``.pth`` files with tensors by name, of a network of dense layers; or an
            ``.npy`` file with θ ``[P]``.
        problem: The problem.
        take_network: Take the network of the ``.keras`` file instead of the problem's.

    Raises:
        ProblemError: If the file holds one network, and the problem has several.
        ModelError: If the file is missing, unreadable or does not fit; the weights are as before.

    Warns:
        WeightsWarning: If the file has no values of parameters of the problem, or what was read is
            not what was written: rounded, or in an order that names and shapes do not decide.

    Example:
        >>> import tempfile
        >>> from hessian_tasks.problems import regression
        >>> problem = regression.problem(width=2, depth=1, num_samples=5)
        >>> with tempfile.TemporaryDirectory() as directory:
        ...     np.savez(
        ...         f"{directory}/net.npz",
        ...         **{"Dense_0/kernel": np.float32([[1, 2]]), "Dense_0/bias": np.float32([3, 4]),
        ...            "Dense_1/kernel": np.float32([[5], [6]]), "Dense_1/bias": np.float32([7])},
        ...     )
        ...     loaded = load_weights(f"{directory}/net.npz", problem)
        >>> [weight.numpy().ravel().tolist() for weight in loaded.model.weights]
        [[1.0, 2.0], [3.0, 4.0], [5.0, 6.0], [7.0]]
    """
    path = Path(path)
    if take_network:
        problem = replace(problem, model=take_network_file(path))
        _warn_of_parameters(path, problem.parameters)
        return problem
    _check_path(path)
    if path.name.endswith(KERAS):
        _check_one_network(path, isinstance(problem.model, Mapping))
        model = load_weights_file(path, problem.model, len(problem.coordinates))
        _warn_of_parameters(path, problem.parameters)
        return replace(problem, model=model)
    problem = resolve(problem)
    if path.suffix == ".npy":
        assign_theta(path, problem)
    elif path.suffix == ".npz" and _is_own(path):
        _load_values(path, problem)
    else:
        _check_one_network(path, len(networks_of(problem.model)) > 1)
        taken = assign_tensors(path, problem)
        _warn_of_parameters(path, {k: v for k, v in problem.parameters.items() if k not in taken})
    return problem


def _check_path(path: Path) -> None:
    if not os.path.isfile(path):  # pathlib's raises where a name is too long
        kind = "is no regular file" if os.path.exists(path) else "does not exist"
        raise ModelError(f"Weights file {path} {kind}.")
    if not path.name.endswith(ENDINGS):
        raise ModelError(
            f"Weights file {path} has an unknown ending; expected one of {', '.join(ENDINGS)}."
        )


def _check_one_network(path: Path, several: bool) -> None:
    if several:
        raise ProblemError(
            f"The problem has several networks, and {path} holds the weights of one. Expected "
            "an .npz file, as hessian train --out trained.npz writes it, or an .npy file with θ."
        )


def _is_own(path: Path) -> bool:
    """Whether an archive is one of :func:`save_values`; what is none is left to readers."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (OSError, zipfile.BadZipFile):
        return False
    return bool(names) and all(map(_NUMBERED.match, names))


def save_values(path: Path, model: Any) -> None:
    """Write the values of all weights of a resolved problem's model, parameters too, as ``.npz``.

    Args:
        path: The file.
        model: The model.
    """
    weights = enumerate(every_weight(model))
    np.savez(path, **{f"{i:04}/{weight.path}": weight.numpy() for i, weight in weights})


def _load_values(path: Path, problem: Problem) -> None:
    """Put what :func:`save_values` wrote into a resolved problem."""
    weights = every_weight(problem.model)
    check_file(path, sum(math.prod(weight.shape) for weight in weights))
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


def _warn_of_parameters(path: Path, parameters: Mapping[str, Any]) -> None:
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
