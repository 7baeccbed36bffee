"""Eigenvectors at the ends of a spectrum, against all of them."""

from typing import Any

import numpy as np
import pytest

from pipeline import compute_hessian
from pipeline.analysis import terms as terms_module
from pipeline.analysis._dense import dense_ends
from pipeline.analysis.ends import end_ranks, spectrum_with_ends
from pipeline.analysis.spectrum import spectrum
from pipeline.report import _build
from pipeline.store.store import HessianStore

Array = Any


def symmetric(size: int, seed: int = 0) -> Array:
    matrix = np.random.default_rng(seed).standard_normal((size, size))
    return matrix + matrix.T


@pytest.mark.parametrize("ends", [(0, 1), (1, 0), (2, 3), (3, 5)])
@pytest.mark.parametrize("size", [1, 2, 5, 8, 60])
def test_ends_are_those_of_the_whole_decomposition(size: int, ends: tuple[int, int]) -> None:
    below = min(ends[0], size)
    above = min(ends[1], size - below)
    matrix = symmetric(size)
    values, vectors = dense_ends(matrix.copy(), below, above)
    expected = np.linalg.eigvalsh(matrix)
    # Backward stable: eigenvalues err by some P ε ‖A‖.
    atol = 1e-14 * size * max(1.0, np.abs(expected).max())
    np.testing.assert_allclose(values, expected, atol=atol)
    chosen = expected[[*range(below), *range(size - above, size)]]
    assert vectors.shape == (size, below + above)
    np.testing.assert_allclose(matrix @ vectors, vectors * chosen, atol=10 * atol)
    np.testing.assert_allclose(vectors.T @ vectors, np.eye(below + above), atol=1e-13)


def test_equal_eigenvalues_have_orthogonal_vectors() -> None:
    basis = np.linalg.qr(symmetric(40))[0]
    matrix = (basis * np.repeat([0.0, 7.0], [34, 6])) @ basis.T
    _, vectors = dense_ends((matrix + matrix.T) / 2, 3, 4)
    np.testing.assert_allclose(vectors.T @ vectors, np.eye(7), atol=1e-13)
    np.testing.assert_allclose(matrix @ vectors[:, 3:], 7 * vectors[:, 3:], atol=1e-12)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> HessianStore:
    from hessian_tasks.problems import poisson
    from pipeline import RunOptions

    path = tmp_path_factory.mktemp("ends") / "h.zarr"
    options = RunOptions(per_term=True)
    compute_hessian(poisson.problem(8, 2, 10, 8, 0, "float64"), path, options=options)
    return HessianStore(path)


@pytest.mark.parametrize("memory", [None, 2**20])
def test_a_store_has_the_ends_of_its_matrix(store: HessianStore, memory: int | None) -> None:
    found, values, vectors = spectrum_with_ends(store, 5, 3, memory=memory)
    assert found.complete == (memory is None)
    matrix = np.asarray(store.hessian()[...])
    expected = np.linalg.eigvalsh(matrix)[end_ranks(len(matrix), 5, 3)]
    whole = spectrum(store)
    assert (found.trace, found.noise_floor) == (whole.trace, whole.noise_floor)
    # Iteration ends at residuals of 1e-8 of the norm, which bound the errors of eigenvalues.
    atol = 1e-7 * whole.frobenius_norm
    np.testing.assert_allclose(values, expected, atol=atol)
    np.testing.assert_allclose(vectors @ matrix, values[:, np.newaxis] * vectors, atol=atol)


def test_a_report_decomposes_each_matrix_once(
    store: HessianStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    decomposed: list[int] = []

    def counted(matrix: Array, *_: Any) -> Any:
        decomposed.append(len(matrix))
        return np.linalg.eigvalsh(matrix), None

    monkeypatch.setattr(terms_module, "dense_eigenpairs", counted)
    page = _build.build_page(store, stored_only=True)
    assert "Loss terms" in [section.title for section in page.sections]
    # Those of both terms; the whole is known from its ends.
    assert decomposed == [store.num_params] * 2
