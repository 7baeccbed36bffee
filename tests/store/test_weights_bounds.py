"""Files of weights that say that they are larger than they are, and take no memory for it."""

from __future__ import annotations

import io
import json
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import keras
import numpy as np
import pytest

from hessian_tasks.errors import ModelError
from hessian_tasks.networks._keras_files import load_weights_file, take_network_file
from hessian_tasks.networks.weights import load_weights, save_values
from hessian_tasks.problem import Problem
from hessian_tasks.problems import regression

# Bombs expand to 256 MiB; what is refused takes this at most.
BOMB = 2**25
MOST_BYTES = 2**24


@pytest.fixture
def problem() -> Problem:
    return regression.problem(3, 1, 8, dtype="float64")


def peak(call: Callable[..., Any], *arguments: Any, match: str) -> None:
    """Assert that a file is refused, and what memory that takes."""
    tracemalloc.start()
    try:
        with pytest.raises(ModelError, match=match):
            call(*arguments)
        assert tracemalloc.get_traced_memory()[1] < MOST_BYTES
    finally:
        tracemalloc.stop()


def hdf5(path: Path, **options: Any) -> Path:
    """A file as Keras writes it, whose first kernel is a bomb."""
    regression.problem(3, 1, 8).model.save_weights(path)
    with h5py.File(path, "r+") as file:
        place = "layers/dense/vars/0"
        if place in file:
            del file[place]
        file.create_dataset(place, (BOMB,), "f8", **options)
    return path


def zipped(path: Path, **members: Callable[[], bytes]) -> Path:
    """A copy of an archive, compressed and with other members in place of some."""
    with zipfile.ZipFile(path) as archive:
        contents = {name: archive.read(name) for name in archive.namelist()}
    contents |= {name: make() for name, make in members.items()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in contents.items():
            archive.writestr(name, data)
    return path


def giant(path: Path) -> bytes:
    """The network of an archive with more units than there are values for."""
    with zipfile.ZipFile(path) as archive:
        config = json.loads(archive.read("config.json"))
    config["config"]["layers"][-1]["config"]["units"] = BOMB
    return json.dumps(config).encode()


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"compression": "gzip", "chunks": (2**20,)}, "compressed or lies in other files"),
        ({}, "has 0 bytes, and needs"),
        ({"chunks": (2**16,)}, "has 0 bytes, and needs"),
        ({"external": [("/etc/passwd", 0, 8 * BOMB)]}, "compressed or lies in other files"),
    ],
)
def test_datasets_are_no_larger_than_what_is_stored(
    options: dict[str, Any], reason: str, problem: Problem, tmp_path: Path
) -> None:
    path = hdf5(tmp_path / "bomb.weights.h5", **options)
    peak(load_weights_file, path, problem.model, match=reason)


def test_links_lead_nowhere(problem: Problem, tmp_path: Path) -> None:
    path = tmp_path / "linked.weights.h5"
    problem.model.save_weights(path)
    with h5py.File(path, "r+") as file:
        file["layers/other"] = h5py.ExternalLink("/etc/passwd", "/")
    peak(load_weights_file, path, problem.model, match="has a link at 'other'")


def test_archives_expand_little(problem: Problem, tmp_path: Path) -> None:
    path = tmp_path / "values.npz"
    save_values(path, problem.model)
    kept = path.read_bytes()
    zipped(path, zeros=lambda: bytes(8 * BOMB))
    peak(load_weights, path, problem, match="'zeros' expands from")
    # Compressed archives of weights are none of these.
    path.write_bytes(kept)
    load_weights(zipped(path), problem)


def test_headers_say_no_more_than_what_follows(problem: Problem, tmp_path: Path) -> None:
    header = io.BytesIO()
    described = {"descr": "<f8", "fortran_order": False, "shape": (10**14,)}
    np.lib.format.write_array_header_1_0(header, described)
    path = tmp_path / "values.npz"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a.npy", header.getvalue())
    peak(load_weights, path, problem, match=r"'a.npy' says that it has the shape")


@pytest.mark.parametrize("take", [False, True])
@pytest.mark.parametrize("member", ["config.json", "assets/x", "model.weights.h5"])
def test_networks_of_archives_are_no_larger_than_their_values(
    member: str, take: bool, problem: Problem, tmp_path: Path
) -> None:
    path = tmp_path / "net.keras"
    problem.model.save(path)
    bomb = hdf5(tmp_path / "bomb.weights.h5", compression="gzip").read_bytes()
    contents = {"config.json": lambda: giant(path), "assets/x": lambda: bytes(8 * BOMB),
                "model.weights.h5": lambda: bomb}  # fmt: skip
    reason = {"config.json": "describes .* weights, but at most", "assets/x": "expands from",
              "model.weights.h5": "compressed"}  # fmt: skip
    zipped(path, **{member: contents[member]})
    if take:
        peak(take_network_file, path, match=reason[member])
    else:
        peak(load_weights_file, path, problem.model, match=reason[member])


def test_a_file_of_another_problem_is_no_larger_than_weights_are(
    problem: Problem, tmp_path: Path
) -> None:
    path = tmp_path / "large.weights.h5"
    large = keras.Sequential([keras.Input((1024,)), keras.layers.Dense(1100)])
    large.save_weights(path)
    with pytest.raises(ModelError, match="values and more, where the network is for"):
        load_weights_file(path, problem.model)


def test_moments_of_an_optimizer_do_no_harm(problem: Problem, tmp_path: Path) -> None:
    model = problem.model
    model.compile(keras.optimizers.Adam(), "mse")
    model.fit(np.zeros((8, 1)), np.zeros((8, 1)), verbose=0)
    model.save(tmp_path / "net.keras")
    load_weights_file(tmp_path / "net.keras", problem.model, 1)
    assert take_network_file(tmp_path / "net.keras").count_params() == model.count_params()
