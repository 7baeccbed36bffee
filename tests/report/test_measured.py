"""Uncertainty, influence and approximations on a page, against the dense matrices of one store."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline import ProblemError, RunOptions, compute_hessian, verify_hessian
from pipeline.analysis.approximations import Approximation, Approximations
from pipeline.analysis.pictures import approximations_picture
from pipeline.report import _chosen, _measured, write_report
from pipeline.report._build import build_page
from pipeline.report._page import Page, Section
from pipeline.store.store import HessianStore

# G has eigenvalues from 2.5e-4 to 7.9, so that its inverse is known; H has negative ones.
FILE = """
import numpy as np
from hessian_tasks import Problem, ResidualTerm, mlp

def problem():
    x = np.linspace(-1, 1, 12)[:, None]
    pde = ResidualTerm("pde", x, lambda x, u, nu: nu * u.d("xx") + 1)
    fit = ResidualTerm("fit", x, lambda x, u, y: u.value - y, data={"y": x * (1 - x)})
    network = mlp(1, width=2, depth=1, dtype="float64")
    draw = np.random.default_rng(1)
    network.set_weights([draw.normal(0, 2, w.shape) for w in network.get_weights()])
    return Problem(network, [pde, fit], coordinates="x", parameters={"nu": 0.5})
"""
TITLES = ["Uncertainty", "Influence of single points", "Approximations"]


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """H and G of an inverse problem that is not trained, and their report."""
    folder = tmp_path_factory.mktemp("measured")
    (folder / "inverse.py").write_text(FILE)
    options = RunOptions(with_ggn=True, per_term=True)
    compute_hessian(folder / "inverse.py", folder / "h.zarr", options=options)
    assert verify_hessian(folder / "h.zarr").passed
    write_report(folder / "h.zarr")
    return folder


def dense(folder: Path, name: str) -> Any:
    return np.asarray(HessianStore(folder / "h.zarr").hessian(name)[...])


def table(folder: Path, name: str) -> dict[str, list[str]]:
    with (folder / "h-report/tables" / f"{name}.csv").open(newline="", encoding="utf-8") as file:
        headings, *rows = csv.reader(file)
    return dict(zip(headings, map(list, zip(*rows, strict=True)), strict=True))


def numbers(found: dict[str, list[str]], heading: str) -> Any:
    return np.array([float(value) for value in found[heading]])


def by_title(page: Page) -> dict[str, Section]:
    return {section.title: section for section in page.sections}


def test_standard_errors_are_those_of_the_dense_gauss_newton_matrix(both: Path) -> None:
    page = (both / "h-report/report.html").read_text()
    negative = np.sum(np.linalg.eigvalsh(dense(both, "hessian")) < -1e-6)
    assert f"H has {negative} negative eigenvalues beyond its noise" in page

    inverse = np.linalg.inv(dense(both, "ggn"))
    # The matrix of the term is 2 w / N JᵀJ, so that γ needs no Jacobian; and w = 1.
    effective = np.trace(inverse @ dense(both, "ggn_fit"))
    terms = HessianStore(both / "h.zarr").attributes["terms"]
    squares = 12 * next(term["loss"] for term in terms if term["name"] == "fit")
    variance = squares / (12 - effective)
    found = table(both, "uncertainty")
    assert found["parameter"] == ["nu"]
    expected = np.sqrt(2 * variance / 12 * inverse[-1, -1])
    # The condition, 3e4, times the rounding of float64 is some 1e-11.
    np.testing.assert_allclose(numbers(found, "standard error"), [expected], rtol=1e-9)
    assert found["identified"] == ["yes"]
    # The leverages of all points are what they determine together.
    leverage = numbers(table(both, "influence"), "leverage")
    np.testing.assert_allclose(leverage.sum(), effective, rtol=1e-9)
    assert f"determine {effective:.3g} parameters" in page


def test_the_most_influential_points_come_first(both: Path) -> None:
    found = table(both, "influence")
    changes = np.abs(numbers(found, "change of nu"))
    assert len(changes) == 12
    assert (np.diff(changes) <= 0).all()
    for name in ("band", "influence-nu", "influence-solution"):
        assert (both / f"h-report/pictures/{name}.svg").is_file()
    assert len(table(both, "band")["standard deviation of u[0]"]) == 100


def test_approximations_are_those_of_the_dense_matrix(both: Path) -> None:
    store, matrix = HessianStore(both / "h.zarr"), dense(both, "hessian")
    layer = store.layout.labels()["layer"]
    outside = np.linalg.norm(np.where(layer[:, None] == layer, 0.0, matrix))
    found = table(both, "approximations")
    errors = dict(zip(found["approximation"], numbers(found, "error"), strict=True))
    norm = np.linalg.norm(matrix)
    np.testing.assert_allclose(errors["layers"], outside / norm, rtol=1e-10)
    rest = np.linalg.norm(matrix - dense(both, "ggn"))
    np.testing.assert_allclose(errors["Gauss-Newton"], rest / norm, rtol=1e-10)
    page = (both / "h-report/report.html").read_text()
    share = (outside / norm) ** 2
    assert f"Φ = {share:.2%}" in page
    # The section on layers says the rest of it.
    assert f"{1 - share:.1%} lies in the diagonal blocks of layers" in page


def test_the_picture_has_what_can_be_told_and_no_step_that_there_is_not() -> None:
    found = Approximations(
        "Hessian", 0.1, 1e-6,
        (
            Approximation("layers", 9, 0.5, 0.25, None, None),
            Approximation("rank 2", 4, 1e-9, 0.0, 1.0, 1.0),
        ),
    )  # fmt: skip
    (axes,) = approximations_picture(found, "approximations").axes
    *lines, least = axes.lines
    drawn = [np.asarray(line.get_xdata()).tolist() for line in lines]
    assert drawn == [[0.5, 1e-6], [0.25, 1e-6], [1e-6]]
    assert list(least.get_xdata()) == [1e-6, 1e-6]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["layers", "rank 2"]


def test_reasons_name_what_to_do(both: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = HessianStore(both / "h.zarr")
    hessian, ggn = opened.each()
    page = by_title(build_page(hessian))
    for title, command in zip(TITLES, ("uncertainty", "influence"), strict=False):
        reason = page[title].left_out
        assert "negative eigenvalues beyond its noise" in reason
        assert reason.endswith(f"hessian {command} {both / 'h.zarr'}")
    assert not page["Approximations"].left_out

    unknown = by_title(build_page(ggn, data="pde2"))
    assert "no residual term 'pde2'" in unknown["Uncertainty"].left_out
    assert unknown["Uncertainty"].left_out.endswith("--matrix ggn")

    monkeypatch.setattr(_measured, "uncertainty_of", _no_sigma)
    kept = by_title(build_page(ggn))
    assert "give σ (--sigma). Ask for it with: hessian uncertainty" in kept["Uncertainty"].left_out
    assert kept["Influence of single points"].tables

    monkeypatch.setattr(_chosen, "MAX_PARAMS", 7)
    large = by_title(build_page(opened))
    for title in TITLES:
        assert "up to 7 parameters, and there are 8" in large[title].left_out
        assert not large[title].pictures


def _no_sigma(at: Any) -> Any:
    raise ProblemError("give σ (--sigma).")


def test_every_file_is_linked(both: Path) -> None:
    page = (both / "h-report/report.html").read_text()
    linked = set(re.findall(r'href="((?:pictures|tables)/[^"]+)"', page))
    assert linked == {path.relative_to(both / "h-report").as_posix() for path in _files(both)}


def _files(folder: Path) -> Iterator[Path]:
    for name in ("pictures", "tables"):
        yield from (folder / "h-report" / name).iterdir()


@pytest.mark.parametrize(
    "command", ["approximations", "influence", "info", "spectrum", "uncertainty"]
)
def test_pictures_of_other_formats_are_refused_first(command: str, hessian: Any) -> None:
    # Before it is noticed that there is no such store.
    code, _, errors = hessian(command, "missing.zarr", "--picture", "x.bmp")
    assert code == 2
    assert "x.bmp ends in none of .png, .svg, .pdf" in errors


def test_the_command_draws_approximations(both: Path, tmp_path: Path, hessian: Any) -> None:
    code, text, _ = hessian("approximations", both / "h.zarr", "--picture", tmp_path / "a.SVG")
    assert code == 0
    assert "Gauss-Newton" in text
    assert "decrease lost by the step" in (tmp_path / "a.SVG").read_text()
