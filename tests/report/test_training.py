"""Reports of records of training: their numbers are those of the record."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hessian_tasks import load_problem
from hessian_tasks.networks.models import get_theta, set_theta
from hessian_tasks.networks.trainables import resolve
from hessian_tasks.rebuild import freeze
from hessian_tasks.source import LIVE, ProblemSource
from pipeline import open_watched
from pipeline.estimates.recording import WatchedStore
from pipeline.estimates.watched import TrainingRecord
from pipeline.estimates.watching import Observation, Watch
from pipeline.report import write_report
from pipeline.report._along import training_page
from pipeline.report._page import Page
from pipeline.store.places import Directory
from tests.helpers.runs import Cli
from tests.report.chromium import browser
from tests.report.test_pages import Tags, left_out, numbers, read_table

Array = Any

# Uneven, with a gap.
STEPS = {0: "start", 5: "adam", 6: "adam", 50: "lbfgs"}
PAIRS = 2


@pytest.fixture(scope="module")
def observed() -> tuple[Any, list[Observation]]:
    """The inputs of a small problem, and observations of it at weights that move."""
    problem = load_problem("poisson", width=5, num_interior=10, num_boundary=8, dtype="float64")
    problem = resolve(problem)
    frozen = freeze(problem, ProblemSource(LIVE, live=problem))
    watch, rng = Watch(problem, PAIRS), np.random.default_rng(0)
    found = []
    for step, phase in STEPS.items():
        found.append(watch.observe(step, phase))
        theta = get_theta(problem.model)
        set_theta(problem.model, theta + rng.normal(0, 0.02, len(theta)))
    return frozen, found


def keep(path: Path, observed: tuple[Any, list[Observation]], number: int = len(STEPS)) -> Path:
    frozen, found = observed
    store = WatchedStore(path, frozen)
    for one in found[:number]:
        store.append(one)
    return path


@pytest.fixture(scope="module")
def record(tmp_path_factory: pytest.TempPathFactory, observed: Any) -> Path:
    """A record and its report."""
    path = keep(tmp_path_factory.mktemp("report") / "w.zarr", observed)
    assert write_report(path) == path.with_name("w-report") / "report.html"
    return path


def series(page: Page, picture: int, panel: int) -> list[Array]:
    """The curves of a panel that have one value a step, in order."""
    figure = page.sections[0].pictures[picture].figure
    num_steps = len(figure.axes[panel].lines[0].get_xdata())
    lines = [line for line in figure.axes[panel].lines if len(line.get_xdata()) == num_steps]
    return [np.asarray(line.get_ydata()) for line in lines if line.get_marker() not in "|_"]


def test_tables_have_the_numbers_of_the_record(record: Path) -> None:
    found = open_watched(record).load()
    table = read_table(record.with_name("w-report") / "tables" / "observations.csv")
    assert numbers(table, "step").tolist() == list(STEPS)
    assert table["phase"] == list(STEPS.values())
    expected = {
        "loss": found.loss,
        "gradient norm": found.gradient_norm,
        "gradient alignment": found.alignment,
        "largest λ": found.eigenvalue[:, -1],
        "± of the largest λ": found.eigenvalue_error[:, -1],
        "smallest λ": found.eigenvalue[:, 0],
        "trace": found.trace,
        "± of the trace": 2 * found.trace_error,
        "products": found.num_products,
    }
    for heading, values in expected.items():
        assert numbers(table, heading).tolist() == values.values.tolist(), heading
    table = read_table(record.with_name("w-report") / "tables" / "eigenvalues.csv")
    for rank in range(2 * PAIRS):
        assert numbers(table, f"λ {rank + 1}").tolist() == found.eigenvalue[:, rank].values.tolist()


def test_pictures_show_the_numbers_of_the_record(record: Path) -> None:
    page, found = training_page(TrainingRecord(record)), open_watched(record).load()
    steps = page.sections[0].pictures[0].figure.axes[1].lines[0].get_xdata()
    assert list(steps) == list(STEPS)
    values = found.eigenvalue.values
    assert np.array_equal(series(page, 0, 0), values[:, [3, 2, 0, 1]].T)
    losses = [found.loss.values, *found.term_loss.values.T]
    assert np.array_equal(series(page, 0, 1), losses)
    assert np.array_equal(series(page, 1, 0), [found.gradient_norm.values])
    shares = series(page, 1, 1)
    assert np.array_equal(shares[0], found.alignment.values)
    assert np.array_equal(series(page, 2, 0), [found.trace.values])
    leading = found.eigenvector.values[:, :, -PAIRS:]
    # Mean squared singular values of the products of bases, by definition.
    kept = [
        np.mean(np.linalg.svd(one.T @ other, compute_uv=False) ** 2)
        for one, other in itertools.pairwise(leading)
    ]
    assert np.isnan(shares[1][0])
    assert shares[1][1:].tolist() == pytest.approx(kept, rel=1e-12)


def test_eigenvectors_are_followed_from_step_to_step(record: Path) -> None:
    found = open_watched(record).load()
    table = read_table(record.with_name("w-report") / "tables" / "continued-steps.csv")
    assert sorted(set(zip(table["from"], table["to"], strict=True))) == [
        ("0", "5"), ("5", "6"), ("6", "50")
    ]  # fmt: skip
    for k, what in enumerate(table["what"]):
        if what == "goes on":
            sides = [found.sel(step=int(table[step][k])) for step in ("from", "to")]
            columns = [
                side.eigenvector.values[:, side.eigenvalue.values.tolist().index(float(value))]
                for side, value in zip(sides, (table["before"][k], table["after"][k]), strict=True)
            ]
            expected = (columns[0] @ columns[1]) ** 2
            assert float(table["overlap"][k]) == pytest.approx(expected, abs=1e-9)
    assert table["what"].count("goes on") >= 3 * PAIRS


def test_headline_and_what_is_left_out(record: Path) -> None:
    page, found = training_page(TrainingRecord(record)), open_watched(record).load()
    facts = {name: (value, bound) for name, value, bound in page.facts}
    top = found.eigenvalue[:, -1].values
    error = float(found.eigenvalue_error[-1, -1])
    assert facts["largest eigenvalue"] == (
        f"{top[-1]:.5g}", f"± {error:.2g}; {top[0]:.4g} at step 0"
    )  # fmt: skip
    assert facts["loss"] == (
        f"{float(found.loss[-1]):.5g}",
        f"{float(found.loss[0]):.4g} at step 0",
    )
    assert page.title == "Training of live object"
    (words,) = page.sections[0].text
    assert f"the largest eigenvalue from {top[0]:.3g} to {top[-1]:.3g}" in words
    reasons = left_out(page)
    assert list(reasons) == ["Matrix"]
    assert "no matrix" in reasons["Matrix"]


def test_the_same_record_gives_the_same_page(record: Path, tmp_path: Path) -> None:
    again = write_report(record, tmp_path / "out")
    assert again.read_bytes() == (record.with_name("w-report") / "report.html").read_bytes()


def test_one_observation_and_no_gradient(observed: Any, tmp_path: Path) -> None:
    frozen, (first, *_) = observed
    flat = replace(first, gradient_norm=0.0, alignment=float("nan"))
    page = training_page(TrainingRecord(keep(tmp_path / "w.zarr", (frozen, [flat]), 1)))
    assert page.sections[0].text == ["There is one observation, of step 0."]
    assert "one observation alone" in left_out(page)["Which eigenvectors go on"]
    facts = {name: (value, bound) for name, value, bound in page.facts}
    assert facts["gradient alignment"] == ("not defined", "")
    assert facts["gradient norm"] == ("0", "")
    assert page.sections[0].tables[0].columns["gradient alignment"] == [None]
    assert page.sections[0].pictures[0].png.startswith(b"\x89PNG")


def test_an_interrupted_training_is_reported_as_far_as_it_came(
    observed: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    frozen, found = observed
    store = WatchedStore(tmp_path / "w.zarr", frozen)
    store.append(found[0])
    store.append(found[1])
    write = Directory.write

    def die(self: Directory, key: str, data: bytes) -> None:
        if key.startswith("weights/zarr"):
            raise KeyboardInterrupt
        write(self, key, data)

    monkeypatch.setattr(Directory, "write", die)
    with pytest.raises(KeyboardInterrupt):
        store.append(found[2])
    monkeypatch.undo()
    write_report(tmp_path / "w.zarr")
    table = read_table(tmp_path / "w-report/tables/observations.csv")
    assert table["step"] == ["0", "5"]


def test_browsers_show_it_without_errors_or_requests(record: Path, tmp_path: Path) -> None:
    page = record.with_name("w-report") / "report.html"
    assert not [tag for tag, _ in Tags(page.read_text()).found if tag == "script"]
    with browser(tmp_path / "profile") as chromium:
        for width in (1280, 400):
            visit = chromium.visit(page, width)
            assert (visit.requests, visit.errors) == ([], [])
            assert visit.images == [True] * 4
            assert visit.width <= width
            assert "gradient alignment" in visit.text


def test_commands(record: Path, tmp_path: Path, hessian: Cli) -> None:
    code, output, _ = hessian("report", record, "--out", tmp_path / "o")
    assert (code, output.strip()) == (0, str(tmp_path / "o" / "report.html"))
    code, _, errors = hessian("report", record, "--ggn", record)
    assert code == 2
    assert "holds observations along a training" in errors
    for command in ("spectrum", "verify", "status"):
        code, output, errors = hessian(command, record)
        assert (code, output, errors.count("\n")) == (1, "", 1)
        assert "holds observations along a training, and no matrix" in errors
