"""Stores from strangers are data: whatever they hold, there is an answer or one clear error.

Each hostile store is a copy of a sound one that was changed by hand or by hypothesis. Beside it
lies a directory that nothing may read or write, and a problem file that nobody may run.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import psutil
import pytest
import zarr
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hessian_tasks.errors import ModelError
from hessian_tasks.frozen import FrozenInputs
from hessian_tasks.networks.architecture import model_config, model_from_config
from hessian_tasks.source import ProblemSource
from pipeline import open_store, verify_hessian
from pipeline.analysis.pictures import matrix_picture, save
from pipeline.errors import ProblemError, StoreError
from pipeline.run.inputs import freeze_source
from pipeline.store.metadata import Attributes
from pipeline.store.places import locate
from pipeline.store.seal import SEAL, sealed
from pipeline.store.store import HessianStore
from tests.helpers.forged import forge_arrays
from tests.helpers.runs import Cli, Run


@pytest.fixture(scope="module")
def sound(inputs: FrozenInputs, run: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("sound") / "h.zarr"
    run(path, inputs, tile=5)
    return path


@pytest.fixture
def store(sound: Path, tmp_path: Path) -> Path:
    """A copy of a sound store, in a directory of its own."""
    return Path(shutil.copytree(sound, tmp_path / "inside" / "h.zarr"))


_watched: list[str] = []
_touched: list[str] = []
_opened: list[str] = []
# Files that answers to four questions may open; here they open at most 393.
MOST_OPENED = 2000


def _listen(event: str, arguments: tuple[Any, ...]) -> None:
    if event == "open":
        _opened.append(event)
    # Opening, listing, removing, renaming and making directories: the file system's audit events.
    if _watched and event.split(".")[0] in ("open", "os", "shutil"):
        paths = [os.fsdecode(a) for a in arguments if isinstance(a, str | bytes | os.PathLike)]
        _touched.extend(p for p in paths if os.path.realpath(p).startswith(_watched[0]))


sys.addaudithook(_listen)


@pytest.fixture
def outside(tmp_path: Path) -> Iterator[Path]:
    """A directory that nothing may open a file of, by whatever name."""
    directory = tmp_path / "outside"
    directory.mkdir()
    (directory / "secret").write_bytes(b"secret")
    _touched.clear()
    _watched.append(os.path.realpath(directory))
    yield directory
    _watched.clear()
    assert _touched == []


def change(path: Path, key: str, **values: Any) -> None:
    """Replace attributes, or with a dotted key what is nested in a file of metadata.

    Seals are renewed, as whoever means harm would do.
    """
    file = path / key
    data = json.loads(file.read_text())
    for dotted, value in values.items():
        *parents, last = dotted.split("__")
        target = data
        for parent in parents:
            target = target[int(parent) if parent.isdigit() else parent]
        target[int(last) if last.isdigit() else last] = value
    file.write_text(json.dumps(sealed_again(data)))


def sealed_again(data: Any) -> Any:
    attributes = data.get("attributes") if isinstance(data, dict) else None
    if isinstance(attributes, dict) and SEAL in attributes:
        return {**data, "attributes": sealed(attributes)}
    return data


def ask_everything(path: Path, hessian: Cli) -> list[str]:
    """What each way of reading says; asserts that it says it clearly, and reads little for it.

    What would take for ever ends by the time limit of all tests.
    """
    said = []
    _opened.clear()
    for command in ("status", "info", "spectrum"):
        code, output, errors = hessian(command, path)
        assert code in (0, 1), output
        assert "Traceback" not in errors
        if code == 0 and command in ("info", "spectrum"):
            assert errors.startswith("hessian: not verified yet: hessian verify ")
            errors = ""
        assert (code == 0) == (errors == "")
        assert errors.count("\n") <= 1
        assert "\x1b" not in output + errors
        said.append(errors)
    try:
        open_store(path)
        said.append("")
    except StoreError as error:
        said.append(str(error))
    assert len(_opened) < MOST_OPENED
    return said


DEEP = '{"attributes":' + "[" * 100_000
ROOTS: dict[str, bytes] = {
    "deep": DEEP.encode(),
    "list": b"[]",
    "latin": '{"attributes": "é"}'.encode("latin-1"),
    "empty": b"",
    "of another Zarr": b'{"zarr_format": 2, "node_type": "group", "attributes": {}}',
    "huge number": b'{"attributes": {"format_version": 1e999}}',
    "long number": b'{"attributes": {"format_version": ' + b"9" * 100_000 + b"}}",
}


@pytest.mark.parametrize("root", ROOTS)
def test_metadata_that_are_none_are_refused(root: str, store: Path, hessian: Cli) -> None:
    (store / "zarr.json").write_bytes(ROOTS[root])
    assert all("readable" in said or "format" in said for said in ask_everything(store, hessian))


def test_giant_metadata_are_not_read(store: Path, hessian: Cli) -> None:
    with (store / "zarr.json").open("r+b") as file:
        file.truncate(2**40)  # of which the disk holds nothing
    assert all("where at most" in said for said in ask_everything(store, hessian))


TRAPS = ["../../outside", "../outside/secret", "/etc/passwd", "a/../../b", "", "\x1b[31m"]


@pytest.mark.parametrize("trap", TRAPS)
@pytest.mark.parametrize(
    "place", ["arrays__0__name", "terms__0__name", "terms__0__arrays__0", "arrays__0__term"]
)
def test_names_stay_inside(trap: str, place: str, store: Path, outside: Path, hessian: Cli) -> None:
    change(store, "zarr.json", **{f"attributes__{place}": trap})
    assert all("readable" in said for said in ask_everything(store, hessian))


ATTRIBUTES: dict[str, Any] = {
    "tile": 0,
    "engine": "os.system",
    "engine_reason": "\u202eesrever",
    "arrays__0__term": "fit",
    "arrays__0__name": "theta",
    "parameters": [{"layer": "a", "name": "b", "shape": [10**18]}],
    "parameters__0__shape": [-5],
    "parameters__0__name": "kernel\x1b]0;owned\x07",
    "loss": "NaN",
    "terms__0__weight": None,
    "fingerprint": {"dtype\x1b[31m\n": "float32"},
    "provenance": {},
    "source__reference": "poisson\nhessian: all is well",
    "certificate": {"passed": "yes", "product_errors": ["1"]},
    "jacobians": [{"name": "nowhere", "term": "t"}],
    "arrays": [],
}


@pytest.mark.parametrize("key", ATTRIBUTES)
def test_attributes_are_checked(key: str, store: Path, hessian: Cli) -> None:
    change(store, "zarr.json", **{f"attributes__{key}": ATTRIBUTES[key]})
    assert all("readable" in said for said in ask_everything(store, hessian))


ARRAYS: list[tuple[str, Any]] = [
    ("shape", [10**9, 10**9]),
    ("shape", [10**30]),
    ("shape", ["37", 37]),
    ("chunk_grid__configuration__chunk_shape", [10**9, 10**9]),
    ("chunk_grid__configuration__chunk_shape", [0, 5]),
    ("chunk_grid__name", "rectilinear"),
    ("codecs", [{"name": "bytes"}, {"name": "numcodecs.pickle"}]),
    ("codecs", [{"name": "bytes"}, {"name": "blosc", "configuration": {}}]),
    ("codecs__1__name", "zstd"),
    ("data_type", "object"),
    ("data_type", {"name": "numpy.datetime64", "configuration": {}}),
    ("fill_value", {"__reduce__": "os.system"}),
    ("storage_transformers", [{"name": "x"}]),
    ("chunk_key_encoding", {"name": "v2", "configuration": {"separator": "../"}}),
    ("node_type", "group"),
    ("attributes", {"flag_meanings": [1, 2]}),
    ("dimension_names", ["a", "a", "a"]),
]


@pytest.mark.parametrize(("key", "value"), ARRAYS)
@pytest.mark.parametrize("array", ["hessian", "theta", "row_layer"])
def test_arrays_are_checked(key: str, value: Any, array: str, store: Path, hessian: Cli) -> None:
    change(store, f"{array}/zarr.json", **{key: value})
    said = ask_everything(store, hessian)
    # Only a dataset needs what these say.
    assert said[3] != ""


def json_values() -> st.SearchStrategy[Any]:
    leaves = (
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5)
        | st.sampled_from([*TRAPS, 10**12, -1, 10**400, "hessian", "float32"])
    )  # fmt: skip

    def nest(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
        return st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner)

    return st.recursive(leaves, nest, max_leaves=6)


def places(data: Any, at: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """All places in JSON data."""
    items = data.items() if isinstance(data, dict) else enumerate(data)
    for key, value in items:
        yield (*at, key)
        if isinstance(value, dict | list):
            yield from places(value, (*at, key))


FILES = ["zarr.json", "hessian/zarr.json", "theta/zarr.json", "row_variable/zarr.json",
         "records/000003/zarr.json"]  # fmt: skip


@settings(
    max_examples=60, deadline=None, derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)  # fmt: skip
@given(data=st.data())
def test_no_change_of_metadata_is_more_than_an_error(
    data: st.DataObject, store: Path, outside: Path, hessian: Cli
) -> None:
    file = store / data.draw(st.sampled_from(FILES))
    kept = file.read_bytes()
    try:
        if data.draw(st.booleans()):
            changed = json.loads(kept)
            place = data.draw(st.sampled_from(list(places(changed))))
            target = changed
            for key in place[:-1]:
                target = target[key]
            target[place[-1]] = data.draw(json_values())
            seal = data.draw(st.booleans())
            file.write_text(json.dumps(sealed_again(changed) if seal else changed))
        else:
            start = data.draw(st.integers(0, len(kept)))
            stop = data.draw(st.integers(start, min(len(kept), start + 20)))
            file.write_bytes(kept[:start] + data.draw(st.binary(max_size=20)) + kept[stop:])
        ask_everything(store, hessian)
    finally:
        file.write_bytes(kept)


@pytest.mark.parametrize("key", ["records/000001/zarr.json", "hessian/c/2", "hessian", "theta/c/0"])
def test_symbolic_links_do_not_lead_out(
    key: str, store: Path, outside: Path, hessian: Cli, run: Run, inputs: FrozenInputs
) -> None:
    target = store / key
    target.rename(outside / "moved")
    target.symlink_to(outside / "moved")
    _touched.clear()  # by the lines above
    said = ask_everything(store, hessian)
    if key == "theta/c/0":
        with pytest.raises(StoreError, match="leads out of the store"):
            verify_hessian(store)
    else:
        assert any("leads out of the store" in text for text in said)
        with pytest.raises(StoreError, match="leads out of the store"):
            run(store, inputs)


def test_no_pipe_is_waited_for(store: Path, hessian: Cli, run: Run, inputs: FrozenInputs) -> None:
    for key in ("hessian/c/2/2", "records/000003/zarr.json"):
        (store / key).unlink()
        os.mkfifo(store / key)
    assert "7 of 8 stored" in hessian("status", store)[1]
    assert "lacks 1 of 8" in ask_everything(store, hessian)[2]
    # A run replaces them.
    run(store, inputs)
    assert HessianStore(store).pending() == []


@pytest.mark.parametrize("damage", [b"", b"nonsense" * 9, None])
def test_tiles_that_are_none_are_one_clear_error(
    damage: bytes | None, store: Path, hessian: Cli
) -> None:
    tile = store / "hessian/c/2/2"
    if damage is None:
        tile.unlink()
    else:
        tile.write_bytes(damage)
    said = ask_everything(store, hessian)
    assert ("it is missing" if damage is None else "hessian/c/2/2") in said[2]
    picture = ["--picture", store.with_name("h.png")]
    assert "Traceback" not in hessian("info", store, *picture)[2]


@pytest.mark.parametrize("key", ["hessian/c/2/2", "theta/c/0"])
@pytest.mark.parametrize("change", [-1, 1])
def test_objects_of_another_size_are_not_decoded(
    change: int, key: str, store: Path, hessian: Cli
) -> None:
    size = (store / key).stat().st_size
    (store / key).write_bytes(bytes(size + change))
    errors = hessian("spectrum", store)[2]
    assert key in errors
    # What is larger than it can be is not even read, and a tile counts as missing then.
    expected = {("hessian/c/2/2", -1): "made to do harm", ("hessian/c/2/2", 1): "it is missing"}
    expected |= {("theta/c/0", -1): "its checksum", ("theta/c/0", 1): "at most"}
    assert expected[key, change] in errors


def test_objects_that_are_larger_than_they_can_be_are_not_read(store: Path, hessian: Cli) -> None:
    with (store / "hessian/c/2/2").open("r+b") as file:
        file.truncate(2**40)  # of which the disk holds nothing
    assert "it is missing" in ask_everything(store, hessian)[2]


def test_inputs_that_no_memory_holds_are_not_read(
    store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def enlarge(attributes: dict[str, Any]) -> None:
        attributes["input_arrays"][name]["shape"][0] = 2**28

    name = "fit_x"
    forge_arrays(store, enlarge)
    os.truncate(store / name / "c/0/0", 2**31 + 4)  # of which the disk holds nothing
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=2**30))
    with pytest.raises(StoreError, match=rf"{name}/c/0/0 of .* take .* but only .* are free"):
        HessianStore(store)


def test_layers_in_any_order_are_drawn(store: Path, tmp_path: Path) -> None:
    def interleave(attributes: dict[str, Any]) -> None:
        first, _, third, *_ = attributes["parameters"]
        third.update(layer=first["layer"], name="third")

    forge_arrays(store, interleave)
    save(matrix_picture(HessianStore(store)), tmp_path / "h.png")
    assert (tmp_path / "h.png").stat().st_size > 1000


@pytest.mark.filterwarnings("ignore:.*written anew")
@pytest.mark.parametrize("key", ["zarr.json", "theta/c/0", "hessian/c/2/2"])
def test_directories_in_place_of_files_are_named(
    key: str, store: Path, inputs: FrozenInputs, run: Run
) -> None:
    (store / key).unlink()
    (store / key).mkdir()
    with pytest.raises(StoreError, match=rf"{key} is a directory, where a file belongs\. Move"):
        run(store, inputs, tile=5)
    (store / key).rmdir()
    run(store, inputs, tile=5)
    assert HessianStore(store).pending() == []


def test_records_of_another_size_count_for_nothing(store: Path, hessian: Cli) -> None:
    for values in (
        {"attributes__row__stop": 10**9},
        {"attributes__checksums": {"../../outside/secret": 1}},
        {"attributes__statistics__hessian__trace": "1"},
        {"attributes__statistics__hessian__squares": float("nan")},
        {"attributes__statistics": {}},
    ):
        kept = (store / "records/000003/zarr.json").read_bytes()
        change(store, "records/000003/zarr.json", **values)
        assert set(HessianStore(store).records()) == set(range(8)) - {3}
        (store / "records/000003/zarr.json").write_bytes(kept)


def test_arrays_that_nobody_vouches_for_are_not_shown(store: Path) -> None:
    zarr.create_array(store / "extra", shape=(10**9, 10**9), chunks=(10**6, 10**6), dtype="f8")
    assert "extra" not in open_store(store)


def test_what_a_template_says_is_what_is_checked(sound: Path) -> None:
    attributes = json.loads((sound / "zarr.json").read_text())["attributes"]
    checked = Attributes.model_validate_json(json.dumps(attributes))
    assert checked.model_dump(by_alias=True, exclude_defaults=True).items() <= attributes.items()


# ---- problem files ------------------------------------------------------------------------------

PROBLEM = """
from pathlib import Path
Path(__file__).with_name("ran").touch()
from hessian_tasks.problems import regression

def problem(width=50, depth=3, num_samples=200):
    return regression.problem(width, depth, num_samples)
"""


@pytest.fixture
def dropped(tmp_path: Path) -> Path:
    """A problem file that somebody has put somewhere, and that tells if it is run."""
    file = tmp_path / "dropped.py"
    file.write_text(PROBLEM)
    return file


def name_problem(store: Path, file: Path) -> None:
    source = ProblemSource(str(file))
    change(
        store, "zarr.json",
        attributes__source={"reference": source.reference, "options": {}, "digest": source.digest,
                            "text": source.text},
        attributes__fingerprint={"problem source": source.digest},
    )  # fmt: skip


def test_a_file_that_only_a_store_names_is_not_run(
    store: Path, dropped: Path, hessian: Cli
) -> None:
    name_problem(store, dropped)
    for command in (["verify", store], ["run", "--store", store]):
        code, _, errors = hessian(*command)
        assert (code, errors.count("\n")) == (1, 1)
        assert f"hessian verify {store} --problem {dropped}:problem, or hessian run" in errors
    with pytest.raises(ProblemError, match="was not named by you before"):
        verify_hessian(store)
    assert not dropped.with_name("ran").exists()


def test_a_file_is_named_once_until_it_changes(
    store: Path, dropped: Path, hessian: Cli, tmp_path: Path
) -> None:
    options = ["-o", "width=12", "-o", "depth=1", "-o", "num_samples=20"]
    own = tmp_path / "own.zarr"
    assert hessian("run", dropped, *options, "--store", own)[0] == 0
    assert "verified" in hessian("verify", own)[1]
    assert hessian("run", "--store", own)[0] == 0
    dropped.write_text(f"{PROBLEM}\n# changed\n")
    assert "has changed since you last named it" in hessian("verify", own)[2]
    # By --problem it is named again.
    assert hessian("verify", own, "--problem", dropped, *options)[0] == 0
    assert hessian("verify", own)[0] == 0


def test_without_a_place_to_remember_files_are_named_each_time(
    dropped: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "state").write_text("no directory")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    freeze_source(ProblemSource(str(dropped), {"width": 4}))
    from pipeline.store.trust import check_named

    with pytest.raises(ProblemError, match="was not named by you before"):
        check_named(ProblemSource(str(dropped)), "a store")


# ---- networks -----------------------------------------------------------------------------------


def network(layer: dict[str, Any]) -> str:
    import keras

    config = json.loads(model_config(keras.Sequential([keras.Input((2,)), keras.layers.Dense(3)])))
    config["config"]["layers"].append(layer)
    return json.dumps(config)


LAYERS: dict[str, dict[str, Any]] = {
    "lambda": {"module": "keras.layers", "class_name": "Lambda", "config": {"function": "x"}},
    "nested lambda": {"module": "keras.layers", "class_name": "TimeDistributed", "config": {
        "layer": {"module": "keras.layers", "class_name": "Lambda", "config": {"function": "x"}}}},
    "code": {"class_name": "__lambda__", "module": "builtins", "config": {"value": "abc"}},
    "module": {"module": "os", "class_name": "system", "config": {"command": "touch ran"}},
    "function": {"module": "subprocess", "class_name": "function", "config": "run"},
    "saved model": {"module": "keras.layers", "class_name": "TFSMLayer",
                    "config": {"filepath": "/"}},
    "file": {"module": "keras.layers", "class_name": "StringLookup",
             "config": {"vocabulary": "/etc/passwd"}},
    "download": {"module": "keras.utils", "class_name": "get_file",
                 "config": {"origin": "http://x"}},
    "hidden": {"module": "keras.src.utils.file_utils", "class_name": "get_file", "config": {}},
    "giant": {"module": "keras.layers", "class_name": "Dense", "config": {"units": 10**13}},
    "nonsense": {"module": "keras.layers", "class_name": "Dense", "config": {"units": "many"}},
}  # fmt: skip


@pytest.mark.parametrize("layer", LAYERS)
def test_networks_are_built_of_layers_alone(layer: str) -> None:
    with pytest.raises(ModelError):
        model_from_config(network(LAYERS[layer]), num_weights=9)


def test_network_of_another_size_is_refused_before_it_is_built() -> None:
    layer = {"module": "keras.layers", "class_name": "Dense", "config": {"units": 10**12}}
    with pytest.raises(ModelError, match="describes 4000000000009 weights, but 9 were recorded"):
        model_from_config(network(layer), num_weights=9)


def test_locations_name_files_and_urls(tmp_path: Path) -> None:
    assert locate(f"file://{tmp_path}/h.zarr") == locate(tmp_path / "h.zarr")
    with pytest.raises(FileNotFoundError):
        locate(tmp_path).read("nothing")
    assert np.array_equal(locate(tmp_path).each(len, ["a", "bb"]), [1, 2])
