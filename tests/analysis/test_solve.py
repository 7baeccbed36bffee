"""Solutions with stored matrices, against dense NumPy, for spectra that are known."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline import HessianError, PlanError, open_inverse, solve
from pipeline.analysis._dense import dense_bytes
from pipeline.errors import StoreMismatchError
from tests.helpers.matrices import matrix_of_spectrum, reflected, store_matrix
from tests.helpers.runs import Cli

EPS = np.finfo(np.float64).eps
RIGHT = np.random.default_rng(1).standard_normal(40)


def spread(lowest: float, count: int = 40) -> Any:
    return np.geomspace(1.0, lowest, count)


@pytest.mark.parametrize("damping", [0.0, 0.25])
@pytest.mark.parametrize("sign", [1, -1])
def test_well_conditioned_matrices_are_factorised(
    sign: int, damping: float, tmp_path: Path
) -> None:
    values = spread(0.01)
    values[::3] *= sign
    matrix = matrix_of_spectrum(values)
    found = solve(store_matrix(tmp_path / "h.zarr", matrix, tile=16), RIGHT, damping)
    expected = np.linalg.solve(matrix + damping * np.eye(40), RIGHT)
    assert found.inverse.method == "LDLᵀ"
    assert found.num_left_out == 0
    assert found.share_left_out == 0
    error = np.linalg.norm(found.x - expected)
    assert error <= found.inverse.relative_error * np.linalg.norm(expected)
    # Backward stable: some eps times P, whatever the condition.
    assert found.residual < 1e-12
    # The estimate of the smallest is in the 1-norm, which is at most √P times the 2-norm.
    smallest = np.abs(values + damping).min()
    assert smallest / 40 <= found.inverse.smallest <= 3 * smallest


def test_several_right_hand_sides(tmp_path: Path) -> None:
    matrix = matrix_of_spectrum(spread(0.1))
    right = np.random.default_rng(2).standard_normal((40, 3))
    inverse = open_inverse(store_matrix(tmp_path / "h.zarr", matrix, tile=16))
    np.testing.assert_allclose(inverse @ right, np.linalg.solve(matrix, right), rtol=1e-10)
    np.testing.assert_allclose(inverse.T @ right[:, 0], inverse @ right[:, 0])


@pytest.mark.parametrize("kind", ["singular", "ill-conditioned", "zero"])
def test_directions_within_the_noise_are_left_out(kind: str, tmp_path: Path) -> None:
    values = np.concatenate([spread(0.01, 30), np.zeros(10)])
    if kind == "ill-conditioned":
        values[30:] = 1e-17  # below P eps
    if kind == "zero":
        values[:] = 0.0
    basis = np.linalg.qr(np.random.default_rng(0).standard_normal((40, 40)))[0]
    matrix = (basis * values) @ basis.T
    matrix = (matrix + matrix.T) / 2
    found = solve(store_matrix(tmp_path / "h.zarr", matrix, tile=16), RIGHT)
    kept = values > 1e-10
    expected = basis[:, kept] @ ((basis[:, kept].T @ RIGHT) / values[kept])
    assert found.inverse.method == "eigenpairs"
    assert found.num_left_out == (~kept).sum()
    np.testing.assert_allclose(found.x, expected, atol=1e-11)
    outside = np.linalg.norm(basis[:, ~kept].T @ RIGHT) / np.linalg.norm(RIGHT)
    assert found.share_left_out == pytest.approx(outside, rel=1e-9)
    assert found.residual < 1e-11
    assert found.layers_left_out.keys() == {"first", "second"}
    assert sum(found.layers_left_out.values()) == pytest.approx(1)


@pytest.mark.parametrize("lowest", [1e-6, 1e-12])
def test_the_stated_error_holds_up_to_a_condition_of_1e12(lowest: float, tmp_path: Path) -> None:
    # Exactly known: (I - 2vvᵀ) Λ (I - 2vvᵀ) has the inverse with 1/Λ.
    values = spread(lowest)
    store = store_matrix(tmp_path / "h.zarr", reflected(values), tile=16)
    found = solve(store, RIGHT)
    expected = reflected(1 / values) @ RIGHT
    error = np.linalg.norm(found.x - expected) / np.linalg.norm(expected)
    assert error <= found.inverse.relative_error < 0.1
    assert found.num_left_out == 0


def test_a_negative_eigenvalue_at_the_damping_is_left_out(tmp_path: Path) -> None:
    values = spread(0.1)
    values[7] = -0.5
    found = solve(store_matrix(tmp_path / "h.zarr", np.diag(values), tile=16), RIGHT, 0.5)
    assert found.num_left_out == 1
    assert found.share_left_out == pytest.approx(abs(RIGHT[7]) / np.linalg.norm(RIGHT))
    expected = np.delete(RIGHT, 7) / np.delete(values + 0.5, 7)
    np.testing.assert_allclose(np.delete(found.x, 7), expected, rtol=1e-12)


def test_beyond_memory_it_is_iterated(tmp_path: Path) -> None:
    # As trained networks have them: a few large ones far from the rest, one negative.
    size = 700
    values = np.concatenate([[-0.02], np.linspace(0.1, 1, size - 17), np.geomspace(10, 1000, 16)])
    matrix = reflected(values)
    right = np.random.default_rng(3).standard_normal(size)
    store = store_matrix(tmp_path / "h.zarr", matrix, tile=256)
    found = solve(store, right, 0.05, memory=dense_bytes(size) // 2)
    expected = reflected(1 / (values + 0.05)) @ right
    assert found.inverse.method == "MINRES"
    # Less what is not known of the lowest eigenvalue, which iteration found.
    assert 0.02 < found.inverse.smallest <= 0.03 * (1 + 1e-9)
    # MINRES stops at 1e-10 of ‖A‖ ‖x‖, here at most 1e5 times ‖b‖.
    assert found.residual < 1e-5
    # ‖x - x̂‖ is at most the residual over the smallest eigenvalue.
    error = np.linalg.norm(found.x - expected)
    assert error <= found.residual * np.linalg.norm(right) / 0.03 * 1.01
    with pytest.raises(PlanError, match=r"reach down to -0\.02.*Give a damping above 0\.02"):
        solve(store, right, 0.01, memory=dense_bytes(size) // 2)


def test_singular_where_eigenpairs_do_not_fit_is_refused(tmp_path: Path) -> None:
    store = store_matrix(tmp_path / "h.zarr", np.zeros((40, 40)), tile=16)
    with pytest.raises(PlanError, match=r"singular within its noise.*Damp it more"):
        solve(store, RIGHT, memory=dense_bytes(40))


@pytest.mark.parametrize("right", [RIGHT[:3], RIGHT[0], RIGHT * np.nan, np.zeros((40, 1, 1))])
def test_what_is_no_right_hand_side_is_refused(right: Any, tmp_path: Path) -> None:
    store = store_matrix(tmp_path / "h.zarr", np.eye(40), tile=16)
    with pytest.raises(StoreMismatchError, match="expected finite ones, 40"):
        solve(store, right)


def test_the_command(tmp_path: Path, hessian: Cli) -> None:
    values = spread(0.01)
    values[3] = 0.0
    path = tmp_path / "h.zarr"
    store_matrix(path, np.diag(values), tile=16)
    np.save(tmp_path / "b.npy", RIGHT)
    places = ["--right", tmp_path / "b.npy", "--out", tmp_path / "x.npy"]
    code, output, _ = hessian("solve", path, *places)
    assert code == 0
    assert "1 directions within the noise" in output
    assert "first 100%" in output
    expected = np.divide(RIGHT, values, out=np.zeros(40), where=values != 0)
    np.testing.assert_allclose(np.load(tmp_path / "x.npy"), expected, rtol=1e-12)
    (tmp_path / "b.npy").write_bytes(b"no numbers")
    for right in (tmp_path / "b.npy", tmp_path / "absent.npy", "hessian"):
        code, _, errors = hessian("solve", path, "--right", right)
        assert code == 2
        assert "expected gradient, or an .npy file" in errors
    assert issubclass(PlanError, HessianError)
