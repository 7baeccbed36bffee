"""Spectra of stored matrices whose eigenvalues are known beforehand."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from hessian_tasks.problem import LossTerm, Problem
from pipeline import compute_hessian, verify_hessian
from pipeline.analysis import spectrum as module
from pipeline.analysis.pictures import draw_matrix, draw_spectrum
from pipeline.analysis.spectrum import noise_floor, spectrum
from pipeline.errors import StoreError
from pipeline.store import HessianStore

EIGENVALUES = np.concatenate([np.linspace(-1.0, -0.5, 4), np.zeros(6), np.geomspace(1e-3, 1e3, 30)])


def quadratic_problem() -> Problem:
    """Loss ½ θᵀAθ, whose Hessian is A, with A of known spectrum."""
    import keras
    import tensorflow as tf

    size = len(EIGENVALUES)
    rng = np.random.default_rng(3)
    basis, _ = np.linalg.qr(rng.standard_normal((size, size)))
    matrix = basis @ np.diag(EIGENVALUES) @ basis.T
    model = keras.Sequential(
        [keras.Input((size,)), keras.layers.Dense(1, use_bias=False, dtype="float64")]
    )

    def loss(model: Any, matrix: Any) -> Any:
        theta = tf.reshape(model.trainable_weights[0].value, [-1])
        return 0.5 * tf.tensordot(theta, tf.linalg.matvec(matrix, theta), 1)

    return Problem(model, [LossTerm("quadratic", loss, data={"matrix": matrix})])


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> HessianStore:
    path = tmp_path_factory.mktemp("spectrum") / "h.zarr"
    compute_hessian(quadratic_problem(), path)
    assert verify_hessian(path, quadratic_problem()).passed
    return HessianStore(path)


def test_all_eigenvalues_are_found(store: HessianStore) -> None:
    found = spectrum(store)
    np.testing.assert_allclose(found.eigenvalues, np.sort(EIGENVALUES), atol=found.noise_floor)
    assert found.complete
    assert found.inertia == (30, 6, 4)
    np.testing.assert_allclose(found.condition_number, 1e6, rtol=1e-6)


def test_trace_and_norm_come_exactly_from_the_records(store: HessianStore) -> None:
    found = spectrum(store)
    np.testing.assert_allclose(found.trace, EIGENVALUES.sum(), rtol=1e-12)
    np.testing.assert_allclose(found.frobenius_norm, np.linalg.norm(EIGENVALUES), rtol=1e-12)


def test_extreme_eigenvalues_where_memory_is_short(
    store: HessianStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    no_memory = SimpleNamespace(virtual_memory=lambda: SimpleNamespace(available=0))
    monkeypatch.setattr(module, "psutil", no_memory)
    found = spectrum(store, num_extreme=4)
    assert not found.complete
    assert found.inertia is None
    expected = np.concatenate([EIGENVALUES[:4], EIGENVALUES[-4:]])
    # ARPACK's default tolerance is the machine precision, relative to the norm.
    np.testing.assert_allclose(found.eigenvalues, expected, atol=1e-12 * 1e3)


def test_noise_floor_bounds_the_error_of_rounding() -> None:
    rng = np.random.default_rng(0)
    matrix = rng.standard_normal((200, 200))
    matrix = matrix + matrix.T
    rounded = matrix.astype(np.float32).astype(np.float64)
    moved = np.abs(np.linalg.eigvalsh(rounded) - np.linalg.eigvalsh(matrix)).max()
    floor = noise_floor(200, float(np.finfo(np.float32).eps), float(np.linalg.norm(matrix)))
    assert 0 < moved <= floor


def test_unknown_term_and_missing_rows_are_refused(store: HessianStore, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"no Hessian of term 'pde'; it has none"):
        spectrum(store, "pde")
    import shutil

    copy = tmp_path / "copy.zarr"
    shutil.copytree(str(store.location), copy)
    shutil.rmtree(copy / "records" / "000000")
    with pytest.raises(StoreError, match=r"lacks 1 of 1 block rows.*hessian run --store"):
        spectrum(HessianStore(copy))


def test_pictures_are_written(store: HessianStore, tmp_path: Path) -> None:
    for ending in ("png", "svg"):
        draw_matrix(store, tmp_path / f"matrix.{ending}")
        draw_spectrum(spectrum(store), "Spectrum", tmp_path / f"spectrum.{ending}")
        assert (tmp_path / f"matrix.{ending}").stat().st_size > 1000
        assert (tmp_path / f"spectrum.{ending}").stat().st_size > 1000
