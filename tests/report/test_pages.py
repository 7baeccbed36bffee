"""Reports and comparisons: what pages say, against the dense matrix, and what browsers do."""

import csv
import html.parser
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hessian_tasks.networks.models import get_theta, set_theta
from pipeline import RunOptions, compute_hessian, verify_hessian
from pipeline.analysis.spectrum import spectrum
from pipeline.analysis.summary import summarise
from pipeline.api import rebuild_problem
from pipeline.errors import ConfigError, ProblemError, StoreError, StoreMismatchError
from pipeline.report import write_report
from pipeline.report._build import build_page
from pipeline.report._evaluated import CHANGES, SLICES
from pipeline.report._headline import headline, state_warnings
from pipeline.report._page import Page, Table
from pipeline.report._stored import spectrum_section
from pipeline.report.compare import open_all
from pipeline.store.store import HessianStore
from tests.helpers.forged import forge, forge_arrays
from tests.report.chromium import browser

Array = Any

FILE = """
from hessian_tasks.problems import poisson

def problem(width=5):
    return poisson.problem(width, 1, 10, 8, 0, "float64")
"""


def make(path: Path, problem: Any, engine: str = "auto", per_term: bool = True) -> Path:
    # Tiles of 8 rows, so that there are several block rows.
    compute_hessian(
        problem, path, options=RunOptions(engine=engine, per_term=per_term, tile=8)  # type: ignore[arg-type]
    )  # fmt: skip
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Stores of one problem, H and G, and the full report of H."""
    folder = tmp_path_factory.mktemp("report")
    (folder / "own.py").write_text(FILE)
    make(folder / "h.zarr", folder / "own.py")
    make(folder / "g.zarr", folder / "own.py", engine="ggn")
    assert verify_hessian(folder / "h.zarr").passed
    page = write_report(folder / "h.zarr", ggn=folder / "g.zarr")
    assert page == folder / "h-report" / "report.html"
    return folder


@pytest.fixture
def copy(folder: Path, tmp_path: Path) -> Path:
    """A copy of the store that a test may spoil."""
    return Path(shutil.copytree(folder / "h.zarr", tmp_path / "h.zarr"))


def change(store: Path, edit: Callable[[dict[str, Any]], None]) -> None:
    """Change attributes of a store as a stranger could."""
    forge(store, edit)


def read_table(path: Path) -> dict[str, list[str]]:
    with path.open(newline="", encoding="utf-8") as file:
        headings, *rows = csv.reader(file)
    return dict(zip(headings, map(list, zip(*rows, strict=True)), strict=True))


def numbers(table: dict[str, list[str]], heading: str) -> Array:
    return np.array([float(value) for value in table[heading]])


def dense(folder: Path, name: str = "h.zarr", array: str | None = None) -> Array:
    return np.asarray(HessianStore(folder / name).hessian(array)[...])


class Tags(html.parser.HTMLParser):
    """All tags and attributes of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))


def test_eigenvalues_and_counts_are_those_of_the_dense_matrix(folder: Path) -> None:
    values = np.linalg.eigvalsh(dense(folder))[::-1]
    found = read_table(folder / "h-report/tables/eigenvalues.csv")
    floor = numbers(found, "±")[0]
    np.testing.assert_allclose(numbers(found, "eigenvalue"), values, atol=floor)
    page = (folder / "h-report/report.html").read_text()
    resolved = np.abs(values)[np.abs(values) > floor]
    assert f"<strong>{resolved.max() / resolved.min():.3g}</strong>" in page
    negative = int(np.sum(values < -floor))
    assert negative > 0
    assert f"<dt>negative eigenvalues</dt><dd><strong>{negative}</strong>" in page


def test_layers_and_participation_are_those_of_the_dense_matrix(folder: Path) -> None:
    matrix = dense(folder)
    layout = HessianStore(folder / "h.zarr").layout
    found = read_table(folder / "h-report/tables/layers.csv")
    for position, variable in enumerate(layout.variables):
        rows = slice(variable.offset, variable.stop)
        share = np.sum(matrix[rows] ** 2) / np.sum(matrix**2)
        np.testing.assert_allclose(numbers(found, "share of ‖H‖² in its rows")[position], share)
        trace = np.trace(matrix[rows, rows])
        np.testing.assert_allclose(numbers(found, "trace")[position], trace, rtol=1e-12)
    _, vectors = np.linalg.eigh(matrix)
    first = layout.labels()["layer"] == 0
    weight = float(np.sum(vectors[first, -1] ** 2))
    shares = numbers(read_table(folder / "h-report/tables/participation.csv"), layout.layers()[0])
    np.testing.assert_allclose(shares[0], weight, rtol=1e-8)


def test_terms_add_up(folder: Path) -> None:
    found = read_table(folder / "h-report/tables/terms.csv")
    assert found["term"] == ["pde", "dirichlet"]
    np.testing.assert_allclose(numbers(found, "trace").sum(), np.trace(dense(folder)))
    np.testing.assert_allclose(numbers(found, "share of the trace").sum(), 1.0)
    top = np.linalg.eigvalsh(dense(folder, array="hessian_pde"))[-1]
    np.testing.assert_allclose(numbers(found, "largest eigenvalue")[0], top, rtol=1e-10)


def test_gauss_newton_is_compared(folder: Path) -> None:
    found = read_table(folder / "h-report/tables/gauss-newton.csv")
    values = np.linalg.eigvalsh(dense(folder, "g.zarr"))[::-1]
    np.testing.assert_allclose(numbers(found, "G"), values, atol=1e-12 * values[0])
    rest = np.linalg.norm(dense(folder) - dense(folder, "g.zarr")) / np.linalg.norm(dense(folder))
    page = (folder / "h-report/report.html").read_text()
    assert f"has {rest:.2g} of the Frobenius norm" in page


def test_slices_go_through_the_loss_and_curve_as_predicted(folder: Path) -> None:
    loss = HessianStore(folder / "h.zarr").attributes["loss"]
    values = np.linalg.eigvalsh(dense(folder))
    for number, value in ((1, values[-1]), (2, values[-2]), (3, values[0])):
        found = read_table(folder / f"h-report/tables/slice-{number}.csv")
        steps, *_ = (numbers(found, name) for name in found if name.startswith("step"))
        middle = len(steps) // 2
        for kind in ("actual", "predicted"):
            np.testing.assert_allclose(numbers(found, f"{kind} total")[middle], loss, rtol=1e-12)
        predicted = numbers(found, "predicted total")
        parts = numbers(found, "predicted pde") + numbers(found, "predicted dirichlet")
        np.testing.assert_allclose(parts, predicted, rtol=1e-10)
        second = np.diff(predicted, 2) / np.diff(steps)[0] ** 2
        # Differences of neighbours lose ε L / step².
        atol = 1e-14 * loss / np.diff(steps)[0] ** 2
        np.testing.assert_allclose(second, value, rtol=1e-8, atol=atol)
        # Close to θ the loss is what the model says, up to third order.
        near = slice(middle - 1, middle + 2)
        change = np.abs(predicted[near] - loss).max()
        assert np.abs(numbers(found, "actual total")[near] - predicted[near]).max() < 0.1 * change


def test_pages_have_no_script_and_every_picture_and_table_is_a_file(folder: Path) -> None:
    page = (folder / "h-report/report.html").read_text()
    tags = Tags(page).found
    assert not [tag for tag, _ in tags if tag in ("script", "iframe", "object", "form")]
    assert all(str(a["src"]).startswith("data:image/") for _, a in tags if "src" in a)
    # A link leads into the page or to a file of the report, by a name that is none of a host.
    hrefs = [str(attributes["href"]) for _, attributes in tags if "href" in attributes]
    links = {href for href in hrefs if not href.startswith(("#", "data:,"))}
    assert all(re.fullmatch(r"(pictures|tables)/[\w-]+\.(svg|png|csv)", link) for link in links)
    policy = next(a for t, a in tags if t == "meta" and "http-equiv" in a)
    assert policy["content"] == "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
    named = {Path(link).stem for link in links if link.startswith("pictures/")}
    assert named >= {"density", "matrix", "layer-blocks", "slice-4", "change-u-1", "solution-u"}
    files = {path.name for path in (folder / "h-report/pictures").iterdir()}
    assert files == {f"{name}.{ending}" for name in named for ending in ("svg", "png")}
    tables = {path.name for path in (folder / "h-report/tables").iterdir()}
    assert tables == {Path(link).name for link in links if link.startswith("tables/")}


def test_browsers_show_it_without_errors_or_requests(folder: Path, tmp_path: Path) -> None:
    pages = [folder / "h-report" / "report.html"]
    with browser(tmp_path / "profile") as chromium:
        for page in pages:
            for width in (1280, 400):
                visit = chromium.visit(page, width)
                assert (visit.requests, visit.errors) == ([], [])
                assert all(visit.images)
                assert len(visit.images) > 10
                # Numbers of cards stay on one line.
                assert visit.spilled == []
                # Wide tables scroll by themselves.
                assert visit.width <= width
                assert "condition number" in visit.text


HOSTILE = "</h1><script>alert(1)</script>$x$ ../../_{"


def test_hostile_text_stays_text(copy: Path, tmp_path: Path) -> None:
    def edit(attributes: dict[str, Any]) -> None:
        attributes["source"]["reference"] = HOSTILE
        attributes["source"]["text"] = "</pre><script>alert(2)</script>"
        attributes["parameters"][0]["layer"] = "=HYPERLINK(1)" + HOSTILE
        attributes["parameters"][1]["layer"] = "_密度" * 40
        attributes["provenance"]["packages"]["<img src=x onerror=alert(3)>"] = "1"

    forge_arrays(copy, edit)
    page = write_report(copy, tmp_path / "out", stored_only=True)
    tags = Tags(page.read_text()).found
    assert not [tag for tag, _ in tags if tag == "script"]
    assert not [attributes for _, attributes in tags if "onerror" in attributes]
    assert HOSTILE.rpartition("/")[2] not in [path.name for path in tmp_path.rglob("*")]
    assert {path.name for path in tmp_path.iterdir()} == {"h.zarr", "out"}
    cells = read_table(tmp_path / "out/tables/layers.csv")["variable"]
    assert cells[0].startswith("'=HYPERLINK(1)")
    with browser(tmp_path / "profile") as chromium:
        visit = chromium.visit(page, 1280)
        assert (visit.requests, visit.errors) == ([], [])
        assert "<script>alert(1)</script>" in visit.text
        assert visit.width <= 1280


def left_out(page: Page) -> dict[str, str]:
    return {section.title: section.left_out for section in page.sections if section.left_out}


def test_incomplete_stores_are_reported_in_part(copy: Path, tmp_path: Path) -> None:
    shutil.rmtree(copy / "records" / "000001")
    page = write_report(copy, tmp_path / "out").read_text()
    assert "incomplete: 1 of 3 block rows are missing" in page
    assert "hessian run --store" in page
    assert "<dl" not in page
    assert "<h2>Matrix</h2>" in page


def test_damage_is_named(copy: Path, tmp_path: Path) -> None:
    tile = next(path for path in (copy / "hessian" / "c").rglob("*") if path.is_file())
    tile.write_bytes(b"damaged")
    with pytest.raises(StoreError, match="is damaged, or made to do harm"):
        write_report(copy, tmp_path / "out", stored_only=True)


@pytest.mark.parametrize("key", ["terms", "provenance", "source", "fingerprint"])
def test_metadata_of_the_wrong_kind_is_refused(copy: Path, tmp_path: Path, key: str) -> None:
    change(copy, lambda attributes: attributes.update({key: 5}))
    with pytest.raises(StoreError, match="is not a readable Hessian store"):
        write_report(copy, tmp_path / "out", stored_only=True)


def test_large_matrices_get_an_estimate(folder: Path) -> None:
    store = HessianStore(folder / "h.zarr")
    found = spectrum(store, num_extreme=2, vectors=True)
    assert not found.complete
    section = spectrum_section(store, found)
    assert [picture.name for picture in section.pictures] == ["density", "eigenvalues"]
    counts, listed = section.tables
    values = np.linalg.eigvalsh(dense(folder))
    floor = found.noise_floor
    expected = [np.sum(values < -floor), np.sum(np.abs(values) <= floor), np.sum(values > floor)]
    bounds = zip(counts.columns["at least"], counts.columns["at most"], strict=True)
    for number, (low, high) in zip(expected, list(bounds)[:3], strict=True):
        assert 0 <= low <= high <= len(values)
        # As much again as a 95 % interval is wide, to either side.
        assert 2 * low - high - 1e-6 <= number <= 2 * high - low + 1e-6
    ranks = np.array(listed.columns["rank"])
    np.testing.assert_allclose(listed.columns["eigenvalue"], values[::-1][ranks - 1], rtol=1e-6)
    condition = next(fact for fact in headline(summarise(store, found)) if "condition" in fact[0])
    assert condition[1].startswith("at least")
    assert section.pictures[0].png.startswith(b"\x89PNG")


def test_unverified_stores_say_so(folder: Path) -> None:
    page = build_page(HessianStore(folder / "g.zarr"), stored_only=True)
    assert page.title == "Gauss-Newton matrix of own.py:problem"
    assert page.warnings[0].startswith("This store is not verified")
    assert "precision of float64 alone" in dict((f[0], f[2]) for f in page.facts)["noise floor"]


def test_failed_verification_is_said_first(copy: Path) -> None:
    assert state_warnings(summarise(HessianStore(copy))) == []
    change(copy, lambda attributes: attributes["certificate"].update(passed=False))
    (warning,) = state_warnings(summarise(HessianStore(copy)))
    assert "Verification of this store FAILED" in warning


def test_without_tensorflow_what_evaluates_is_left_out(
    copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "tensorflow", None)
    reasons = left_out(build_page(HessianStore(copy)))
    assert list(reasons) == [
        "Slices of the loss",
        "Eigenvectors as changes of the solution",
        "Uncertainty",
        "Influence of single points",
    ]
    assert all("which needs TensorFlow" in reason for reason in reasons.values())


def test_stored_only_imports_no_tensorflow(folder: Path) -> None:
    code = (
        "import sys; from pipeline.report._build import build_page; "
        "from pipeline.store.store import HessianStore; "
        f"build_page(HessianStore({str(folder / 'h.zarr')!r}), stored_only=True); "
        "sys.exit('tensorflow' in sys.modules or 'keras' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_problem_that_has_moved(copy: Path, folder: Path, tmp_path: Path) -> None:
    def edit(attributes: dict[str, Any]) -> None:
        attributes["source"]["reference"] = str(tmp_path / "gone.py") + ":problem"

    change(copy, edit)
    reasons = left_out(build_page(HessianStore(copy)))
    assert [("cannot be rebuilt" in reason) for reason in reasons.values()] == [True] * 4
    found = rebuild_problem(HessianStore(copy), str(folder / "own.py"))
    assert [term.name for term in found.terms] == ["pde", "dirichlet"]
    with pytest.raises(ProblemError, match=r"does not exist|cannot be read"):
        write_report(copy, tmp_path / "out", problem=str(tmp_path / "nowhere.py"))


def test_a_loss_without_points_has_slices_and_no_fields(tmp_path: Path) -> None:
    from tests.analysis.test_spectrum import quadratic_problem

    (tmp_path / "quadratic.py").write_text(
        "from tests.analysis.test_spectrum import quadratic_problem\n\n"
        "def problem():\n    return quadratic_problem()\n"
    )
    compute_hessian(tmp_path / "quadratic.py", tmp_path / "q.zarr")
    page = build_page(HessianStore(tmp_path / "q.zarr"))
    assert "no term of the loss declares a residual" in left_out(page)[CHANGES]
    (slices,) = (section for section in page.sections if section.title == SLICES)
    actual, predicted = (
        np.array(slices.tables[0].columns[f"{kind} total"]) for kind in ("actual", "predicted")
    )
    np.testing.assert_allclose(actual, predicted, atol=1e-12 * np.abs(actual).max())
    assert quadratic_problem().coordinates == ()


@pytest.mark.parametrize("inside", ["", "report"])
def test_reports_are_not_written_into_stores(folder: Path, inside: str) -> None:
    with pytest.raises(StoreError, match="lies in the store"):
        write_report(folder / "h.zarr", folder / "h.zarr" / inside)


def test_gauss_newton_of_another_problem_is_refused(folder: Path, tmp_path: Path) -> None:
    from hessian_tasks.problems import poisson

    other = make(tmp_path / "g.zarr", poisson.problem(5, 1, 11, 8, 0, "float64"), engine="ggn")
    with pytest.raises(StoreMismatchError, match="points of term pde"):
        write_report(folder / "h.zarr", tmp_path / "out", ggn=other)


def test_comparison(folder: Path, tmp_path: Path, hessian: Any) -> None:
    stores = [folder / "h.zarr", folder / "g.zarr"]
    code, output, errors = hessian("compare", *stores, "--out", tmp_path / "out", "--json")
    assert (code, errors.strip()) == (0, str(tmp_path / "out" / "comparison.html"))
    for row, name in zip(json.loads(output)["stores"], ("h.zarr", "g.zarr"), strict=True):
        matrix = dense(folder, name)
        values = np.linalg.eigvalsh(matrix)
        resolved = np.abs(values)[np.abs(values) > row["noise_floor"]]
        assert row["store"] == name
        expected = {
            "num_params": len(matrix),
            "largest": values[-1],
            "num_negative": int(np.sum(values < -row["noise_floor"])),
            "condition_number": resolved.max() / resolved.min(),
            "effective_rank": resolved.sum() ** 2 / np.sum(resolved**2),
            "trace": np.trace(matrix),
            "frobenius_norm": np.linalg.norm(matrix),
        }
        assert {key: row[key] for key in expected} == pytest.approx(expected, rel=1e-6)
    page = (tmp_path / "out/comparison.html").read_text()
    assert "Not verified: g.zarr" in page
    assert "different matrices: Gauss-Newton matrix, Hessian" in page
    assert read_table(tmp_path / "out/tables/comparison.csv")["store"] == ["h.zarr", "g.zarr"]
    code, output, _ = hessian("compare", *stores)
    assert code == 0
    assert re.search(r"noise floor +\S+ +\S+\n", output)


def test_eigenvectors_are_followed_from_store_to_store(
    folder: Path, tmp_path: Path, hessian: Any
) -> None:
    from hessian_tasks.problems import poisson

    problem = poisson.problem(5, 1, 10, 8, 0, "float64")
    theta = get_theta(problem.model)
    set_theta(problem.model, theta + np.random.default_rng(0).normal(0, 0.05, len(theta)))
    make(tmp_path / "next.zarr", problem)
    stores = [folder / "h.zarr", tmp_path / "next.zarr"]
    code, output, _ = hessian("compare", *stores, "--follow", "--json")
    assert code == 0
    (rows,) = json.loads(output)["eigenvectors"]
    spectra = [np.linalg.eigh(dense(store.parent, store.name)) for store in stores]
    followed = 0
    for row in rows:
        if row["what"] == "goes on":
            places = [
                int(np.argmin(np.abs(values - row[key])))
                for (values, _), key in zip(spectra, ("before", "after"), strict=True)
            ]
            columns = [vectors[:, k] for (_, vectors), k in zip(spectra, places, strict=True)]
            # Gaps of ten errors leave an overlap a hundredth of doubt.
            assert row["overlap"] == pytest.approx((columns[0] @ columns[1]) ** 2, abs=0.01)
            followed += 1
    assert followed >= 6
    other = make(tmp_path / "wide.zarr", poisson.problem(6, 1, 10, 8, 0, "float64"))
    code, output, _ = hessian("compare", *stores, other, "--follow", "--out", tmp_path / "out")
    assert code == 0
    assert output.count("Eigenvalues from ") == 1
    table = read_table(tmp_path / "out/tables/continued-1.csv")
    assert table["overlap"] == [repr(row["overlap"]) for row in rows]
    page = (tmp_path / "out/comparison.html").read_text()
    assert "Left out: 1 of 2 pairs of neighbours" in page


def test_comparison_needs_two_stores(folder: Path, hessian: Any) -> None:
    with pytest.raises(ConfigError, match="two or more"):
        open_all([folder / "h.zarr", folder / "h.zarr"])
    code, _, errors = hessian("compare", folder / "h.zarr")
    assert code == 2
    assert errors.startswith("hessian: Got")


def test_the_command_prints_the_page(folder: Path, tmp_path: Path, hessian: Any) -> None:
    code, output, _ = hessian("report", folder / "g.zarr", "--stored-only", "--out", tmp_path / "o")
    assert (code, output.strip()) == (0, str(tmp_path / "o" / "report.html"))
    code, _, errors = hessian("report", tmp_path / "missing.zarr")
    assert code == 1
    assert "There is no Hessian store" in errors


@pytest.mark.parametrize("cell", ["=1+1", "+1", "-x", "@x", "\tx"])
def test_text_cells_are_no_formulas(cell: str) -> None:
    text = Table("t", "", {"text": [cell, "plain"], "number": [-1.5, None]}).csv()
    assert f"'{cell}" in text
    assert "plain,\n" in text
    assert ",-1.5\n" in text
