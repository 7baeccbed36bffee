"""What leaving out a point changes, against fits without it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline import Problem, ProblemError, ResidualTerm, influence
from tests.helpers.chosen import some_slow
from tests.helpers.measured import FILE, PLACES, Features, inverse_problem, store
from tests.helpers.runs import Cli


def ridge(design: Any, y: Any, amount: float) -> Any:
    """The least-squares solution, by QR."""
    size = design.shape[1]
    design = np.concatenate([design, np.sqrt(amount) * np.eye(size)])
    return np.linalg.lstsq(design, np.concatenate([y, np.zeros((size, 1))]), rcond=None)[0]


@pytest.mark.parametrize("components", some_slow([1, 2], [2]))
def test_linear_regression_without_a_point(components: int, tmp_path: Path) -> None:
    features, weight, damping = Features(4), 0.6, 0.02
    y = np.sin(4 * PLACES) + 0.1 * np.random.default_rng(1).standard_normal(PLACES.shape)
    y = np.concatenate([y, -y / 3], axis=1)[:, :components]

    def fit(x: Any, u: Any, y: Any) -> Any:
        # The second component is of the slope.
        return [(u.value, u.d("x"))[c][:, 0] - y[:, c] for c in range(components)]

    term = ResidualTerm("fit", PLACES, fit, weight=weight, data={"y": y})
    designs = [features(PLACES), features.slope(PLACES)][:components]
    design = np.stack(designs, axis=1).reshape(-1, 4)
    # As the pipeline has it, 2 w / (N C) Σ ½ r² + ½ μ |θ|²: damping by that factor.
    amount = damping * y.size / (2 * weight)
    best = ridge(design, y.reshape(-1, 1), amount)
    features.model.layers[-1].set_weights([best])
    problem = Problem(features.model, [term], coordinates="x")
    found = influence(store(problem, tmp_path / "h.zarr"), damping=damping, problem=problem)

    grid = features(np.linspace(0, 1, 100)[:, None])
    for point in range(len(PLACES)):
        keep = np.delete(np.arange(y.size).reshape(y.shape), point, axis=0).reshape(-1)
        without = ridge(design[keep], y.reshape(-1, 1)[keep], amount)
        rms = np.sqrt(np.mean((grid @ (without - best)) ** 2))
        # Features of condition 1e3, in float64.
        assert found.changes["solution"][point] == pytest.approx(rms, rel=1e-6, abs=1e-10)
    inverse = np.linalg.inv(design.T @ design + amount * np.eye(4))
    assert found.leverage.sum() == pytest.approx(np.trace(design @ inverse @ design.T), rel=1e-6)


def test_an_unknown_coefficient_without_a_measurement(fitted: Any, tmp_path: Path) -> None:
    features, refit, y, best = fitted
    problem = inverse_problem(features, y, best[-1])
    found = influence(store(problem, tmp_path / "h.zarr"), problem=problem)
    expected = []
    for point in range(len(PLACES)):
        weights = np.ones(len(refit.inside) + len(PLACES))
        weights[len(refit.inside) + point] = 0.0
        expected.append(refit.solve(y, best, weights)[-1] - best[-1])
    # Bilinear in the weights and k: what the quadratic model leaves out is of second order in the
    # change, here a few hundredths of it; the whole is compared, not each small one.
    error = np.linalg.norm(found.changes["k"] - expected) / np.linalg.norm(expected)
    assert error < 0.1
    assert found.strongest(1, "k")[0] == np.argmax(np.abs(expected))


def test_what_one_point_alone_determines(tmp_path: Path) -> None:
    features = Features(2)
    features.model.layers[-1].set_weights([np.ones((2, 1))])
    places = np.array([[0.1], [0.9]])
    fit = ResidualTerm("fit", places, lambda x, u, y: u.value - y, data={"y": places})
    problem = Problem(features.model, [fit], coordinates="x")
    found = influence(store(problem, tmp_path / "h.zarr"), problem=problem)
    np.testing.assert_allclose(found.leverage, 1.0, atol=1e-9)
    assert np.isinf(found.changes["solution"]).all()
    assert found.to_json()["points"]["change of solution"] == [None, None]
    with pytest.raises(ProblemError, match="no residual term 'pde'"):
        influence(tmp_path / "h.zarr", "pde", problem=problem)


def test_the_command(hessian: Cli, tmp_path: Path) -> None:
    file, path, picture = (tmp_path / name for name in ("inverse.py", "g.zarr", "map.svg"))
    file.write_text(FILE)
    assert hessian("run", file, "--engine", "ggn", "--store", path, "--tile", "8")[0] == 0
    code, text, _ = hessian("influence", path, "--number", "3", "--picture", picture)
    assert code == 0
    assert "fit: 12, of which these change nu most" in text
    assert picture.read_text().startswith("<?xml")
    points = json.loads(hessian("influence", path, "--json")[1])["points"]
    assert len(points["change of nu"]) == 12
    first = int(np.argmax(np.abs(points["change of nu"])))
    assert f"{points['x'][first]:.4g}" in text.split("Δ solution")[1].splitlines()[1]
    code, _, errors = hessian("influence", path, "--of", "mu")
    assert code == 2
    assert "expected one of: nu, solution" in errors
