"""Approximations of stored matrices, against dense NumPy and matrices that they are exact for."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.linalg

from hessian_tasks.parameters import ParameterLayout
from pipeline import RunOptions, compare_approximations, compute_hessian, load_problem
from tests.helpers.chosen import some_slow
from tests.helpers.matrices import matrix_of_spectrum, store_matrix
from tests.helpers.runs import Cli

LAYOUT = ParameterLayout.of(
    [("a/kernel", (3, 4)), ("a/bias", (4,)), ("b/kernel", (4, 2)), ("b/bias", (2,))]
)
SIZES = [12, 4, 8, 2]


def by_name(found: Any) -> dict[str, Any]:
    return {one.name: one for one in found.found}


def positive(size: int, seed: int) -> Any:
    factor = np.random.default_rng(seed).standard_normal((size, size))
    return factor @ factor.T


@pytest.mark.parametrize("exact_for", ["diagonal", "Kronecker factors", "variables", "layers"])
def test_what_is_of_a_kind_is_found_exactly(exact_for: str, tmp_path: Path) -> None:
    blocks = [positive(size, size) for size in SIZES]
    if exact_for == "Kronecker factors":
        blocks[0] = np.kron(positive(3, 1), positive(4, 2))
        blocks[2] = np.kron(positive(4, 3), positive(2, 4))
    if exact_for == "diagonal":
        blocks = [np.diag(np.diag(block)) for block in blocks]
    if exact_for == "layers":
        blocks = [positive(16, 1), positive(10, 2)]
    matrix = scipy.linalg.block_diag(*blocks)
    found = by_name(
        compare_approximations(store_matrix(tmp_path / "h.zarr", matrix, 8, layout=LAYOUT))
    )
    order = ["diagonal", "Kronecker factors", "variables", "layers"]
    for name in order[: order.index(exact_for)]:
        # A diagonal matrix is no Kronecker product, and has blocks.
        assert found[name].error > 1e-3
    assert found[exact_for].error < 1e-14
    assert found[exact_for].spectrum < 1e-14
    assert found["layers"].error < 1e-14


def test_errors_and_spectra(tmp_path: Path) -> None:
    matrix = matrix_of_spectrum(np.concatenate([np.linspace(-2, 3, 24), [40.0, 60.0]]))
    result = compare_approximations(
        store_matrix(tmp_path / "h.zarr", matrix, 8, layout=LAYOUT), ranks=[2, 26, 27]
    )
    found, norm = by_name(result), np.linalg.norm(matrix)
    labels = np.repeat([0, 0, 1, 1], SIZES)
    inside = np.where(labels[:, None] == labels, matrix, 0.0)
    variables = np.repeat(range(4), SIZES)
    for name, near in (
        ("diagonal", np.diag(np.diag(matrix))),
        ("variables", np.where(variables[:, None] == variables, matrix, 0.0)),
        ("layers", inside),
    ):
        moved = np.abs(np.linalg.eigvalsh(matrix) - np.linalg.eigvalsh(near)).max()
        assert found[name].error == pytest.approx(np.linalg.norm(matrix - near) / norm, rel=1e-12)
        assert found[name].spectrum == pytest.approx(moved / 60, rel=1e-12)
    assert result.outside == pytest.approx(1 - (np.linalg.norm(inside) / norm) ** 2, rel=1e-10)
    left = np.linalg.norm(np.linspace(-2, 3, 24))
    assert found["rank 2"].error == pytest.approx(left / norm, rel=1e-12)
    assert found["rank 2"].spectrum == pytest.approx(3 / 60, rel=1e-12)
    assert found["rank 26"].error == 0
    assert "rank 27" not in found
    assert [one.numbers for one in result.found[:4]] == [
        26, 6 + 10 + 10 + 10 + 3 + 3, 78 + 10 + 36 + 3, 136 + 55,
    ]  # fmt: skip


def test_nearest_factors_are_the_nearest(tmp_path: Path) -> None:
    # Of diagonal blocks the rearranged one is an outer product's sum of known singular values.
    first, second = np.kron(np.diag([2.0, 1, 1]), np.eye(4)), np.diag(np.arange(1.0, 9.0))
    matrix = scipy.linalg.block_diag(first, np.eye(4), second, np.eye(2))
    found = by_name(
        compare_approximations(store_matrix(tmp_path / "h.zarr", matrix, 8, layout=LAYOUT))
    )
    values = np.linalg.svd(np.arange(1.0, 9.0).reshape(4, 2), compute_uv=False)
    expected = values[1] / np.linalg.norm(matrix)
    assert found["Kronecker factors"].error == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize("damping", some_slow([None, 50.0], [None]))
def test_steps_against_dense_solutions(damping: float | None, tmp_path: Path) -> None:
    small = load_problem("regression", width=5, depth=2, num_samples=9, dtype="float64")
    for engine in ("auto", "ggn"):
        compute_hessian(small, tmp_path / f"{engine}.zarr", options=RunOptions(engine=engine))
    result = compare_approximations(tmp_path / "auto.zarr", tmp_path / "ggn.zarr", damping=damping)
    from pipeline import open_store

    stored = open_store(tmp_path / "auto.zarr").load()
    exact, gradient = stored.hessian.to_numpy(), stored.gradient.to_numpy()
    ggn = open_store(tmp_path / "ggn.zarr").ggn.to_numpy()
    shift = result.damping * np.eye(len(exact))
    best = -np.linalg.solve(exact + shift, gradient)

    def model(step: Any) -> Any:
        return gradient @ step + step @ (exact + shift) @ step / 2

    for name, near in (("diagonal", np.diag(np.diag(exact))), ("Gauss-Newton", ggn)):
        step = -np.linalg.solve(near + shift, gradient)
        found = by_name(result)[name]
        assert found.decrease == pytest.approx(model(step) / model(best), rel=1e-9)
        cosine = step @ best / np.linalg.norm(step) / np.linalg.norm(best)
        assert found.cosine == pytest.approx(cosine, rel=1e-9)
    lowest, largest = np.linalg.eigvalsh(exact)[[0, -1]]
    if damping is None:
        assert result.damping == pytest.approx(1e-3 * largest - lowest, rel=1e-9)


def test_without_a_minimum_no_step_is_the_best(tmp_path: Path) -> None:
    small = load_problem("regression", width=5, depth=2, num_samples=9, dtype="float64")
    compute_hessian(small, tmp_path / "h.zarr")
    found = compare_approximations(tmp_path / "h.zarr", damping=0.0)
    assert {one.decrease for one in found.found} == {None}


def test_the_command(hessian: Cli, tmp_path: Path) -> None:
    matrix = matrix_of_spectrum(np.linspace(1, 2, 26))
    store_matrix(tmp_path / "h.zarr", matrix, 8, layout=LAYOUT)
    code, text, _ = hessian("approximations", tmp_path / "h.zarr", "--rank", "3")
    assert code == 0
    assert "Kronecker factors" in text
    data = json.loads(hessian("approximations", tmp_path / "h.zarr", "--json")[1])
    assert f"{data['outside']:.1%} of its squared Frobenius norm" in text
    assert [one["name"] for one in data["found"]][-1] == "rank 10"
