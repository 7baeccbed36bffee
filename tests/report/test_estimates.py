"""Reports of kept estimates: what they say, against the dense matrix, and from strangers."""

from __future__ import annotations

import itertools
import json
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hessian_tasks.parameters import ParameterLayout
from hessian_tasks.source import ProblemSource
from pipeline import RunOptions, compute_hessian
from pipeline.api import rebuild_problem
from pipeline.errors import HessianError, StoreError
from pipeline.estimates.estimates import EstimateOptions, estimate
from pipeline.estimates.kept import KeptEstimates, save
from pipeline.estimates.operator import operator_of
from pipeline.report import write_report
from pipeline.report._estimated import estimates_page
from pipeline.report._evaluated import CHANGES, SLICES
from pipeline.report._layers import DIAGONAL, diagonal_section
from pipeline.report._page import Page
from pipeline.run.inputs import freeze_source, stored_inputs
from pipeline.store.store import HessianStore
from tests.helpers.runs import Cli
from tests.report.chromium import browser
from tests.report.test_pages import HOSTILE, Tags, left_out, numbers, read_table
from tests.store.test_hostile import TRAPS, change, json_values, places

Array = Any

FILE = """
from hessian_tasks.problems import poisson

def problem():
    return poisson.problem(8, 2, 60, 50, 0, "float64")
"""
PAIRS = 3


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The matrix of a problem, estimates of it with all that can be asked for, and their report."""
    folder = tmp_path_factory.mktemp("report")
    file = folder / "own.py"
    file.write_text(FILE)
    compute_hessian(file, folder / "h.zarr", options=RunOptions(num_threads=2))
    asked = EstimateOptions(num_pairs=PAIRS, num_density=2, num_diagonal=60)
    keep(folder / "e.zarr", file, asked)
    page = write_report(folder / "e.zarr")
    assert page == folder / "e-report" / "report.html"
    return folder


def keep(path: Path, problem: Path | str, options: EstimateOptions, **changes: Any) -> None:
    frozen = freeze_source(ProblemSource(str(problem)))
    operator = operator_of(frozen, matrix=options.matrix, term=options.term, num_threads=2)
    found = estimate(operator, frozen.loss, options)
    save(replace(found, **changes), frozen, path)


@pytest.fixture
def copy(folder: Path, tmp_path: Path) -> Path:
    """A copy of the estimates that a test may spoil."""
    return Path(shutil.copytree(folder / "e.zarr", tmp_path / "inside" / "e.zarr"))


def dense(folder: Path) -> Array:
    return np.asarray(HessianStore(folder / "h.zarr").hessian()[...])


def table(folder: Path, name: str) -> dict[str, list[str]]:
    return read_table(folder / f"e-report/tables/{name}.csv")


def facts(page: Page) -> dict[str, tuple[str, str]]:
    return {name: (value, bound) for name, value, bound in page.facts}


def test_eigenvalues_are_those_of_the_dense_matrix(folder: Path) -> None:
    values = np.linalg.eigvalsh(dense(folder))[::-1]
    found = table(folder, "eigenvalues")
    ranks = numbers(found, "rank").astype(int)
    assert ranks.tolist() == [1, 2, 3, len(values) - 2, len(values) - 1, len(values)]
    errors = np.abs(numbers(found, "eigenvalue") - values[ranks - 1])
    assert np.all(errors <= numbers(found, "±"))
    assert np.all(numbers(found, "±") < 1e-6 * values[0])
    assert np.all(numbers(found, "residual") < numbers(found, "±"))


def test_headline_has_the_bounds_of_each_number(folder: Path) -> None:
    matrix = dense(folder)
    page = estimates_page(KeptEstimates(folder / "e.zarr"), stored_only=True)
    found = facts(page)
    assert page.title == "Hessian of own.py:problem"
    store = HessianStore(folder / "h.zarr")
    assert float(found["loss"][0]) == pytest.approx(store.attributes["loss"], rel=1e-5)
    norm = float(np.linalg.norm(store.read("gradient")))
    assert found["loss"][1] == f"gradient norm {norm:.3g}"
    exact = {"trace": np.trace(matrix), "Frobenius norm": np.linalg.norm(matrix)}
    for name, value in exact.items():
        error = float(found[name][1].split()[1].rstrip(","))
        # Four standard errors; as much again as the headline says.
        assert abs(float(found[name][0]) - value) <= 2 * error
    values = np.abs(np.linalg.eigvalsh(matrix))
    known = values[[*range(PAIRS), *range(-PAIRS, 0)]]
    assert found["condition number"][0] == f"at least {known.max() / known.min():.3g}"
    assert known.max() / known.min() < values.max() / values.min()
    assert "another path" in found["noise floor"][1]


def test_participation_is_that_of_the_dense_matrix(folder: Path) -> None:
    _, vectors = np.linalg.eigh(dense(folder))
    layout = HessianStore(folder / "h.zarr").layout
    first = layout.labels()["layer"] == 0
    expected = np.sum(vectors[first][:, [-1, -2, -3, 2, 1, 0]] ** 2, axis=0)
    found = numbers(table(folder, "participation"), layout.layers()[0])
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_the_diagonal_is_summed_up_by_variable(folder: Path) -> None:
    diagonal = np.diag(dense(folder))
    found = table(folder, "diagonal")
    for position, variable in enumerate(HessianStore(folder / "h.zarr").layout.variables):
        exact = diagonal[variable.offset : variable.stop].sum()
        error = numbers(found, "±")[position]
        assert abs(numbers(found, "trace")[position] - exact) <= 2 * error
        assert error < np.abs(diagonal).sum()


def test_the_error_of_a_sum_of_the_diagonal_is_covered() -> None:
    """By counting all vectors of signs: twice the deviation, and not more within one block."""
    half = np.random.default_rng(0).standard_normal((6, 6))
    matrix = half + half.T
    layout = ParameterLayout.of([("a/kernel", (4,)), ("b/kernel", (2,))])
    samples = np.array(
        [signs * (matrix @ signs) for signs in itertools.product([-1.0, 1.0], repeat=6)]
    )
    entries = samples.std(axis=0)
    section = diagonal_section(layout, samples.mean(axis=0), entries)
    columns = section.tables[0].columns
    np.testing.assert_allclose(
        columns["trace"], [np.trace(matrix[:4, :4]), np.trace(matrix[4:, 4:])]
    )
    exact = [samples[:, :4].sum(axis=1).std(), samples[:, 4:].sum(axis=1).std()]
    assert np.all(np.array(columns["±"]) >= 2 * np.array(exact))
    whole = diagonal_section(ParameterLayout.of([("a/kernel", (6,))]), np.zeros(6), entries)
    total = 2 * samples.sum(axis=1).std()
    np.testing.assert_allclose(whole.tables[0].columns["±"], [total])


def test_slices_curve_as_the_dense_matrix_says(folder: Path) -> None:
    matrix = dense(folder)
    loss = HessianStore(folder / "h.zarr").attributes["loss"]
    values = np.linalg.eigvalsh(matrix)
    for number, value in ((1, values[-1]), (2, values[-2]), (3, values[0])):
        found = table(folder, f"slice-{number}")
        assert "predicted pde" not in found
        steps, *_ = (numbers(found, name) for name in found if name.startswith("step"))
        middle, step = len(steps) // 2, np.diff(steps)[0]
        predicted, actual = numbers(found, "predicted total"), numbers(found, "actual total")
        np.testing.assert_allclose([actual[middle], predicted[middle]], loss, rtol=1e-12)
        # Differences of neighbours lose ε L / step².
        second = np.diff(predicted, 2) / step**2
        np.testing.assert_allclose(second, value, rtol=1e-6, atol=1e-14 * loss / step**2)
        near = slice(middle - 1, middle + 2)
        change = np.abs(predicted[near] - loss).max()
        assert np.abs(actual[near] - predicted[near]).max() < 0.1 * change


def test_what_the_model_on_the_plane_leaves_out_is_bounded(folder: Path) -> None:
    page = (folder / "e-report/report.html").read_text()
    said = re.search(r"at most ([0-9.e-]+) of α β", page)
    assert said is not None
    vectors = KeptEstimates(folder / "e.zarr").spectrum().vectors
    assert vectors is not None
    mixed = vectors[:, 0] @ dense(folder) @ vectors[:, -1]
    assert abs(mixed) <= 1.1 * float(said[1])


def test_the_density_is_shown_with_its_counts(folder: Path) -> None:
    values = np.linalg.eigvalsh(dense(folder))
    found = table(folder, "counts")
    names = [f"{w} the noise floor" for w in ("below", "within", "above")]
    assert found["eigenvalues"][:3] == names
    expected = np.array([np.sum(values < 0), 0, np.sum(values > 0)])
    low, high = (numbers(found, name)[:3] for name in ("at least", "at most"))
    assert ((low >= 0) & (high <= len(values)) & (low <= high)).all()
    # As much again as a 95 % interval is wide, to either side.
    slack = high - low + 1e-6
    assert ((low - slack <= expected) & (expected <= high + slack)).all()
    assert (folder / "e-report/pictures/density.png").read_bytes().startswith(b"\x89PNG")


def test_what_was_not_asked_for_says_how_to_get_it(folder: Path, tmp_path: Path) -> None:
    keep(tmp_path / "e.zarr", folder / "own.py", EstimateOptions(num_pairs=1, term="pde"))
    kept = KeptEstimates(tmp_path / "e.zarr")
    page = estimates_page(kept)
    reasons = left_out(page)
    assert list(reasons) == ["Spectrum", DIAGONAL, SLICES]
    assert "hessian estimate --density" in reasons["Spectrum"]
    assert "hessian estimate --diagonal" in reasons[DIAGONAL]
    assert "term pde alone" in reasons[SLICES]
    assert page.title == "Hessian of term pde of own.py:problem"
    assert facts(page)["loss"][1].endswith(", both of all terms")
    reasons = left_out(estimates_page(kept, stored_only=True))
    assert reasons[SLICES] == reasons[CHANGES] == "--stored-only was given."


def test_where_all_eigenvalues_are_known_they_are_counted(tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text(FILE.replace("(8, 2,", "(4, 1,"))
    compute_hessian(tmp_path / "own.py", tmp_path / "h.zarr", options=RunOptions(num_threads=2))
    keep(tmp_path / "e.zarr", tmp_path / "own.py", EstimateOptions(num_pairs=9))
    page = estimates_page(KeptEstimates(tmp_path / "e.zarr"), stored_only=True)
    values = np.linalg.eigvalsh(dense(tmp_path))
    assert len(values) == 17
    found = facts(page)
    assert found["negative eigenvalues"][0] == str(np.sum(values < 0))
    size = np.abs(values)
    assert found["condition number"][0] == f"{size.max() / size.min():.3g}"
    listed = page.sections[0].tables[0].columns
    np.testing.assert_allclose(listed["eigenvalue"], values[::-1], rtol=1e-9)
    assert "Spectrum" not in left_out(page)


def test_of_gauss_newton_the_model_is_its_own(folder: Path, tmp_path: Path) -> None:
    from hessian_tasks.spec import GAUSS_NEWTON

    keep(tmp_path / "g.zarr", folder / "own.py", EstimateOptions(2, matrix=GAUSS_NEWTON))
    page = estimates_page(KeptEstimates(tmp_path / "g.zarr"))
    assert page.title == "Gauss-Newton matrix of own.py:problem"
    (slices,) = (section for section in page.sections if section.title == SLICES)
    assert "½ α² vᵀGv" in slices.text[0]
    steps = np.array(slices.tables[0].columns["predicted total"])
    assert np.all(np.diff(steps, 2) > 0)


def test_eigenpairs_that_did_not_converge_are_said_first(folder: Path, tmp_path: Path) -> None:
    frozen = freeze_source(ProblemSource(str(folder / "own.py")))
    found = estimate(operator_of(frozen, num_threads=2), frozen.loss, EstimateOptions(num_pairs=2))
    save(replace(found, pairs=replace(found.pairs, tolerance=0.0)), frozen, tmp_path / "e.zarr")
    (warning,) = estimates_page(KeptEstimates(tmp_path / "e.zarr"), stored_only=True).warnings
    assert warning.startswith("4 of 4 eigenpairs did not converge")
    assert estimates_page(KeptEstimates(folder / "e.zarr"), stored_only=True).warnings == []


STATEFUL = """
import keras
import numpy as np
from hessian_tasks import Problem, ResidualTerm
from hessian_tasks.networks.models import set_theta

def problem():
    hidden = keras.layers.Dense(6, name="hidden")
    norm = keras.layers.BatchNormalization(name="norm")
    output = keras.layers.Dense(1, name="output")
    model = keras.Sequential([keras.Input((1,)), hidden, norm, output])
    set_theta(model, np.linspace(-1, 1, 31))
    set_theta(model, np.linspace(0.5, 2, 12), trainable=False)
    points = np.linspace(0, 1, 9)[:, None]
    return Problem(model, [ResidualTerm("fit", points, lambda x, u: u.value - x)], coordinates="x")
"""


def test_the_problem_is_rebuilt_from_what_is_kept(tmp_path: Path) -> None:
    """Also where the network has weights that are not trained."""
    (tmp_path / "own.py").write_text(STATEFUL)
    keep(tmp_path / "e.zarr", tmp_path / "own.py", EstimateOptions(num_pairs=1))
    frozen = freeze_source(ProblemSource(str(tmp_path / "own.py")))
    assert np.ptp(frozen.state) > 1
    kept = KeptEstimates(tmp_path / "e.zarr")
    assert stored_inputs(kept).fingerprint() == frozen.fingerprint()
    assert [term.name for term in rebuild_problem(kept).terms] == ["fit"]
    with xr.open_zarr(tmp_path / "e.zarr", consolidated=False) as dataset:
        np.testing.assert_array_equal(dataset.state, frozen.state)


def test_stored_only_imports_no_tensorflow(folder: Path) -> None:
    code = (
        "import sys; from pipeline.report import write_report; "
        f"write_report({str(folder / 'e.zarr')!r}, sys.argv[1], stored_only=True); "
        "sys.exit('tensorflow' in sys.modules or 'keras' in sys.modules)"
    )
    command = [sys.executable, "-c", code, str(folder / "out")]
    assert subprocess.run(command, check=False).returncode == 0


def test_browsers_show_it_without_errors_or_requests(folder: Path, tmp_path: Path) -> None:
    with browser(tmp_path / "profile") as chromium:
        for width in (1280, 400):
            visit = chromium.visit(folder / "e-report" / "report.html", width)
            assert (visit.requests, visit.errors) == ([], [])
            assert all(visit.images)
            assert len(visit.images) > 10
            assert visit.spilled == []
            assert visit.width <= width


# ---- commands ------------------------------------------------------------------------------------


def test_the_command_reports_estimates(folder: Path, tmp_path: Path, hessian: Cli) -> None:
    command = ["report", folder / "e.zarr", "--stored-only", "--out", tmp_path / "o"]
    code, output, _ = hessian(*command)
    assert (code, output.strip()) == (0, str(tmp_path / "o" / "report.html"))
    code, _, errors = hessian(*command, "--ggn", folder / "h.zarr")
    assert code == 2
    assert "--ggn compares the matrices of two stores" in errors
    code, _, errors = hessian(*command, "--data", "fit")
    assert code == 2
    assert "leave out --data" in errors
    with pytest.raises(StoreError, match="lies in the store"):
        write_report(folder / "e.zarr", folder / "e.zarr" / "report")


@pytest.mark.parametrize("command", ["status", "info", "spectrum", "verify"])
def test_other_commands_refuse_estimates(folder: Path, command: str, hessian: Cli) -> None:
    code, output, errors = hessian(command, folder / "e.zarr")
    assert (code, output, errors.count("\n")) == (1, "", 1)
    assert "holds estimates, and no matrix. Read them with: hessian report" in errors


def test_estimates_are_compared_with_the_matrix(folder: Path, hessian: Cli) -> None:
    code, output, _ = hessian("compare", folder / "h.zarr", folder / "e.zarr", "--follow", "--json")
    assert code == 0
    (stored, found), (rows,) = (json.loads(output)[key] for key in ("stores", "eigenvectors"))
    assert (stored["estimated"], found["estimated"], found["condition_number"]) == (0, 1, None)
    assert abs(found["trace"] - stored["trace"]) <= 2 * found["trace_error"]
    # At the same θ what is known of both is the same, and of the matrix more is known.
    followed = [row for row in rows if row["after"] is not None]
    assert [row["before"] for row in followed] == pytest.approx(
        [row["after"] for row in followed], rel=1e-6
    )
    assert min(row["overlap"] for row in followed) > 0.99
    assert len(followed) == 2 * PAIRS
    assert {row["what"] for row in rows if row["after"] is None} == {"gone"}
    code, output, _ = hessian("compare", folder / "h.zarr", folder / "e.zarr")
    assert re.search(r"verified +no +estimated\n", output)


def test_a_file_that_only_estimates_name_is_not_run(copy: Path, tmp_path: Path) -> None:
    file = tmp_path / "dropped.py"
    file.write_text("from pathlib import Path\nPath(__file__).with_name('ran').touch()\n")
    change(copy, "zarr.json", attributes__source__reference=f"{file}:problem")
    reasons = left_out(estimates_page(KeptEstimates(copy)))
    assert "was not named by you before" in reasons[SLICES]
    assert not file.with_name("ran").exists()


# ---- from strangers ------------------------------------------------------------------------------


def assert_refused(path: Path, hessian: Cli, tmp_path: Path) -> str:
    code, output, errors = hessian("report", path, "--stored-only", "--out", tmp_path / "out")
    assert (code, output, errors.count("\n")) == (1, "", 1)
    assert "\x1b" not in errors
    assert str(path) in errors
    return errors


ATTRIBUTES: dict[str, Any] = {
    "format_version": 2,
    "parameters__0__shape": [5],
    "parameters__0__name": "kernel\x1b]0;owned\x07",
    "provenance": {},
    "provenance__packages": {"numpy\n": "1"},
    "source__reference": "poisson\nhessian: all is well",
    "terms": [],
    "estimates": {},
    "estimates__matrix": "Hessian\x1b[31m",
    "estimates__asked__matrix": "hessian_pde",
    "estimates__asked__term": "heat",
    "estimates__num_params": 10**12,
    "estimates__eigenvalues": [],
    "estimates__eigenvalues__0": 1e300,
    "estimates__eigenvalues__1": "NaN",
    "estimates__eigenvalues__2": -1e99,
    "estimates__residuals": [0.0],
    "estimates__trace": None,
    "estimates__trace__value": float("inf"),
    "estimates__frobenius_norm__method": "guess",
    "estimates__diagonal__method": "guess",
    "estimates__diagonal__means": [1.0],
    "estimates__diagonal__layers__0": "a\x1b[31m",
    "estimates__noise_floor": -1.0,
    "estimates__density__grid__0": 1e5,
    "estimates__density__scale": 0.0,
    "estimates__density__density": [1.0],
    "estimates__density__counts": {"above": 1.0},
}


@pytest.mark.parametrize("key", ATTRIBUTES)
def test_attributes_are_checked(key: str, copy: Path, tmp_path: Path, hessian: Cli) -> None:
    change(copy, "zarr.json", **{f"attributes__{key}": ATTRIBUTES[key]})
    assert "is not a readable set of estimates" in assert_refused(copy, hessian, tmp_path)


@pytest.mark.parametrize("trap", TRAPS)
@pytest.mark.parametrize(
    "place", ["terms__0__name", "terms__0__arrays__0", "estimates__asked__term"]
)
def test_names_stay_inside(trap: str, place: str, copy: Path, tmp_path: Path, hessian: Cli) -> None:
    change(copy, "zarr.json", **{f"attributes__{place}": trap})
    assert "is not a readable set" in assert_refused(copy, hessian, tmp_path)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("shape", [10**9, 6]),
        ("chunk_grid__configuration__chunk_shape", [10**9, 10**9]),
        ("chunk_grid__configuration__chunk_shape", [10**8, 1]),
        ("codecs", [{"name": "bytes"}, {"name": "numcodecs.pickle"}]),
        ("data_type", "complex128"),
        ("node_type", "group"),
    ],
)
def test_arrays_are_checked(key: str, value: Any, copy: Path, tmp_path: Path, hessian: Cli) -> None:
    change(copy, "eigenvector/zarr.json", **{key: value})
    assert "is not a readable set" in assert_refused(copy, hessian, tmp_path)


def test_damaged_objects_are_named(copy: Path, tmp_path: Path, hessian: Cli) -> None:
    chunk = copy / "eigenvector/c/0/2"
    kept = chunk.read_bytes()
    chunk.write_bytes(b"\x01" + kept[1:])
    assert "Estimate again with: hessian estimate" in assert_refused(copy, hessian, tmp_path)
    chunk.write_bytes(kept[1:])
    assert "made to do harm" in assert_refused(copy, hessian, tmp_path)
    chunk.unlink()
    said = assert_refused(copy, hessian, tmp_path)
    assert "eigenvector/c/0/2" in said
    assert "it is missing" in said
    (tmp_path / "outside").write_bytes(kept)
    chunk.symlink_to(tmp_path / "outside")
    assert "leads out of the store" in assert_refused(copy, hessian, tmp_path)


def test_hostile_text_stays_text(copy: Path, tmp_path: Path) -> None:
    change(
        copy, "zarr.json",
        attributes__source__text="</pre><script>alert(2)</script>",
        attributes__source__reference=HOSTILE,
        attributes__estimates__matrix=HOSTILE,
        attributes__estimates__asked__seed=7,
        attributes__parameters__0__layer="=HYPERLINK(1)" + HOSTILE,
    )  # fmt: skip
    change(copy, "zarr.json", attributes__estimates__asked__extra={"<script>": HOSTILE})
    page = write_report(copy, tmp_path / "out", stored_only=True)
    assert not [tag for tag, _ in Tags(page.read_text()).found if tag == "script"]
    assert {path.name for path in tmp_path.iterdir()} == {"inside", "out"}
    assert read_table(tmp_path / "out/tables/diagonal.csv")["variable"][0][:2] == "'="


@settings(
    max_examples=60, deadline=None, derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)  # fmt: skip
@given(data=st.data())
def test_no_change_of_metadata_is_more_than_an_error(data: st.DataObject, copy: Path) -> None:
    file = copy / data.draw(st.sampled_from(["zarr.json", "eigenvector/zarr.json"]))
    kept = file.read_bytes()
    changed = json.loads(kept)
    place = data.draw(st.sampled_from([p for p in places(changed) if "grid" not in p]))
    target = changed
    for key in place[:-1]:
        target = target[key]
    target[place[-1]] = data.draw(json_values())
    said = ""
    try:
        file.write_text(json.dumps(changed))
        estimates_page(KeptEstimates(copy), stored_only=True)
    except HessianError as error:
        said = str(error)
    finally:
        file.write_bytes(kept)
    assert "\n" not in said
