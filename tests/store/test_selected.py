"""Whatever else in a store, or beside it, could select what runs, or lead to other files."""

from __future__ import annotations

import json
import os
import pickle
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

from hessian_tasks.errors import ModelError
from hessian_tasks.networks.architecture import model_config, model_from_config
from pipeline import compute_hessian, verify_hessian
from pipeline.errors import StoreError
from pipeline.estimates.journal import HEADER, Journal
from pipeline.run.cluster import submit
from pipeline.store.places import locate
from tests.helpers.forged import forge
from tests.helpers.runs import Cli

FILE = """
import keras, numpy as np
from hessian_tasks import LossTerm, Problem

@keras.saving.register_keras_serializable("mine")
class Table(keras.layers.Layer):
    def __init__(self, file="", scale=1.0, **options):
        super().__init__(**options)
        self.file, self.scale = file, scale
        if file:
            np.load(file, allow_pickle=True)

    def call(self, x):
        return x * self.scale

    def get_config(self):
        return {**super().get_config(), "file": self.file, "scale": self.scale}

@keras.saving.register_keras_serializable("mine")
def forget(x):
    open("ran", "w")
    return x

X = np.linspace(-1, 1, 5)[:, None]

def problem(scale=2.0, table=True):
    layers = [keras.Input((1,)), keras.layers.Dense(2, "tanh", name="hidden")]
    layers += [Table(scale=scale, name="table")] if table else []
    model = keras.Sequential([*layers, keras.layers.Dense(1, name="out")])
    fit = LossTerm("fit", lambda model, x: keras.ops.mean(model(x) ** 2), data={"x": X})
    return Problem(model, [fit], "x")
"""


class Payload:
    """What does harm when it is unpickled."""

    def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
        return os.mkdir, ("ran",)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("folder")
    (folder / "mine.py").write_text(FILE)
    compute_hessian(folder / "mine.py", folder / "h.zarr")
    return folder


@pytest.fixture
def store(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A store of a network with a class of its own; what it says is put back in the end."""
    monkeypatch.chdir(folder)
    metadata = (folder / "h.zarr/zarr.json").read_bytes()
    yield folder / "h.zarr"
    (folder / "h.zarr/zarr.json").write_bytes(metadata)
    assert not (folder / "ran").exists()


def change_layer(store: Path, number: int, **values: Any) -> None:
    def edit(attributes: dict[str, Any]) -> None:
        config = json.loads(attributes["model_config"])
        config["config"]["layers"][number]["config"] |= values
        attributes["model_config"] = json.dumps(config)

    forge(store, edit)


def test_arguments_of_registered_classes_hold_no_other_text(store: Path) -> None:
    """A class of the user's may do anything with a file's name: here it unpickles it."""
    (store / "payload.npy").write_bytes(pickle.dumps(Payload()))
    change_layer(store, 2, file=str(store / "payload.npy"))
    with pytest.raises(ModelError, match=r"asks for 'mine>Table' with '.*payload\.npy'"):
        verify_hessian(store)


def test_numbers_of_registered_classes_may_differ(store: Path) -> None:
    """As before: a store is not refused for what does no harm."""
    change_layer(store, 2, scale=2.0, name="table_7")
    assert verify_hessian(store).passed


def test_registered_functions_are_those_of_the_own_network(store: Path) -> None:
    for activation in (
        "mine>forget",
        {"module": "builtins", "class_name": "function", "config": "mine>forget",
         "registered_name": "function"},
    ):  # fmt: skip
        change_layer(store, 1, activation=activation)
        with pytest.raises(ModelError, match="asks for 'mine>forget'"):
            verify_hessian(store)


def test_classes_that_the_own_network_has_not_are_not_built(folder: Path) -> None:
    from hessian_tasks.source import ProblemSource

    with_table, without = (
        ProblemSource(str(folder / "mine.py"), {"table": table}).load().model
        for table in (True, False)
    )
    config = model_config(with_table)
    assert config is not None
    assert model_from_config(config, like=with_table) is not None
    with pytest.raises(ModelError, match="asks for 'mine>Table'"):
        model_from_config(config, like=without)


def test_a_registered_name_lets_no_other_function_through(folder: Path) -> None:
    layer = {"module": "keras.layers", "class_name": "Dense", "config": {
        "units": 1, "activation": {"module": "os", "class_name": "function", "config": "system",
                                   "registered_name": "mine>Table"}}}  # fmt: skip
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(3)])
    config = json.loads(model_config(model) or "")
    config["config"]["layers"].append(layer)
    with pytest.raises(ModelError, match=r"asks for os\.function, which is not built"):
        model_from_config(json.dumps(config))


def test_text_of_a_store_is_no_markup(store: Path, hessian: Cli) -> None:
    forge(store, lambda attributes: attributes.update(engine_reason="[/b] [link=x]y[/link]"))
    code, output, errors = hessian("run", "--store", store)
    assert (code, errors) == (0, "")
    assert "[/b] [link=x]y[/link]" in output


def test_damaged_metadata_say_what_to_do(store: Path, hessian: Cli) -> None:
    forge(store, lambda attributes: attributes.update(tile=0))
    for command in ("status", "info", "verify"):
        assert "What can be mended of it is, by: hessian run --store" in hessian(command, store)[2]


# ---- beside a store -----------------------------------------------------------------------------

NOTES: dict[str, str] = {
    "deep": "[" * 100_000,
    "flag": json.dumps({"kind": "slurm", "job_id": "--user=root", "command": "x"}),
    "number": json.dumps({"kind": "slurm", "job_id": 7, "command": "x"}),
    "digits of others": json.dumps({"kind": "slurm", "job_id": "\u0667", "command": "x"}),
    "two": json.dumps({"kind": "slurm", "job_id": "7\n8", "command": "x"}),
    "program": json.dumps({"kind": "touch", "job_id": "7", "command": "x"}),
    "colours": json.dumps({"kind": "\x1b[31m", "job_id": "7", "command": "x"}),
    "orders": json.dumps({"kind": "slurm", "job_id": "7", "command": "\x1b]0;owned\x07"}),
    "list": "[]",
    "large": '"' + "x" * 2**21 + '"',
}


@pytest.mark.parametrize("note", [*NOTES, "pipe", "link"])
def test_a_note_of_a_job_gives_no_orders(
    note: str, store: Path, hessian: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Flags, other programs and what is no note were refused before, too."""
    called: list[Any] = []
    monkeypatch.setattr(submit, "_call", called.append)
    path = store.with_name("h.zarr.job.json")
    if note == "pipe":
        os.mkfifo(path)
    elif note == "link":
        path.symlink_to("/etc/passwd")
    else:
        path.write_text(NOTES[note])
    try:
        for command in ("status", "cancel"):
            code, output, errors = hessian(command, store)
            assert (code, output, errors.count("\n")) == (1, "", 1)
            assert f"{path} does not describe a job" in errors
            assert errors.removesuffix("\n").isprintable()
    finally:
        path.unlink()
    assert called == []


def test_notes_of_jobs_do_not_follow_links(tmp_path: Path) -> None:
    (tmp_path / "kept").write_text("kept")
    (tmp_path / "h.zarr.job.json").symlink_to(tmp_path.parent / "elsewhere")
    with pytest.raises(StoreError, match="leads out"):
        submit._put(tmp_path / "h.zarr.job.json", "note")
    assert not (tmp_path.parent / "elsewhere").exists()


@pytest.mark.parametrize("dangling", [True, False])
def test_a_lock_is_no_link(dangling: bool, store: Path, tmp_path: Path, hessian: Cli) -> None:
    lock, target = store.with_name(".h.zarr.lock"), tmp_path / "target"
    if not dangling:
        target.write_text("kept")
    lock.symlink_to(target)
    try:
        code, _, errors = hessian("run", "--store", store)
    finally:
        lock.unlink()
    assert (code, errors.count("\n")) == (1, 1)
    assert f"{lock} is no lock, which is a file, but something else. Remove it." in errors
    assert target.exists() != dangling


def test_a_lock_is_no_pipe(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / ".h.zarr.lock")
    with pytest.raises(StoreError, match="is no lock"), locate(tmp_path / "h.zarr").locked():
        pass


# ---- safe before, too ---------------------------------------------------------------------------


def test_journals_are_not_unpickled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are numbers behind a digest: whatever else is there is computed again."""
    monkeypatch.chdir(tmp_path)

    def journal() -> Journal:
        return Journal(tmp_path / "e.zarr", {"theta": "1f"}, {"seed": 0}, "xtrace")

    journal().recording(lambda vectors: 2 * vectors)(np.ones((3, 1)))
    for name in ("000000", HEADER):
        (tmp_path / ".e.zarr.products" / name).write_bytes(pickle.dumps(Payload()))
        again = journal()
        assert again.recording(lambda vectors: 2 * vectors)(np.ones((3, 1))).tolist() == [[2.0]] * 3
        assert again.num_taken == 0
    assert not (tmp_path / "ran").exists()


def test_histories_are_not_unpickled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """NumPy is asked not to."""
    from pipeline.analysis.lbfgs import LbfgsHistory

    monkeypatch.chdir(tmp_path)
    np.savez("h.npz", theta=np.array([Payload()], object), steps=1, gradient_changes=1)
    with pytest.raises(StoreError, match="no history"):
        LbfgsHistory.load("h.npz")
    assert not (tmp_path / "ran").exists()
