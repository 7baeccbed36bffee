"""Eigenpairs by iteration against matrices of known spectra."""

import numpy as np
import pytest

from hessian_tasks.parameters import ParameterLayout
from pipeline.analysis.eigenpairs import Eigenpairs, extreme_eigenpairs
from pipeline.analysis.operator import HessianOperator
from tests.helpers import matrices

Array = matrices.Array

SPECTRA = {
    "ill-conditioned": np.geomspace(1e-12, 1.0, 400),
    "indefinite": np.concatenate([-np.geomspace(1e-3, 1e2, 150), np.geomspace(1e-3, 1e3, 250)]),
    "clustered": np.repeat([-5.0, -1.0, 0.0, 1e-3, 2.0], 80) + 1e-9 * np.arange(400),
    "multiple": np.repeat([-2.0, 0.0, 1.0, 3.0], [5, 300, 85, 10]),
    "low rank": np.concatenate([np.zeros(360), np.geomspace(1e-2, 1e2, 40)]),
    "Hessian-like": np.concatenate([np.linspace(-1e-4, 1e-4, 360), np.geomspace(1e-3, 1e2, 40)]),
    "zero": np.zeros(400),
}


def operator_of(matrix: Array, norm: float | None = None) -> HessianOperator:
    layout = ParameterLayout.of([("a/kernel", (len(matrix),))])
    return HessianOperator(lambda v: matrix @ v, layout, relative_error=0.0, norm=norm)


def expect(found: Eigenpairs, matrix: Array, num_extreme: int) -> None:
    values, _ = np.linalg.eigh(matrix)
    expected = np.concatenate([values[:num_extreme], values[-num_extreme:]])
    assert found.converged.all()
    rounding = 1e-13 * max(1.0, np.abs(values).max())
    # Weyl's bound. It is for some eigenvalue: of those nearer to each other than the tolerance it
    # need not be the same in order.
    assert (np.abs(found.values - expected) <= found.tolerance + rounding).all()
    nearest = np.abs(found.values - values[:, np.newaxis]).min(axis=0)
    assert (nearest <= found.residuals + rounding).all()
    direct = np.linalg.norm(matrix @ found.vectors - found.vectors * found.values, axis=0)
    np.testing.assert_allclose(found.residuals, direct, atol=rounding)
    gram = found.vectors.T @ found.vectors
    np.testing.assert_allclose(gram, np.eye(2 * num_extreme), atol=1e-11)


# Ten equal ones take a block of more than three vectors.
@pytest.mark.parametrize(
    ("name", "block"), [(n, b) for n in SPECTRA for b in (3, 16) if (n, b) != ("multiple", 3)]
)
def test_both_ends_of_known_spectra(name: str, block: int) -> None:
    matrix = matrices.matrix_of_spectrum(SPECTRA[name])
    # Of 1e-12 next to 1 no iteration by products finds more than that it is small.
    relative = {"ill-conditioned": 1e-4, "Hessian-like": 1e-5}.get(name, 1e-8)
    tolerance = relative * max(1.0, np.abs(SPECTRA[name]).max())
    found = extreme_eigenpairs(
        operator_of(matrix), 6, tolerance=tolerance, block=block, max_passes=600
    )
    expect(found, matrix, 6)


@pytest.mark.parametrize("size", [2, 12, 13, 40])
def test_small_matrices_are_solved_whole(size: int) -> None:
    matrix = matrices.matrix_of_spectrum(np.linspace(-1.0, 2.0, size))
    found = extreme_eigenpairs(operator_of(matrix), 6)
    expect(found, matrix, min(6, size // 2))


def test_the_default_tolerance_is_the_noise_floor() -> None:
    matrix = matrices.matrix_of_spectrum(SPECTRA["Hessian-like"])
    layout = ParameterLayout.of([("a/kernel", (400,))])
    operator = HessianOperator(
        lambda v: matrix @ v, layout, relative_error=1e-7, norm=float(np.linalg.norm(matrix))
    )
    found = extreme_eigenpairs(operator, 5)
    assert found.tolerance == operator.noise_floor
    expect(found, matrix, 5)


def test_what_did_not_converge_says_so() -> None:
    matrix = matrices.matrix_of_spectrum(SPECTRA["ill-conditioned"])
    found = extreme_eigenpairs(operator_of(matrix), 6, tolerance=1e-12, block=2, max_passes=8)
    assert not found.converged.all()
    assert found.num_passes == 8
    direct = np.linalg.norm(matrix @ found.vectors - found.vectors * found.values, axis=0)
    np.testing.assert_allclose(found.residuals, direct, rtol=1e-6, atol=1e-14)


def test_few_passes_and_the_same_again() -> None:
    matrix = matrices.matrix_of_spectrum(SPECTRA["Hessian-like"])
    first, second = (extreme_eigenpairs(operator_of(matrix), 10, tolerance=1e-5) for _ in range(2))
    assert first.num_passes <= 20
    np.testing.assert_array_equal(first.values, second.values)


@pytest.mark.parametrize("wrong", [{"num_extreme": 0}, {"block": 0}])
def test_wrong_numbers_are_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="expected 1 or more"):
        extreme_eigenpairs(operator_of(np.eye(5)), **wrong)
