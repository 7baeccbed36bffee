"""Faults: killed processes, damaged files, full disks, wrong inputs. No wrong array, ever."""

from __future__ import annotations

import random
import re
import shlex
import shutil
import signal
import subprocess
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from rich.console import Console

from hessian_tasks.autodiff import hessian_vector_product
from hessian_tasks.frozen import FrozenInputs
from hessian_tasks.networks.models import resolve_model
from hessian_tasks.problems.networks import mlp
from hessian_tasks.rebuild import rebuild
from hessian_tasks.source import ProblemSource
from pipeline.api import open_hessian, verify_hessian
from pipeline.cli.commands import run_settings
from pipeline.errors import PlanError, StoppedError, StoreError
from pipeline.run.events import RunStarted
from pipeline.run.inputs import freeze_source
from pipeline.run.verify import certify
from pipeline.settings.config import Settings
from pipeline.store.store import HessianStore
from tests.helpers.runs import (
    HESSIAN,
    Cli,
    Run,
    computed,
    objects,
    read_until,
    run_and_kill,
    snapshot,
    start_held,
    wait_for,
)

Product = Callable[[npt.NDArray[Any]], npt.NDArray[Any]]

LAST_TILE = "hessian/c/7/7"


def litter(path: Path) -> list[str]:
    return [p.name for p in path.parent.rglob("*") if p.suffix in (".partial", ".creating")]


@pytest.fixture(scope="module")
def complete(tmp_path_factory: pytest.TempPathFactory, run: Run, inputs: FrozenInputs) -> Path:
    """A complete store with 8 block rows in tiles of side 5. Copy it to change it."""
    path = tmp_path_factory.mktemp("complete") / "h.zarr"
    run(path, inputs, tile=5)
    return path


@pytest.fixture
def store(complete: Path, tmp_path: Path) -> Path:
    """A copy of the complete store."""
    return Path(shutil.copytree(complete, tmp_path / "h.zarr"))


@pytest.fixture(scope="module")
def product(inputs: FrozenInputs) -> Product:
    """Hessian-vector products, for certificates without compiling anew."""
    problem = rebuild(inputs)
    return lambda vectors: hessian_vector_product(problem, vectors)


# ---- kill -9 ---------------------------------------------------------------------------------


def record_files(path: Path) -> dict[str, tuple[bytes, int]]:
    """Content and time of every completion record."""
    files = path.glob("records/*/zarr.json")
    return {p.parent.name: (p.read_bytes(), p.stat().st_mtime_ns) for p in files}


def check_killed(path: Path, before: dict[str, tuple[bytes, int]]) -> None:
    """Old records are untouched, and all records, old and new, imply sound data."""
    after = record_files(path)
    assert before.items() <= after.items()
    killed = HessianStore(path)
    assert {f"{index:06d}" for index in killed.records()} == set(after)
    assert killed.damaged_objects(killed.records().values()) == {}
    hessian = open_hessian(path).hessian.to_numpy()
    for row in killed.records().values():
        assert np.isfinite(hessian[row.row.start : row.row.stop, row.row.start :]).all()


@pytest.mark.parametrize("num_kills", [2, pytest.param(20, marks=pytest.mark.slow)])
def test_killed_runs_resume_to_the_same_bytes(
    num_kills: int, tmp_path: Path, run: Run, inputs: FrozenInputs
) -> None:
    run(tmp_path / "undisturbed.zarr", inputs, tile=2)
    undisturbed = objects(tmp_path / "undisturbed.zarr")
    rng = random.Random(20)
    kills, stores = 0, 0
    while kills < num_kills:
        stores += 1
        path = tmp_path / f"{stores}.zarr"
        killed = True
        while killed and kills < num_kills:
            before = record_files(path)
            killed = run_and_kill(path, inputs, rng)
            kills += killed
            check_killed(path, before)
        stored = set(record_files(path))
        missing = [i for i in range(19) if f"{i:06d}" not in stored]
        assert computed(run(path, inputs)) == missing
        assert objects(path) == undisturbed
        assert litter(path) == []


# ---- damaged files ---------------------------------------------------------------------------


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-3])


def flip_bit(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0x10
    path.write_bytes(data)


def empty(path: Path) -> None:
    path.write_bytes(b"")


DAMAGES = {"truncated": truncate, "flipped": flip_bit, "deleted": Path.unlink, "emptied": empty}


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("key", ["hessian/c/2/6", "hessian/c/5/3"])
def test_damaged_tile_is_found_and_repaired(
    damage: str,
    key: str,
    store: Path,
    complete: Path,
    run: Run,
    inputs: FrozenInputs,
    product: Product,
) -> None:
    DAMAGES[damage](store / key)
    certificate = certify(HessianStore(store), product)
    assert not certificate.passed
    assert (certificate.damaged, certificate.num_missing) == ([key], 0)
    events = run(store, inputs)
    # The writer of a tile is the block row of its smaller index.
    assert computed(events) == [min(int(i) for i in key.split("/")[2:])]
    assert objects(store) == objects(complete)
    assert certify(HessianStore(store), product).passed


def test_verification_is_recorded_until_the_store_changes(
    store: Path, run: Run, inputs: FrozenInputs
) -> None:
    assert verify_hessian(store).passed
    assert HessianStore(store).attributes["certificate"]["passed"] is True
    flip_bit(store / LAST_TILE)
    certificate = verify_hessian(store)
    assert not certificate.passed
    assert certificate.damaged == [LAST_TILE]
    assert HessianStore(store).attributes["certificate"]["passed"] is False
    assert computed(run(store, inputs)) == [7]
    assert "certificate" not in HessianStore(store).attributes


def test_wrong_entry_with_a_right_checksum_is_found(store: Path, product: Product) -> None:
    opened = HessianStore(store)
    record = opened.records()[7]
    rows = slice(record.row.start, record.row.stop)
    block = opened.read_part(rows, rows).copy()
    block[36 - rows.start, 36 - rows.start] *= 1.01
    sums = opened.write_block_row(record.row, "hessian", block)
    replace(record, checksums=sums).save(opened.location)
    certificate = certify(HessianStore(store), product)
    assert certificate.damaged == []
    assert not certificate.passed
    assert min(certificate.product_errors) > certificate.tolerance


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_record_is_computed_again(
    damage: str, store: Path, complete: Path, run: Run, inputs: FrozenInputs, product: Product
) -> None:
    record = store / "records" / "000001" / "zarr.json"
    if damage == "flipped":
        # Of a bit in a file of JSON some flips pass; in a key none does.
        record.write_bytes(record.read_bytes().replace(b'"checksums"', b'"chekksums"'))
    else:
        DAMAGES[damage](record)
    certificate = certify(HessianStore(store), product)
    assert (certificate.passed, certificate.num_missing) == (False, 1)
    assert computed(run(store, inputs)) == [1]
    assert objects(store) == objects(complete)
    assert certify(HessianStore(store), product).passed


def test_no_flipped_bit_in_a_record_raises_or_hides_damage(store: Path) -> None:
    opened = HessianStore(store)
    truth = opened.records()[6]
    for index in range(6):
        shutil.rmtree(store / "records" / f"{index:06d}")
    path = store / "records" / "000006" / "zarr.json"
    data, rng = path.read_bytes(), random.Random(1)
    for _ in range(300):
        flipped = bytearray(data)
        flipped[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        path.write_bytes(flipped)
        found = opened.records().get(6)
        if found is not None and found.checksums != truth.checksums:
            assert set(opened.damaged_objects([found])) <= set(truth.checksums)
            assert opened.block_rows[6] in opened.pending()


def test_damaged_inputs_are_refused(store: Path) -> None:
    flip_bit(store / "theta" / "c" / "0")
    with pytest.raises(StoreError, match=r"'theta' of .* cannot be read"):
        verify_hessian(store)


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("file", ["zarr.json", "hessian/zarr.json"])
def test_damaged_metadata_is_refused(
    damage: str, file: str, store: Path, run: Run, inputs: FrozenInputs
) -> None:
    if damage == "flipped":
        data = (store / file).read_bytes()
        (store / file).write_bytes(data.replace(b'"zarr_format": 3', b'"zarr_format": 7'))
    else:
        DAMAGES[damage](store / file)
    before = snapshot(store)
    with pytest.raises(StoreError, match="is not a readable Hessian store"):
        run(store, inputs)
    assert snapshot(store) == before


# ---- full and read-only disks ----------------------------------------------------------------


def fill(disk: Path, *, leave: int) -> Path:
    """Fill a disk up to some bytes."""
    ballast = disk / "ballast"
    free = shutil.disk_usage(disk).free
    ballast.write_bytes(bytes(max(0, free - leave)))
    return ballast


def test_full_disk_is_one_clear_message_and_the_run_goes_on(
    small_disk: Callable[[str], Path], complete: Path, run: Run, inputs: FrozenInputs
) -> None:
    disk = small_disk("size=4m")
    path = disk / "h.zarr"

    def tell(event: Any) -> None:
        if isinstance(event, RunStarted):
            fill(disk, leave=24 * 4096)

    with pytest.raises(StoreError, match=r"Cannot write to .*h\.zarr: the disk is full"):
        run(path, inputs, [tell], tile=5)
    opened = HessianStore(path)
    stored = set(opened.records())
    assert len(stored) < 8
    assert opened.damaged_objects(opened.records().values()) == {}
    open_hessian(path)
    (disk / "ballast").unlink()
    assert computed(run(path, inputs)) == sorted(set(range(8)) - stored)
    assert objects(path) == objects(complete)
    assert litter(path) == []


def test_disk_too_small_for_the_arrays_is_refused_at_once(
    small_disk: Callable[[str], Path], run: Run, inputs: FrozenInputs
) -> None:
    disk = small_disk("size=8k")
    with pytest.raises(PlanError, match=r"take up to 10\.7 KiB, but only 8 KiB are free"):
        run(disk / "h.zarr", inputs)
    assert list(disk.iterdir()) == []


def test_disk_too_small_for_the_template_leaves_nothing_behind(
    small_disk: Callable[[str], Path], run: Run, inputs: FrozenInputs
) -> None:
    disk = small_disk("size=24k")
    with pytest.raises(StoreError, match="the disk is full"):
        run(disk / "h.zarr", inputs)
    assert list(disk.iterdir()) == []


def test_read_only_store_is_left_alone(
    small_disk: Callable[[str], Path], complete: Path, run: Run, inputs: FrozenInputs
) -> None:
    disk = small_disk("size=4m")
    path = Path(shutil.copytree(complete, disk / "h.zarr"))
    shutil.rmtree(path / "records" / "000001")
    before = snapshot(path)
    subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
    with pytest.raises(StoreError, match="the file system is read-only"):
        run(path, inputs)
    with pytest.raises(StoreError, match="the file system is read-only"):
        verify_hessian(path)
    with pytest.raises(StoreError, match="the file system is read-only"):
        run(disk / "other.zarr", inputs)
    assert snapshot(path) == before


# ---- wrong inputs on the command line --------------------------------------------------------

PROBLEM = """
import numpy as np
import tensorflow as tf
from hessian_tasks import Problem, ResidualTerm
from hessian_tasks.problems.networks import mlp

def problem(weight=1.0, points=0, width=4):
    x = np.random.default_rng(points).uniform(-1, 1, (8, 1))
    fit = ResidualTerm("fit", x, lambda x, u: u.value - tf.sin(x), weight)
    return Problem(mlp(1, width=width, depth=1, dtype="float64"), [fit], "x")
"""


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory, run: Run) -> Path:
    """A problem file, an incomplete store made from it, weights and settings, all wrong."""
    place = tmp_path_factory.mktemp("workplace")
    file = place / "problem.py"
    file.write_text(PROBLEM)
    inputs = freeze_source(ProblemSource(str(file)))
    run(place / "h.zarr", inputs, tile=5)
    shutil.rmtree(place / "h.zarr" / "records" / "000001")
    model = resolve_model(mlp(1, width=4, depth=1, dtype="float64"))
    model.layers[0].bias.assign(np.full(4, 0.5))
    model.save(place / "trained.keras")
    model.layers[0].kernel.assign(np.full((1, 4), np.nan))
    model.save(place / "nan.keras")
    mlp(1, width=7, depth=1, dtype="float64").save_weights(place / "other.weights.h5")
    (place / "broken.keras").write_bytes(b"not a zip archive")
    (place / "unknown.yaml").write_text("problem: poisson\nworkers: 3\n")
    (place / "wrong.yaml").write_text("threads: many\n")
    return place


# What is given besides the problem and the store, and what the message says.
MISTAKES = {
    "nan weights": (["--weights", "nan.keras"], 1, r"NaN or infinity, first in .*hidden_1/kernel"),
    "other weights": (["--weights", "trained.keras"], 1, r"weights of the network \(theta\) diff"),
    "other network": (["--weights", "other.weights.h5"], 1, r"other\.weights\.h5 cannot be loaded"),
    "broken weights": (["--weights", "broken.keras"], 1, r"broken\.keras cannot be loaded"),
    "missing weights": (["--weights", "none.keras"], 1, r"none\.keras does not exist"),
    "term weight": (["-o", "weight=2.0"], 1, r"other inputs: .*weight of term fit"),
    "points": (["-o", "points=1"], 1, r"other inputs: .*points of term fit"),
    "width": (["-o", "width=5"], 1, r"other inputs: shapes of the network, "),
    "unknown problem option": (["-o", "height=2"], 1, r"has no option 'height'"),
    "option without value": (["-o", "width"], 2, r"'width' is not of the form name=value"),
    "tile": (["--tile", "4"], 1, r"tiles of side 5, but --tile 4 was asked"),
    "per term": (["--per-term"], 1, r"was made without Hessians of the single loss terms"),
    "memory": (["--memory", "1MiB"], 1, r"does not fit into memory: .*allowed 1 MiB"),
    "memory unit": (["--memory", "much"], 2, r"memory is 'much'"),
    "profile": (["--profile", "fibres"], 2, r"no profile 'fibres'; the profiles are threads"),
    "unknown key": (["--config", "unknown.yaml"], 2, r"unknown\.yaml: unknown key 'workers'"),
    "wrong value": (["--config", "wrong.yaml"], 2, r"wrong\.yaml: threads is 'many'"),
    "missing settings": (["--config", "none.yaml"], 2, r"none\.yaml cannot be read"),
}


def check_refusal(code: int, errors: str, expected_code: int, message: str) -> None:
    assert errors.startswith("hessian: "), errors
    assert errors.count("hessian: ") == 1
    assert "Traceback" not in errors
    assert re.search(message, errors), errors
    assert code == expected_code


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistake_is_one_message_and_changes_nothing(
    mistake: str, workplace: Path, hessian: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments, expected_code, message = MISTAKES[mistake]
    monkeypatch.chdir(workplace)
    before = snapshot(workplace)
    problem = workplace / "problem.py"
    code, _, errors = hessian("run", problem, "--store", "h.zarr", *arguments)
    check_refusal(code, errors, expected_code, message)
    assert snapshot(workplace) == before


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("# end", "# another comment", r"other inputs: problem source differs\."),
        ("tf.sin", "tf.cos", r"other inputs: .*problem source"),
        ("def problem", "def poblem", r"has no 'problem'"),
        ("return Problem", "retrun Problem", r"problem\.py failed.*SyntaxError"),
        ("mlp(1,", "mpl(1,", r"failed: NameError: name 'mpl'"),
        ("tf.sin(x)", "tf.sin(x)[:, 0]", r"residual of term 'fit' has shape \(8, 8\)"),
    ],
)
def test_changed_problem_file_is_refused(
    old: str, new: str, message: str, workplace: Path, hessian: Cli
) -> None:
    file, path = workplace / "problem.py", workplace / "h.zarr"
    before = snapshot(path)
    changed = (PROBLEM + "# end").replace(old, new)
    file.write_text(changed)
    try:
        code, _, errors = hessian("run", file, "--store", path)
    finally:
        file.write_text(PROBLEM)
    check_refusal(code, errors, 1, message)
    assert snapshot(path) == before


def test_missing_problem_and_store_are_refused(hessian: Cli, tmp_path: Path) -> None:
    code, _, errors = hessian("run", tmp_path / "none.py")
    check_refusal(code, errors, 1, r"none\.py (does not exist|cannot be read)")
    code, _, errors = hessian("run", "--store", tmp_path / "none.zarr")
    check_refusal(code, errors, 1, r"no Hessian store at .*none\.zarr")
    code, _, errors = hessian("run")
    check_refusal(code, errors, 2, r"Give a problem")
    for command in ("status", "verify", "spectrum", "info"):
        code, _, errors = hessian(command, tmp_path / "none.zarr")
        check_refusal(code, errors, 1, r"no Hessian store at .*none\.zarr")
    assert list(tmp_path.iterdir()) == []


def test_unknown_flag_is_named(hessian: Cli) -> None:
    code, _, errors = hessian("run", "poisson", "--workers", "3")
    assert code == 2
    assert "--workers" in errors
    assert "Traceback" not in errors


def test_verify_exits_with_4_when_it_fails(store: Path, hessian: Cli) -> None:
    assert hessian("verify", store)[0] == 0
    flip_bit(store / LAST_TILE)
    code, output, errors = hessian("verify", store, "--json")
    assert code == 4
    assert LAST_TILE in output
    assert errors == ""


# ---- real processes --------------------------------------------------------------------------


def test_refusal_of_a_real_process_is_one_line(workplace: Path) -> None:
    before = snapshot(workplace)
    command = [HESSIAN, "run", "problem.py", "--store", "h.zarr", "--weights", "nan.keras"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=workplace, check=False)
    check_refusal(done.returncode, done.stderr, 1, "NaN or infinity")
    assert done.stderr.count("\n") == 1
    assert snapshot(workplace) == before


def test_resume_command_quotes_the_path(tmp_path: Path) -> None:
    path, stop = tmp_path / "my store.zarr", threading.Event()
    stop.set()
    options = {"width": 4, "depth": 1}
    settings = Settings(problem="regression", options=options, store=str(path), threads=2)
    with pytest.raises(StoppedError, match="stopped; 0 of 1 block rows are stored") as stopped:
        run_settings(settings, Console(), stop)
    command = str(stopped.value).partition("Resume with: ")[2]
    assert shlex.split(command)[-1] == str(path)


def test_interrupted_command_says_how_to_resume(
    tmp_path: Path, hessian: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "h.zarr"
    options = ["-o", "width=40", "-o", "depth=1", "--tile", "4", "--store", path]
    pipe = subprocess.PIPE
    command = ["run", "regression", *options]
    with start_held("rows", 3, command, stdout=pipe, stderr=pipe) as process:
        wait_for(lambda: len(record_files(path)) == 3 or bool(process.poll()))
        process.send_signal(signal.SIGINT)
        read_until(process.stderr, "stopping")  # before it is let go
        _, errors = process.communicate()
    assert process.returncode == 3
    assert "Traceback" not in errors
    message = re.search(r"hessian: stopped; (\d+) of 31 block rows are stored. .*: (.*)", errors)
    assert message, errors
    num_stored = len(HessianStore(path).records())
    assert int(message[1]) == num_stored < 31
    code, output, errors = hessian(*shlex.split(message[2])[1:])
    assert (code, errors) == (0, "")
    assert f"resuming: {num_stored} of 31 block rows are stored" in output
    assert HessianStore(path).pending() == []
