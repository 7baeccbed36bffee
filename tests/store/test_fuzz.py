"""Whatever is changed in a store, a read of it gives the right numbers or one of our errors.

What is changed is drawn from the store itself, so that every object and every key of its metadata
comes up. Where metadata are sealed again after the change, as whoever means harm would do, numbers
that only the seal vouches for may differ, and nothing else.
"""

import json
import shutil
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hessian_tasks.source import ProblemSource
from pipeline import HessianError, matrix_statistics, open_hessian, spectrum, verify_hessian
from pipeline.run.inputs import freeze_source
from pipeline.store.seal import group_json
from pipeline.store.store import HessianStore
from tests.helpers.runs import Run

OPTIONS = {"width": 3, "depth": 1, "num_interior": 4, "num_boundary": 4, "dtype": "float64"}
Expected: TypeAlias = dict[bool, dict[str, Any]]
MAX_BYTES = 200 * 2**20
VALUES: list[Any] = [
    None, True, False, 0, -1, 1, 7, 10**6, 10**12, 10**400, 0.5, 1e300, float("nan"), float("inf"),
    "", "x", "NaN", "../theta", "\x1b[2J\x07", "float16", "object", "y" * 20_000, [], [1], {},
    {"name": "zstd"}, [[[[[[[]]]]]]], ["hidden_1"] * 40,
]  # fmt: skip
KEYS = ["scale_factor", "add_offset", "_FillValue", "dtype", "units", "calendar", "storage", "x"]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, run: Run) -> Path:
    path = tmp_path_factory.mktemp("whole") / "h.zarr"
    run(path, freeze_source(ProblemSource("poisson", OPTIONS)), tile=5, per_term=True)
    verify_hessian(path)
    return path


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("copy") / "h.zarr"


def ask(path: Path) -> dict[str, Any]:
    """Everything that can be read of a store, by what it is called."""
    store, dataset = HessianStore(path), open_hessian(path)
    found: dict[str, Any] = {name: dataset[name].values for name in dataset.variables}
    for term in store.arrays:
        statistics = matrix_statistics(store, term)
        found[f"statistics {term}"] = statistics.to_json()
        found[f"spectrum {term}"] = spectrum(store, term).to_json()
    found["certificate"] = store.attributes.get("certificate")
    found["loss"] = store.attributes["loss"]
    found["terms"] = store.attributes["terms"]
    found["theta by itself"] = store.read("theta")
    return found


def differing(found: dict[str, Any], expected: dict[str, Any]) -> list[str]:
    assert set(found) == set(expected)
    return [
        name for name in expected if not np.array_equal(*map(flat, (found[name], expected[name])))
    ]


def flat(value: Any) -> Any:
    return value if isinstance(value, np.ndarray) else np.array(json.dumps(value))


def paths(value: Any, here: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The ways to everything inside of JSON data."""
    yield here
    items: Any = value.items() if isinstance(value, dict) else ()
    items = enumerate(value) if isinstance(value, list) else items
    for key, inner in items:
        yield from paths(inner, (*here, key))


@st.composite
def changes(draw: st.DrawFn, path: Path) -> tuple[str, bool]:
    """Change a store; says what was done, and whether metadata were sealed again."""
    keys = sorted(str(p.relative_to(path)) for p in path.rglob("*") if p.is_file())
    key = draw(st.sampled_from(keys))
    file = path / key
    data = file.read_bytes()
    kinds = ["json", "sealed", "json", "sealed"] if key.endswith(".json") else []
    kind = draw(st.sampled_from(["delete", "cut", "flip", "swap", "grow", *kinds]))
    if kind == "delete":
        file.unlink()
    elif kind == "cut":
        file.write_bytes(data[: draw(st.integers(0, len(data) - 1))])
    elif kind == "flip":
        changed = bytearray(data)
        changed[draw(st.integers(0, len(data) - 1))] ^= 1 << draw(st.integers(0, 7))
        file.write_bytes(changed)
    elif kind == "grow":
        file.write_bytes(data + draw(st.sampled_from([b"\0", data, b" " * 1000])))
    elif kind == "swap":
        other = path / draw(st.sampled_from(keys))
        theirs = other.read_bytes()
        other.write_bytes(data)
        file.write_bytes(theirs)
    else:
        kind += change_json(draw, file, kind == "sealed")
    return f"{key}: {kind}", kind.startswith("sealed")


def change_json(draw: st.DrawFn, file: Path, seal: bool) -> str:
    content = json.loads(file.read_bytes())
    way = draw(st.sampled_from(list(paths(content))[1:]))
    place = content
    for key in way[:-1]:
        place = place[key]
    what = draw(st.sampled_from(["set", "set", "drop", "add"]))
    value = draw(st.sampled_from(VALUES))
    if what == "set":
        place[way[-1]] = value
    elif what == "drop":
        del place[way[-1]]
    elif isinstance(place, dict):
        place[draw(st.sampled_from(KEYS))] = value
    else:
        place.append(value)
    sealable = seal and isinstance(content.get("attributes"), dict)
    group = sealable and content.get("node_type") == "group"
    file.write_bytes(group_json(content["attributes"]) if group else json.dumps(content).encode())
    return f" {what} {way} {str(value)[:40]}"


def outcome(path: Path) -> dict[str, Any] | HessianError:
    try:
        return ask(path)
    except HessianError as error:
        return error


def check(whole: Path, copy: Path, data: st.DataObject, expected: Expected) -> None:
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(whole, copy)
    what, sealed = data.draw(changes(copy))
    judge(outcome(copy), copy, expected, what, sealed)


def judge(
    found: dict[str, Any] | HessianError, copy: Path, expected: Expected, what: str, sealed: bool
) -> None:
    if isinstance(found, HessianError):
        assert str(copy) in str(found), what
        assert str(found).isprintable(), what
    else:
        # Shown from the root alone; `hessian verify` compares the loss with the problem's.
        believed = {"certificate", "loss", "terms"} if sealed else set()
        verified = found["certificate"] is not None
        assert set(differing(found, expected[verified])) <= believed, what


@pytest.fixture(scope="module")
def expected(whole: Path, copy: Path) -> Expected:
    """What a store says, by whether it has a certificate; without one its floors are others."""
    shutil.copytree(whole, copy)
    (copy / "zarr.json").write_bytes((whole / "records" / "zarr.json").read_bytes())
    return {True: ask(whole), False: ask(copy)}


def test_the_root_as_it_was_created_is_that_of_a_store_that_is_not_verified(
    whole: Path, copy: Path, expected: Expected
) -> None:
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(whole, copy)
    root, records = copy / "zarr.json", copy / "records" / "zarr.json"
    first, second = root.read_bytes(), records.read_bytes()
    root.write_bytes(second)
    records.write_bytes(first)
    assert HessianStore(copy).attributes.get("certificate") is None
    judge(outcome(copy), copy, expected, "swapped", sealed=False)


RULES = settings(
    deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large]
)


@settings(RULES, max_examples=40)
@given(data=st.data())
def test_a_changed_store_is_refused_or_right(
    whole: Path, copy: Path, expected: Expected, data: st.DataObject
) -> None:
    check(whole, copy, data, expected)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@settings(RULES, max_examples=1000)
@given(data=st.data())
def test_a_changed_store_is_refused_or_right_a_thousand_times(
    whole: Path, copy: Path, expected: Expected, data: st.DataObject
) -> None:
    tracemalloc.start()
    try:
        check(whole, copy, data, expected)
        assert tracemalloc.get_traced_memory()[1] < MAX_BYTES
    finally:
        tracemalloc.stop()
