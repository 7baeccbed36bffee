"""Spectra of stored matrices whose eigenvalues are known beforehand."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.patches import StepPatch

from hessian_tasks.problem import LossTerm, Problem
from pipeline import compute_hessian, verify_hessian
from pipeline.analysis import spectrum as module
from pipeline.analysis.operator import noise_floor
from pipeline.analysis.pictures import density_picture, eigenvalue_picture, matrix_picture, save
from pipeline.analysis.spectrum import Spectrum, eigenvalues_between, spectrum
from pipeline.errors import PlanError, StoreError
from pipeline.run.verify import certify
from pipeline.store.store import HessianStore
from tests.helpers import matrices
from tests.helpers.runs import Cli

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
        [
            keras.Input((size,), dtype="float64"),
            keras.layers.Dense(1, use_bias=False, dtype="float64"),
        ]
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
    assert found.inertia is found.numerical_rank is found.effective_rank is None
    expected = np.concatenate([np.sort(EIGENVALUES)[:4], np.sort(EIGENVALUES)[-4:]])
    np.testing.assert_allclose(found.eigenvalues, expected, atol=found.noise_floor)
    assert found.pairs is not None
    assert found.pairs.converged.all()
    # Nothing near 0 was looked for.
    np.testing.assert_allclose(found.least_condition_number, 1e3 / 0.5, rtol=1e-6)


@pytest.mark.parametrize("num_extreme", [None, 5])
def test_eigenvectors(store: HessianStore, num_extreme: int | None) -> None:
    found = spectrum(store, num_extreme=num_extreme, vectors=True)
    matrix = np.asarray(store.hessian()[...])
    assert found.vectors is not None
    residuals = matrix @ found.vectors - found.vectors * found.eigenvalues
    np.testing.assert_allclose(residuals, 0, atol=1e-9)
    gram = found.vectors.T @ found.vectors
    np.testing.assert_allclose(gram, np.eye(len(found.eigenvalues)), atol=1e-10)


def test_ranks_and_conditions_with_the_noise_floor(store: HessianStore) -> None:
    found = spectrum(store)
    nonzero = np.abs(EIGENVALUES[EIGENVALUES != 0])
    assert found.numerical_rank == 34
    expected = nonzero.sum() ** 2 / np.sum(nonzero**2)
    np.testing.assert_allclose(found.effective_rank, expected, rtol=1e-9)
    # Six eigenvalues are within the noise.
    smallest = np.abs(found.eigenvalues).min()
    expected = (1e3 - found.noise_floor) / (smallest + found.noise_floor)
    np.testing.assert_allclose(found.least_condition_number, expected, rtol=1e-9)


def test_a_condition_number_that_ends_at_the_floor_is_a_bound_without_its_digits() -> None:
    def known(*values: float, floor: float, complete: bool = True) -> str:
        return Spectrum(np.array(values), complete, floor, 0.0, 1.0).conditioning

    assert known(-2.0, 0.5, 8.0, floor=1e-9) == "16"
    assert known(-2.0, 0.5, 8.0, floor=1e-9, complete=False) == "at least 16"
    # Of verifications by other random vectors, of the same matrix.
    bounds = {known(-2.0, 1e-7, 8.0, floor=floor) for floor in (3.1e-7, 5e-7, 6.5e-7)}
    assert bounds == {"at least 1e+07"}
    assert known(0.0, 0.0, floor=1e-9) == "at least 1e+00"


@pytest.mark.parametrize("interval", [(-0.9, -0.4), (1e-4, 1.0), (100.0, 2000.0), (2e3, 3e3)])
@pytest.mark.parametrize("memory", [None, 0])
def test_eigenvalues_in_an_interval(
    store: HessianStore, interval: tuple[float, float], memory: int | None
) -> None:
    found = eigenvalues_between(store, interval, vectors=True, memory=memory)
    low, high = interval
    expected = np.sort(EIGENVALUES[(low < EIGENVALUES) & (high >= EIGENVALUES)])
    np.testing.assert_allclose(found.eigenvalues, expected, atol=found.noise_floor)
    assert not found.complete
    matrix = np.asarray(store.hessian()[...])
    assert found.vectors is not None
    residuals = matrix @ found.vectors - found.vectors * found.eigenvalues
    np.testing.assert_allclose(residuals, 0, atol=1e-9)


def test_an_interval_too_deep_for_the_memory_is_filtered_or_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_FROM_THE_ENDS", 32)
    values = np.linspace(-1.0, 1.0, 200)
    store = matrices.store_matrix(tmp_path / "h.zarr", matrices.reflected(values), 100)
    found = eigenvalues_between(store, (0.0, 0.1), memory=0)
    expected = values[(values > 0) & (values <= 0.1)]
    np.testing.assert_allclose(found.eigenvalues, expected, atol=found.noise_floor)
    assert found.pairs is not None
    assert found.pairs.converged.all()
    with pytest.raises(PlanError, match=r"too deep .* too narrow .* need 32\.3 MiB"):
        eigenvalues_between(store, (0.0, 1e-5), memory=0)
    with pytest.raises(PlanError, match="lower end first"):
        eigenvalues_between(store, (1.0, 0.0))


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


def test_the_outermost_bars_are_whole(store: HessianStore) -> None:
    (axes,) = density_picture(spectrum(store), "density").axes
    edges = np.concatenate([patch.get_data().edges for patch in stairs(axes)])
    low, high = axes.get_xlim()
    assert low < edges.min() < 0 < edges.max() < high


def stairs(axes: Axes) -> list[StepPatch]:
    return [patch for patch in axes.patches if isinstance(patch, StepPatch)]


def test_pictures_are_written(store: HessianStore, tmp_path: Path) -> None:
    for ending in ("png", "svg"):
        save(matrix_picture(store), tmp_path / f"matrix.{ending}")
        save(eigenvalue_picture(spectrum(store), "Spectrum"), tmp_path / f"spectrum.{ending}")
        assert (tmp_path / f"matrix.{ending}").stat().st_size > 1000
        assert (tmp_path / f"spectrum.{ending}").stat().st_size > 1000


def test_commands_answer(store: HessianStore, tmp_path: Path, hessian: Cli) -> None:
    code, output, _ = hessian(
        "spectrum", store.location, "--extreme", 3, "--vectors", tmp_path / "v.npz"
    )
    assert code == 0
    assert "all converged" in output
    with np.load(tmp_path / "v.npz") as saved:
        assert saved["vectors"].shape == (40, 6)
        assert saved["residuals"].shape == saved["eigenvalues"].shape == (6,)
    code, output, _ = hessian("spectrum", store.location, "--interval", -2, -0.4, "--json")
    assert code == 0
    np.testing.assert_allclose(sorted(json.loads(output)["smallest"]), EIGENVALUES[:4], atol=1e-9)
    code, output, _ = hessian("spectrum", store.location, "--density", "--extreme", 4, "--json")
    assert code == 0
    density = json.loads(output)["density"]
    total = sum(density["counts"].values())
    np.testing.assert_allclose(total, 40, rtol=1e-9)
    assert len(density["grid"]) == len(density["density"]) == len(density["density_error"])
    code, output, _ = hessian("spectrum", store.location, "--density")
    assert code == 0
    assert "above the floor" in output
    code, output, _ = hessian("statistics", store.location)
    assert code == 0
    assert f"{EIGENVALUES.sum():.6g}" in output
    code, output, _ = hessian("export", store.location, tmp_path / "h.npy")
    assert code == 0
    np.testing.assert_array_equal(np.load(tmp_path / "h.npy"), np.asarray(store.hessian()[...]))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--interval", "1", "2", "--density"], "--interval goes neither"),
        (["--memory", "much"], "'much' is no number of bytes"),
        (["--term", "pde"], "no Hessian of term 'pde'"),
        (["--interval", "2", "1"], "lower end first"),
    ],
)
def test_mistakes_are_explained(
    store: HessianStore, hessian: Cli, arguments: list[str], message: str
) -> None:
    code, _, errors = hessian("spectrum", store.location, *arguments)
    assert code != 0
    assert message in errors


def test_the_floor_is_the_root_mean_square_of_the_error(tmp_path: Path) -> None:
    """One eigenvalue has most of the norm, so ‖H v‖ is that of v along one vector, by chance."""
    matrix = matrices.matrix_of_spectrum(np.r_[1.0, np.geomspace(1e-6, 1e-3, 39)])
    noise = np.random.default_rng(4).standard_normal((40, 40)) * 1e-10
    error = noise + noise.T
    path = tmp_path / "h.zarr"
    opened = matrices.store_matrix(path, matrix + error, 16)
    norm = np.linalg.norm(matrix + error)
    for _ in range(2):
        certificate = certify(opened, {"hessian": lambda vectors: vectors @ matrix})
        drawn = np.random.default_rng(certificate.seed).standard_normal((3, 40))
        expected = np.sqrt(np.mean(np.sum((drawn @ error) ** 2, axis=1))) / norm
        # Products and their difference are known to 16 digits of H, 7 of E.
        np.testing.assert_allclose(certificate.rms_errors["hessian"], expected, rtol=1e-5)
        # ‖E v‖² of one v is ‖E‖_F² ± √(2 · 2 / 40), of three ± 18 %, and its root ± 9 %.
        assert expected * norm == pytest.approx(np.linalg.norm(error), rel=0.5)
        opened.set_certificate(certificate.to_json())
        floor = spectrum(HessianStore(path)).noise_floor
        np.testing.assert_allclose(floor, expected * norm, rtol=1e-3)
