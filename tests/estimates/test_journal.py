"""Estimates that were interrupted go on where they were, and come to the same answers."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import xarray as xr

from pipeline import cli
from pipeline.errors import ClusterError, StoppedError, StoreError, StoreMismatchError
from pipeline.estimates._products import Product
from pipeline.estimates.fitting import allowed_bytes, best_method, fitting_search
from pipeline.estimates.journal import Journal
from pipeline.store.places import locate
from tests.helpers.runs import Cli, read_until, start_held, wait_for

Array = Any

RNG = np.random.default_rng(0)
MATRIX = RNG.standard_normal((7, 7))
ASKED = [RNG.standard_normal((7, width)) for width in (1, 3, 2, 2, 4)]
INPUTS = {"theta": "1f", "dtype": "float64"}
OPTIONS = {"matrix": "hessian", "term": None, "seed": 0}


class Counted:
    """A product that counts the vectors which it is given, and may fail at one of its calls."""

    def __init__(self, fails_at: int | None = None, error: Exception | None = None) -> None:
        self.widths: list[int] = []
        self.fails_at, self.error = fails_at, error

    def __call__(self, vectors: Array) -> Array:
        if self.error is not None and len(self.widths) == self.fails_at:
            raise self.error
        self.widths.append(vectors.shape[1])
        return MATRIX @ vectors


def ask(path: Path, product: Product, asked: list[Array] = ASKED, **changes: Any) -> Journal:
    """What an algorithm does: ask for one product after the other; all answers are right."""
    inputs, options = INPUTS | changes.get("inputs", {}), OPTIONS | changes.get("options", {})
    journal = Journal(path, inputs, options, changes.get("method", "xtrace"))
    recording = journal.recording(product)
    for vectors in asked:
        np.testing.assert_array_equal(recording(vectors), MATRIX @ vectors)
    return journal


def entries(path: Path) -> list[str]:
    directory = path.with_name(f".{path.name}.products")
    return sorted(file.name for file in directory.glob("*"))


@pytest.mark.parametrize(
    "error", [StoppedError("stopped"), ClusterError("lost"), KeyboardInterrupt()]
)
def test_only_what_is_missing_is_computed(tmp_path: Path, error: Exception) -> None:
    path = tmp_path / "e.zarr"
    first = Counted(3, error)
    with pytest.raises(type(error)):
        ask(path, first)
    second = Counted()
    journal = ask(path, second)
    assert (first.widths, second.widths) == ([1, 3, 2], [2, 4])
    assert (journal.num_taken, journal.num_kept) == (6, 12)
    assert entries(path) == [*(f"{k:06d}" for k in range(5)), "header.json"]
    journal.remove()
    assert list(tmp_path.iterdir()) == []


def test_answers_may_be_changed_in_place(tmp_path: Path) -> None:
    """As Lanczos' method does with a product."""
    ask(tmp_path / "e.zarr", Counted())
    recording = Journal(tmp_path / "e.zarr", INPUTS, OPTIONS, "xtrace").recording(Counted())
    images = recording(ASKED[0])
    images -= 1
    assert images.flags.c_contiguous
    ask(tmp_path / "e.zarr", Counted())


def test_what_follows_another_vector_is_dropped(tmp_path: Path) -> None:
    path = tmp_path / "e.zarr"
    ask(path, Counted())
    other = [*ASKED[:2], ASKED[2] + 1e-15, *ASKED[3:]]
    product = Counted()
    assert ask(path, product, other[:3]).num_taken == 4
    assert product.widths == [2]
    assert entries(path) == ["000000", "000001", "000002", "header.json"]
    product = Counted()
    ask(path, product, other)
    assert product.widths == [2, 4]


def test_other_shapes_are_not_mistaken(tmp_path: Path) -> None:
    path = tmp_path / "e.zarr"
    ask(path, Counted())
    product = Counted()
    # What comes after them in the same places is the same again.
    assert ask(path, product, [np.hstack(ASKED[:2]), ASKED[0], *ASKED[2:]]).num_taken == 8
    assert product.widths == [4, 1]


@pytest.mark.parametrize("options", [{"seed": 1}, {"matrix": "ggn"}, {"term": "pde"}])
def test_products_for_other_options_are_not_used(tmp_path: Path, options: dict[str, Any]) -> None:
    ask(tmp_path / "e.zarr", Counted())
    product = Counted()
    assert ask(tmp_path / "e.zarr", product, options=options).num_taken == 0
    assert len(product.widths) == len(ASKED)


def test_the_method_of_what_is_there_stands(tmp_path: Path) -> None:
    """Whatever memory is free now: another one would ask for other products."""
    path = tmp_path / "e.zarr"
    assert ask(path, Counted(), method="hutchinson").method == "hutchinson"
    journal = ask(path, Counted(), method="xtrace")
    assert (journal.method, journal.num_taken) == ("hutchinson", 12)
    journal.remove()
    assert ask(path, Counted(), method="xtrace").method == "xtrace"


def test_litter_of_killed_processes_is_removed(tmp_path: Path) -> None:
    ask(tmp_path / "e.zarr", Counted())
    (tmp_path / ".e.zarr.products" / "000005.0f.partial").write_bytes(b"half")
    ask(tmp_path / "e.zarr", Counted())
    assert "000005.0f.partial" not in entries(tmp_path / "e.zarr")


def test_products_of_other_inputs_are_neither_used_nor_lost(tmp_path: Path) -> None:
    path = tmp_path / "e.zarr"
    ask(path, Counted())
    with pytest.raises(StoreMismatchError, match=r"of other inputs: theta differs. Give another"):
        ask(path, Counted(), inputs={"theta": "2e"})
    assert ask(path, Counted()).num_taken == 12


def test_products_under_a_header_of_others_are_not_used(tmp_path: Path) -> None:
    """As after a mistake with files: each product knows what it is of."""
    first, second = tmp_path / "a.zarr", tmp_path / "b.zarr"
    ask(first, Counted())
    ask(second, Counted(), [], inputs={"theta": "2e"})
    moved = second.with_name(".b.zarr.products")
    first.with_name(".a.zarr.products").rename(moved)
    header = json.loads((moved / "header.json").read_text())
    header["inputs"]["theta"] = "2e"
    (moved / "header.json").write_text(json.dumps(header))
    assert ask(second, Counted(), inputs={"theta": "2e"}).num_taken == 0


def spoil(file: Path, how: str) -> None:
    data = file.read_bytes()
    if how == "cut":
        file.write_bytes(data[:-9])
    elif how == "empty":
        file.write_bytes(b"")
    elif how == "gone":
        file.unlink()
    elif how == "giant":
        with file.open("r+b") as opened:
            opened.truncate(2**40)  # of which the disk holds nothing
    elif how == "pipe":
        file.unlink()
        os.mkfifo(file)
    else:
        file.write_bytes(data[:50] + bytes([data[50] ^ 1]) + data[51:])


@pytest.mark.parametrize("how", ["flipped", "cut", "empty", "gone", "giant", "pipe"])
def test_damaged_products_are_computed_again(tmp_path: Path, how: str) -> None:
    path = tmp_path / "e.zarr"
    ask(path, Counted())
    spoil(path.with_name(".e.zarr.products") / "000001", how)
    product = Counted()
    assert ask(path, product).num_taken == 9
    assert product.widths == [3]
    assert ask(path, Counted()).num_taken == 12


@pytest.mark.parametrize("header", [b"", b"[]", b'{"inputs": {"theta": 1}, "asked": {}}', None])
def test_without_a_header_nothing_is_used(tmp_path: Path, header: bytes | None) -> None:
    path = tmp_path / "e.zarr"
    ask(path, Counted())
    file = path.with_name(".e.zarr.products") / "header.json"
    if header is None:
        file.unlink()
    else:
        file.write_bytes(header)
    product = Counted()
    assert ask(path, product).num_taken == 0
    assert len(product.widths) == len(ASKED)


def test_links_do_not_lead_out(tmp_path: Path) -> None:
    path = tmp_path / "e.zarr"
    ask(path, Counted())
    file = path.with_name(".e.zarr.products") / "000001"
    file.rename(tmp_path / "outside")
    file.symlink_to(tmp_path / "outside")
    with pytest.raises(StoreError, match="leads out"):
        ask(path, Counted())


def test_a_full_disk_keeps_what_is_there(small_disk: Callable[[str], Path], tmp_path: Path) -> None:
    disk = small_disk("size=64k")
    path = disk / "e.zarr"
    vectors = [RNG.standard_normal((7, 200)) for _ in range(8)]  # 11 KiB each
    product = Counted()
    with pytest.raises(StoreError, match=r"disk is full. Free some space and run the same command"):
        ask(path, product, vectors)
    kept = len(product.widths) - 1
    assert kept > 1
    assert entries(path) == [*(f"{k:06d}" for k in range(kept)), "header.json"]
    subprocess.run(["mount", "-o", "remount,size=1m", str(disk)], check=True)
    product = Counted()
    assert ask(path, product, vectors).num_taken == 200 * kept
    assert len(product.widths) == len(vectors) - kept


# ---- commands ------------------------------------------------------------------------------------

PROBLEM = ["regression", "-o", "width=8", "-o", "depth=2", "-o", "num_samples=60"]
PROBLEM += ["-o", "dtype=float64"]
COMMAND = ["estimate", *PROBLEM, "--pairs", "2", "--density", "2", "--diagonal", "20"]
COMMAND += ["--max-products", "140", "--threads", "2", "--json"]
FEW = ["estimate", "regression", "-o", "width=4", "-o", "depth=1", "-o", "num_samples=9"]
FEW += ["--pairs", "1", "--max-products", "24", "--threads", "2", "--json"]
NUM_PARAMS = 97
QUIET: dict[str, Any] = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The answers of the command when it is not interrupted."""
    path = tmp_path_factory.mktemp("whole") / "e.zarr"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["hessian", *COMMAND, "--store", str(path)])
        with pytest.raises(SystemExit) as left:
            cli.main()
    assert not left.value.code
    assert list(path.parent.iterdir()) == [path]
    return path


def recorded_vectors(path: Path) -> int:
    """Vectors whose products are in the journal, by the sizes of its files."""
    directory = path.with_name(f".{path.name}.products")
    sizes = [file.stat().st_size - 36 for file in directory.glob("[0-9]*") if "." not in file.name]
    return sum(sizes) // (8 * NUM_PARAMS)


def answers(path: Path) -> tuple[dict[str, Any], dict[str, Array]]:
    """All numbers but those that say how long it took."""
    with xr.open_zarr(path, consolidated=False) as dataset:
        told = dict(dataset.attrs["estimates"])
        return told, {str(name): array.to_numpy() for name, array in dataset.items()}


def assert_same_answers(path: Path, whole: Path) -> dict[str, Any]:
    (found, arrays), (expected, expected_arrays) = answers(path), answers(whole)
    differing = {"seconds", "num_recorded"}
    assert {k: v for k, v in found.items() if k not in differing} == {
        k: v for k, v in expected.items() if k not in differing
    }
    assert arrays.keys() == expected_arrays.keys()
    for name, array in arrays.items():
        np.testing.assert_array_equal(array, expected_arrays[name])
    assert expected["num_recorded"] == 0
    return found


@pytest.mark.parametrize(
    "number",
    [
        signal.SIGKILL,
        pytest.param(signal.SIGTERM, marks=pytest.mark.slow),
        pytest.param(signal.SIGINT, marks=pytest.mark.slow),
    ],
)
def test_an_interrupted_process_is_gone_on_with(
    tmp_path: Path, whole: Path, hessian: Cli, number: signal.Signals
) -> None:
    path = tmp_path / "e.zarr"
    pipes = {**QUIET, "stderr": subprocess.PIPE}
    with start_held("products", 60, [*COMMAND, "--store", path], **pipes) as process:
        wait_for(lambda: recorded_vectors(path) >= 60 or bool(process.poll()))
        process.send_signal(number)
        if number != signal.SIGKILL:
            read_until(process.stderr, "stopping")  # before it is let go
        process.communicate()
    code = process.returncode
    assert code == (-9 if number == signal.SIGKILL else 3)
    there = recorded_vectors(path)
    assert not path.exists()
    assert hessian(*COMMAND, "--store", path)[0] == 0
    told = assert_same_answers(path, whole)
    # Eight vectors measured the error of products, and belong to no answer.
    assert told["num_recorded"] == there - 8
    assert 50 <= told["num_recorded"] < told["num_products"]
    assert list(tmp_path.iterdir()) == [path]


def interrupt_after(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """Let products of this process fail after so many."""
    from pipeline.estimates import operator

    whole = operator.threaded_product

    def threaded(*arguments: Any) -> Product:
        product, counted = whole(*arguments), Counted(number, StoppedError("stopped"))

        def fail_later(vectors: Array) -> Array:
            counted(np.zeros((7, 1)))
            return product(vectors)

        return fail_later

    monkeypatch.setattr(operator, "threaded_product", threaded)


def test_what_the_command_says(
    tmp_path: Path, whole: Path, hessian: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "e.zarr"
    command = [*COMMAND[:-1], "--store", path]
    with monkeypatch.context() as patch:
        interrupt_after(patch, 7)
        code, output, errors = hessian(*command)
    there = recorded_vectors(path)
    assert (code, output) == (3, "")
    assert (
        f"stopped after {there} products, which are kept in {tmp_path}/.e.zarr.products." in errors
    )
    with locate(path).locked():
        code, _, errors = hessian(*command)
        assert code == 1
        assert "Another run is at work on" in errors
    code, _, errors = hessian(*command, "-o", "width=7")
    assert code == 1
    assert "products of an interrupted estimate of other inputs" in errors
    assert recorded_vectors(path) == there
    # Little memory, of which the eigenpairs take all, would now speak for another method.
    least = fitting_search(NUM_PARAMS, 2, 2**30).num_bytes
    monkeypatch.setattr("psutil.virtual_memory", lambda: SimpleNamespace(available=2 * least))
    assert best_method(NUM_PARAMS, 140, allowed_bytes()) == "hutchinson"
    code, output, errors = hessian(*command)
    assert code == 0, errors
    told = assert_same_answers(path, whole)
    total, taken = told["num_products"], there - 8
    assert told["num_recorded"] == taken
    said = f"{total}, of which {taken} were there from an interrupted process, and {total - taken}"
    assert said in output


def test_another_seed_begins_anew(
    tmp_path: Path, hessian: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "e.zarr"
    with monkeypatch.context() as patch:
        interrupt_after(patch, 3)
        assert hessian(*FEW, "--store", path)[0] == 3
    code, output, errors = hessian(*FEW, "--store", path, "--seed", 1)
    assert code == 0, errors
    assert json.loads(output)["num_recorded"] == 0


def test_without_a_store_nothing_is_written(
    tmp_path: Path, hessian: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    code, output, errors = hessian(*FEW)
    assert code == 0, errors
    assert json.loads(output)["num_recorded"] == 0
    assert list(tmp_path.iterdir()) == []
