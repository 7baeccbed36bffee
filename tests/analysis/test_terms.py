"""Parts of a Hessian against dense matrices and closed forms: shares, spectra, subspaces."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import keras
import numpy as np
import numpy.typing as npt
import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st

from hessian_tasks.networks.models import get_theta, set_theta
from hessian_tasks.parameters import ParameterLayout
from hessian_tasks.problem import LossTerm, Problem, ResidualTerm
from pipeline.analysis import parts as parts_module
from pipeline.analysis import terms as module
from pipeline.analysis.eigenpairs import extreme_eigenpairs
from pipeline.analysis.layers import participation
from pipeline.analysis.parts import inner_products, open_parts
from pipeline.analysis.subspaces import overlap, principal_angles
from pipeline.analysis.terms import TermAnalysis, analyse_terms
from pipeline.api import compute_hessian, open_store
from pipeline.curvature.steps import term_gradients
from pipeline.errors import PlanError, StoreError, StoreMismatchError
from pipeline.run.options import RunOptions
from tests.analysis.pairs import Pair, compute_pair, expect_spectra
from tests.helpers.closed_forms import least_squares
from tests.helpers.runs import Cli

Array = npt.NDArray[Any]


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory, tiny_problem: Callable[..., Problem]) -> Pair:
    return compute_pair(tiny_problem(width=10), tmp_path_factory.mktemp("terms"))


@pytest.fixture(scope="module")
def found(pair: Pair) -> TermAnalysis:
    return analyse_terms(pair.hessian, pair.ggn, num_dominant=4)


def test_parts_are_the_stored_matrices_and_their_difference(pair: Pair) -> None:
    parts = open_parts(pair.hessian, pair.ggn)
    assert [part.label for part in parts] == list(pair.dense)
    for part in parts:
        expected = pair.dense[part.label]
        scale = np.abs(pair.dense["H"]).max()
        np.testing.assert_allclose(part.dense(), expected, rtol=0, atol=1e-14 * scale)
        vectors = np.random.default_rng(0).standard_normal((len(expected), 2))
        images = part.operator(float(np.linalg.norm(expected))) @ vectors
        np.testing.assert_allclose(images, expected @ vectors, rtol=0, atol=1e-13 * scale)


def test_shares_are_those_of_the_dense_matrices(pair: Pair, found: TermAnalysis) -> None:
    matrices = [pair.dense[part.label] for part in found.parts]
    total = matrices[0]
    close = {"rtol": 0, "atol": 1e-12 * np.sum(total**2)}
    np.testing.assert_allclose(found.traces, [np.trace(m) for m in matrices], **close)
    brute = [[np.sum(first * second) for second in matrices] for first in matrices]
    np.testing.assert_allclose(found.products, brute, **close)
    for labels in [["H pde", "H dirichlet"], ["G", "H-G"]]:
        chosen = [i for i, part in enumerate(found.parts) if part.label in labels]
        assert found.trace_shares[chosen].sum() == pytest.approx(1, abs=1e-12)
        assert found.norm_shares[chosen].sum() == pytest.approx(1, abs=1e-12)


def test_spectra_and_dominant_pairs_are_those_of_dense_eigh(
    pair: Pair, found: TermAnalysis
) -> None:
    expect_spectra(pair, found)


def test_curvatures_of_the_terms_add_up_to_eigenvalues(found: TermAnalysis) -> None:
    index = {part.label: i for i, part in enumerate(found.parts)}
    values = found.dominant[0].eigenvalues
    for labels in [["H"], ["H pde", "H dirichlet"], ["G", "H-G"]]:
        total = found.curvatures[:, [index[label] for label in labels]].sum(axis=1)
        np.testing.assert_allclose(total, values, rtol=1e-11)


def test_eigenvalues_come_from_the_tiles_where_memory_is_short(
    pair: Pair, found: TermAnalysis, monkeypatch: pytest.MonkeyPatch
) -> None:
    no_memory = SimpleNamespace(virtual_memory=lambda: SimpleNamespace(available=0))
    monkeypatch.setattr(module, "psutil", no_memory)
    again = analyse_terms(pair.hessian, pair.ggn, num_dominant=4)
    assert not any(spectrum.complete for spectrum in again.spectra)
    for ours, dense in zip(again.spectra, found.spectra, strict=True):
        ends = [ours.eigenvalues[0], ours.eigenvalues[-1]]
        scale = dense.frobenius_norm
        expected = [dense.eigenvalues[0], dense.eigenvalues[-1]]
        np.testing.assert_allclose(ends, expected, rtol=0, atol=1e-10 * scale)
    np.testing.assert_allclose(again.curvatures, found.curvatures, rtol=0, atol=1e-8)
    np.testing.assert_allclose(again.overlaps, found.overlaps, rtol=0, atol=1e-6)


def test_dense_matrices_beyond_the_memory_are_refused(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    no_memory = SimpleNamespace(virtual_memory=lambda: SimpleNamespace(available=2**20))
    monkeypatch.setattr(parts_module, "psutil", no_memory)
    with pytest.raises(PlanError, match=r"41 parameters needs .* but 1 MiB are free"):
        open_parts(pair.hessian)[0].dense()


def test_eigenvectors_that_do_not_converge_are_refused(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    hasty = lambda operator, number: replace(  # noqa: E731
        extreme_eigenpairs(operator, number), tolerance=0.0
    )
    monkeypatch.setattr(module, "extreme_eigenpairs", hasty)
    no_memory = SimpleNamespace(virtual_memory=lambda: SimpleNamespace(available=0))
    monkeypatch.setattr(module, "psutil", no_memory)
    with pytest.raises(StoreError, match="4 dominant eigenvectors of H did not converge"):
        analyse_terms(pair.hessian, num_dominant=4)


def linear_problem() -> tuple[Problem, dict[str, Array]]:
    """Two least-squares fits by one linear model, with their Hessians in closed form."""
    rng = np.random.default_rng(5)
    model = keras.Sequential(
        [keras.Input((3,), dtype="float64"), keras.layers.Dense(1, dtype="float64")]
    )
    terms, hessians = [], {}
    for name, number, weight in [("many", 12, 0.5), ("few", 2, 3.0)]:
        points = rng.standard_normal((number, 3))
        residual = lambda x, u: u.value - tf.sin(x[:, 0:1])  # noqa: E731
        terms.append(ResidualTerm(name, points, residual, weight))
        hessians[name] = weight * least_squares(points, 1)
    return Problem(model, terms, ("x", "y", "z")), hessians


def test_least_squares_has_no_residual_curvature(tmp_path: Path) -> None:
    problem, hessians = linear_problem()
    pair = compute_pair(problem, tmp_path, (3, 2))
    found = analyse_terms(pair.hessian, pair.ggn, num_dominant=2)
    total = sum(hessians.values())
    for part, norm, share in zip(found.parts, found.norms, found.norm_shares, strict=True):
        expected = hessians[part.term] if part.term else total
        if part.kind == "residual_curvature":
            assert norm < 1e-14 * found.norms[0]
        else:
            np.testing.assert_allclose(part.dense(), expected, rtol=0, atol=1e-14 * norm)
            assert share == pytest.approx(np.sum(expected * total) / np.sum(total**2))
    # Two points determine two directions, so that "few" has rank 2.
    few = [part.label for part in found.parts].index("H few")
    assert found.spectra[few].inertia == (2, 2, 0)


ANGLES = np.radians([10.0, 60.0])


def quadratic_terms() -> Problem:
    """Terms ½ θᵀA_kθ in planes at known angles; the second bends down along the first's top."""
    size = 8
    basis = np.linalg.qr(np.random.default_rng(1).standard_normal((size, size)))[0]
    first = basis[:, :2]
    second = first * np.cos(ANGLES) + basis[:, 2:4] * np.sin(ANGLES)
    matrices = {"up": (first * [9.0, 5.0]) @ first.T, "down": (second * [-3.0, 2.0]) @ second.T}
    model = keras.Sequential(
        [
            keras.Input((size,), dtype="float64"),
            keras.layers.Dense(1, use_bias=False, dtype="float64"),
        ]
    )

    def loss(model: Any, matrix: Any) -> Any:
        theta = tf.reshape(model.trainable_weights[0].value, [-1])
        return 0.5 * tf.tensordot(theta, tf.linalg.matvec(matrix, theta), 1)

    terms = [LossTerm(name, loss, data={"matrix": m}) for name, m in matrices.items()]
    return Problem(model, terms)


def test_known_angles_and_conflict_between_two_terms(tmp_path: Path) -> None:
    problem = quadratic_terms()
    compute_hessian(problem, tmp_path / "h.zarr", options=RunOptions(per_term=True))
    found = analyse_terms(tmp_path / "h.zarr", num_dominant=2)
    up, down = found.dominant[1].vectors, found.dominant[2].vectors
    np.testing.assert_allclose(principal_angles(up, down), ANGLES, rtol=0, atol=1e-7)
    expected = np.mean(np.cos(ANGLES) ** 2)
    assert found.overlaps[1, 2] == pytest.approx(expected, rel=1e-10)
    np.testing.assert_allclose(np.diag(found.overlaps), 1, rtol=1e-12)
    # Along the top of H, near the first direction, "down" has curvature about -3 cos² 10°.
    assert found.conflicts.tolist() == [True, False]
    assert found.curvatures[0, 2] < -2


def test_parts_within_the_noise_are_no_conflict(found: TermAnalysis) -> None:
    quiet = replace(found, spectra=tuple(replace(s, noise_floor=1e9) for s in found.spectra))
    assert not quiet.conflicts.any()


@given(st.integers(1, 6), st.integers(1, 6), st.integers(0, 10**6))
def test_overlap_is_the_mean_squared_cosine(k: int, m: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    first, second = (np.linalg.qr(rng.standard_normal((12, n)))[0] for n in (k, m))
    angles = principal_angles(first, second)
    assert len(angles) == min(k, m)
    assert overlap(first, second) == pytest.approx(np.mean(np.cos(angles) ** 2), abs=1e-12)


def test_participation_is_counted_by_layer() -> None:
    layout = ParameterLayout.of([("a/kernel", (2, 3)), ("a/bias", (3,)), ("b/kernel", (3, 1))])
    vectors = np.random.default_rng(0).standard_normal((12, 5)) * 7
    found = participation(vectors, layout)
    for index, vector in enumerate(vectors.T / np.linalg.norm(vectors, axis=0)[:, np.newaxis]):
        expected = [sum(x**2 for x in vector[:9]), sum(x**2 for x in vector[9:])]
        np.testing.assert_allclose(found.weights[index], expected, rtol=1e-14)
        assert found.ratios[index] == pytest.approx(1 / sum(x**4 for x in vector))
    assert found.sizes.tolist() == [0.75, 0.25]
    assert participation(np.ones((12, 1)), layout).ratios.tolist() == pytest.approx([12.0])
    assert json.loads(json.dumps(found.to_json()))["layers"] == ["a", "b"]


def test_gradients_of_terms_are_finite_differences_of_their_losses(pair: Pair) -> None:
    from hessian_tasks.loss import losses_and_gradient

    gradients = term_gradients(pair.hessian, pair.problem)
    total = open_store(pair.hessian).gradient.to_numpy()
    np.testing.assert_allclose(sum(gradients.values()), total, rtol=0, atol=1e-12)
    model, step = pair.problem.model, 1e-5
    theta = get_theta(model)
    direction = np.random.default_rng(2).standard_normal(len(theta))
    losses = []
    for sign in (1, -1):
        set_theta(model, theta + sign * step * direction)
        losses.append(losses_and_gradient(pair.problem)[0])
    set_theta(model, theta)
    for term, gradient in gradients.items():
        slope = (losses[0][term] - losses[1][term]) / (2 * step)
        # Third derivatives times step²; losses of order 10 lose 1e-15 / step.
        assert gradient @ direction == pytest.approx(slope, rel=1e-6)


def test_other_stores_are_refused(pair: Pair, tmp_path: Path) -> None:
    compute_hessian(pair.problem, tmp_path / "total.zarr")
    with pytest.raises(StoreError, match=r"total Hessian alone.*--per-term"):
        analyse_terms(tmp_path / "total.zarr")
    with pytest.raises(StoreMismatchError, match="Gauss-Newton matrix, but the Hessian is needed"):
        analyse_terms(pair.ggn)
    problem, _ = linear_problem()
    other = compute_pair(problem, tmp_path, (3, 2))
    with pytest.raises(StoreMismatchError, match="different inputs"):
        analyse_terms(pair.hessian, other.ggn)


def test_total_alone_still_has_its_two_parts(pair: Pair, tmp_path: Path) -> None:
    compute_hessian(pair.problem, tmp_path / "total.zarr")
    found = analyse_terms(tmp_path / "total.zarr", pair.ggn, num_dominant=2)
    assert [part.label for part in found.parts] == ["H", "G", "H-G"]


def test_command_prints_the_table_and_json(hessian: Cli, tmp_path: Path) -> None:
    problem = ["heat", "-o", "width=4", "-o", "depth=1", "-o", "dtype=float64"]
    for name, extra in [("h", []), ("g", ["--engine", "ggn"])]:
        command = ["run", *problem, "--per-term", *extra, "--store", tmp_path / f"{name}.zarr"]
        assert hessian(*command)[0] == 0
    stores = [tmp_path / "h.zarr", "--ggn", tmp_path / "g.zarr", "--number", 3]
    code, output, errors = hessian("terms", *stores, "--gradients")
    assert code == 0, errors
    for word in (
        "H-G pde",
        "mean squared cosine",
        "gradients of the terms",
        "κ",
        "weight by layer",
    ):
        assert word in output
    data = json.loads(hessian("terms", *stores, "--json")[1])
    assert [part["kind"] for part in data["parts"][:3]] == ["hessian", "ggn", "residual_curvature"]
    assert len(data["curvatures"]) == 3
    weights = np.array(data["participation"]["weights"])
    np.testing.assert_allclose(weights.sum(axis=1), 1, rtol=1e-12)
    code, _, errors = hessian("terms", tmp_path / "g.zarr")
    assert code == 1
    assert "the Hessian is needed" in errors


def test_one_pass_over_any_tiles_gives_the_same_sums(pair: Pair, tmp_path: Path) -> None:
    options = RunOptions(per_term=True, tile=41)
    compute_hessian(pair.problem, tmp_path / "whole.zarr", options=options)
    whole = inner_products(open_parts(tmp_path / "whole.zarr"))
    tiled = inner_products(open_parts(pair.hessian))
    for first, second in zip(whole, tiled, strict=True):
        np.testing.assert_allclose(first, second, rtol=1e-12)
