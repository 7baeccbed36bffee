"""Error bars against closed forms, ridge regression, and refits to other measurements."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from pipeline import (
    LossTerm,
    PlanError,
    Problem,
    ProblemError,
    ResidualTerm,
    uncertainty,
)
from pipeline.cli.render._inverse import measured
from tests.helpers.chosen import some_slow
from tests.helpers.measured import (
    FILE,
    PLACES,
    SIGMA,
    Features,
    inverse_problem,
    store,
)
from tests.helpers.runs import Cli


@pytest.mark.parametrize("damping", some_slow([0.0, 0.03], [0.03]))
@pytest.mark.parametrize("sigma", some_slow([None, SIGMA], [None]))
def test_ridge_regression(sigma: float | None, damping: float, tmp_path: Path) -> None:
    features = Features()
    y = np.sin(3 * PLACES) + SIGMA * np.random.default_rng(1).standard_normal(PLACES.shape)
    fit = ResidualTerm("fit", PLACES, lambda x, u, y: u.value - y, weight=0.7, data={"y": y})
    problem = Problem(features.model, [fit], coordinates="x")
    design, number = features(PLACES), len(PLACES)
    best = np.linalg.lstsq(design, y, rcond=None)[0]
    features.model.layers[-1].set_weights([best])
    found = uncertainty(
        store(problem, tmp_path / "h.zarr"), "fit", sigma, damping=damping, problem=problem
    )

    # By QR, whose condition is the root of that of the normal equations.
    ridge = number * damping / (2 * 0.7)
    factor = np.linalg.qr(np.concatenate([design, np.sqrt(ridge) * np.eye(5)]), "r")
    effective = np.linalg.norm(np.linalg.solve(factor.T, design.T)) ** 2
    left = float(np.sum((design @ best - y) ** 2))
    variance = sigma**2 if sigma else left / (number - effective)
    shown = features(found.band.cut.points)
    expected = np.sqrt(variance) * np.linalg.norm(np.linalg.solve(factor.T, shown.T), axis=0)
    np.testing.assert_allclose(found.noise.sigma**2, variance, rtol=1e-6)
    # Off by no more than is stated, which is little; σ itself is exact to some 1e-13.
    stated = found.band.rounding[0] + 1e-12 * expected
    assert (np.abs(found.band.deviation[0] - expected) <= stated).all()
    assert (found.band.rounding < 1e-3 * found.band.deviation).all()
    np.testing.assert_allclose(found.band.solution[0], (shown @ best)[:, 0], atol=1e-9)
    assert found.parameters == ()
    if sigma is None:
        assert found.noise.effective == pytest.approx(effective, rel=1e-6)


def test_an_unknown_coefficient(fitted: Any, tmp_path: Path) -> None:
    features, refit, y, best = fitted
    problem = inverse_problem(features, y, best[-1])
    found = uncertainty(store(problem, tmp_path / "g.zarr", "ggn"), problem=problem)
    (k,) = found.parameters
    assert (k.name, k.value) == ("k", best[-1])
    assert k.standard_error == pytest.approx(refit.standard_error(best, y), rel=1e-6)
    assert k.identified
    # It was refitted until the step was some 1e-14; its gradient is rounding.
    assert k.offset < 1e-6
    assert k.rounding < 1e-3 * k.standard_error
    # H has the residuals' second derivatives, which are small where they are.
    of_hessian = uncertainty(store(problem, tmp_path / "h.zarr"), problem=problem)
    assert of_hessian.parameters[0].standard_error == pytest.approx(k.standard_error, rel=0.2)


def test_refits_to_other_measurements_scatter_as_the_standard_error_says(fitted: Any) -> None:
    _, refit, _, best = fitted
    draw = np.random.default_rng(5)
    truth = refit.places @ best[:-1]
    found = []
    for _ in range(200):
        y = truth[:, None] + SIGMA * draw.standard_normal(PLACES.shape)
        unknowns = refit.solve(y, best)
        found.append((unknowns[-1], refit.standard_error(unknowns, y)))
    values, errors = np.array(found).T
    # 200 refits tell a standard deviation to 5 %, and a coverage of 95 % to 1.5 %.
    assert values.std() == pytest.approx(np.mean(errors), rel=0.2)
    assert 0.90 <= np.mean(np.abs(values - values.mean()) < 1.96 * errors) <= 0.99


def test_what_the_data_do_not_tell_apart(tmp_path: Path) -> None:
    features = Features()
    y = 1 + features(PLACES) @ np.ones((5, 1))
    fit = ResidualTerm("fit", PLACES, lambda x, u, y, a, b: u.value + a + b - y, data={"y": y})
    features.model.layers[-1].set_weights([np.ones((5, 1))])
    problem = Problem(features.model, [fit], coordinates="x", parameters={"a": 0.25, "b": 0.75})
    found = uncertainty(store(problem, tmp_path / "h.zarr"), sigma=SIGMA, problem=problem)
    assert found.inverse.left_out.shape[1] == 1
    for parameter in found.parameters:
        assert not parameter.identified
        assert parameter.at_least > 10 * parameter.standard_error
    # Half of a + b each: without the other, they are one.
    assert found.correlations[0, 1] == pytest.approx(1.0, abs=1e-6)
    assert (found.band.at_least <= 1.01 * found.band.deviation).all()


def test_a_saddle_has_no_covariance(tmp_path: Path) -> None:
    features = Features()
    features.model.layers[-1].set_weights([np.ones((5, 1))])
    terms = [
        ResidualTerm("fit", PLACES, lambda x, u, y: u.value - y, data={"y": PLACES}),
        ResidualTerm("away", PLACES, lambda x, u: u.value, weight=-2.0),
    ]
    problem = Problem(features.model, terms, coordinates="x")
    path = store(problem, tmp_path / "h.zarr")
    with pytest.raises(PlanError, match="5 negative eigenvalues beyond its noise"):
        uncertainty(path, problem=problem)


def test_a_matrix_without_a_term_is_that_of_another_loss(tmp_path: Path) -> None:
    features = Features()
    fit = ResidualTerm("fit", PLACES, lambda x, u, y: u.value - y, data={"y": PLACES})
    mean = LossTerm("mean", lambda model: tf.reduce_mean(model(PLACES)) ** 3)
    problem = Problem(features.model, [fit, mean], coordinates="x")
    path = store(problem, tmp_path / "g.zarr", "ggn")
    with pytest.raises(PlanError, match=r"is without mean.*Compute the Hessian"):
        uncertainty(path, problem=problem)


@pytest.fixture(scope="module")
def computed(fitted: Any, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Problem]:
    features, _, y, best = fitted
    problem = inverse_problem(features, y, best[-1])
    return store(problem, tmp_path_factory.mktemp("refused") / "g.zarr", "ggn"), problem


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"data": "nowhere"}, "no residual term 'nowhere'.*residual terms: decay, fit"),
        ({"sigma": -1.0}, "standard deviation is -1.0; expected one above 0"),
    ],
)
def test_what_is_refused(asked: Any, message: str, computed: tuple[Path, Problem]) -> None:
    path, problem = computed
    with pytest.raises(ProblemError, match=message):
        uncertainty(path, **asked, problem=problem)


def test_the_command(hessian: Cli, tmp_path: Path) -> None:
    file, path, picture = (tmp_path / name for name in ("inverse.py", "g.zarr", "band.svg"))
    file.write_text(FILE)
    assert hessian("run", file, "--engine", "ggn", "--store", path, "--tile", "8")[0] == 0
    code, text, _ = hessian("uncertainty", path, "--sigma", "0.01", "--picture", picture)
    assert code == 0
    assert "fit: 12 residuals, σ = 0.01 (given)" in text
    assert picture.read_text().startswith("<?xml")
    data = json.loads(hessian("uncertainty", path, "--sigma", "0.01", "--json")[1])
    (nu,) = data["parameters"]
    assert measured(nu["value"], nu["standard_error"]) in text
    assert data["noise"] == {"term": "fit", "count": 12, "sigma": 0.01, "effective": None}
    code, _, errors = hessian("uncertainty", path, "--data", "absent")
    assert code != 0
    assert "residual terms: pde, fit" in errors
