"""K-FAC and EKFAC of stores, against Kronecker products and dense matrices of NumPy."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

from pipeline import (
    Problem,
    ResidualTerm,
    RunOptions,
    StoreMismatchError,
    compare_approximations,
    compute_hessian,
    kronecker_factors,
    load_problem,
    open_store,
)
from tests.helpers.measured import FILE
from tests.helpers.runs import Cli

GGN = RunOptions(engine="ggn")
POINTS = np.random.default_rng(0).uniform(-1, 1, (12, 2))


def network(*widths: int, bias: bool = True) -> Any:
    keras.utils.set_random_seed(1)
    options = {"activation": "tanh", "use_bias": bias, "dtype": "float64"}
    layers = [keras.layers.Dense(width, **options) for width in widths]
    return keras.Sequential([keras.Input((2,), dtype="float64"), *layers])


def by_name(found: Any) -> dict[str, Any]:
    return {one.name: one for one in found.found}


def test_layers_are_sums_of_products_of_the_terms(tmp_path: Path) -> None:
    small = load_problem(
        "poisson", width=4, depth=1, num_interior=9, num_boundary=8, dtype="float64"
    )
    exact = compute_hessian(small, tmp_path / "h.zarr").hessian.to_numpy()
    factors = kronecker_factors(tmp_path / "h.zarr", small)
    result = compare_approximations(tmp_path / "h.zarr", factors=factors)
    gradient = open_store(tmp_path / "h.zarr").gradient.to_numpy()
    shift = result.damping * np.eye(len(exact))
    best = np.linalg.solve(exact + shift, gradient)
    first, second = (term.layers for term in factors.terms)
    numbers = {"K-FAC": 2 * (6 + 10 + 15 + 1), "EKFAC": 2 * (32 + 12 + 5)}
    for name, count in numbers.items():
        near = np.zeros_like(exact)
        for one, other in zip(first, second, strict=True):
            rows = slice(one.offset, one.stop)
            for layer in (one, other):
                if name == "K-FAC":
                    near[rows, rows] += np.kron(*layer.factors)
                else:
                    basis = np.kron(*layer.bases)
                    near[rows, rows] += basis @ np.diag(layer.diagonal.ravel()) @ basis.T
        found = by_name(result)[name]
        error = np.linalg.norm(exact - near) / np.linalg.norm(exact)
        moved = np.abs(np.linalg.eigvalsh(exact) - np.linalg.eigvalsh(near)).max()
        step = np.linalg.solve(near + shift, gradient)
        cosine = step @ best / np.linalg.norm(step) / np.linalg.norm(best)
        assert found.numbers == count
        assert found.error == pytest.approx(error, rel=1e-10)
        assert found.spectrum == pytest.approx(moved / np.linalg.norm(exact, 2), rel=1e-9)
        assert found.cosine == pytest.approx(cosine, rel=1e-8)


def test_of_one_term_no_product_is_nearer_than_the_nearest(tmp_path: Path) -> None:
    """Without biases the blocks of kernels are those of layers."""
    term = ResidualTerm("pde", POINTS, lambda x, u: u.d("xx") + u.d("yy") - u.value)
    problem = Problem(network(3, 2, bias=False), [term], coordinates="xy")
    compute_hessian(problem, tmp_path / "g.zarr", options=GGN)
    factors = kronecker_factors(tmp_path / "g.zarr", problem)
    found = by_name(compare_approximations(tmp_path / "g.zarr", factors=factors))
    assert found["layers"].error < found["Kronecker factors"].error < found["K-FAC"].error
    assert found["layers"].error < found["EKFAC"].error < found["K-FAC"].error


def test_parameters_beside_the_networks_keep_their_block(tmp_path: Path) -> None:
    terms = [
        ResidualTerm("pde", POINTS, lambda x, u, a, b: a * u.d("xx") + u.d("y") + b**2),
        ResidualTerm("fit", POINTS, lambda x, u: u.value - x[:, :1]),
    ]
    problem = Problem(
        network(3, 1), terms, coordinates="xy", parameters={"a": np.float64(0.7), "b": 0.3}
    )
    exact = compute_hessian(problem, tmp_path / "g.zarr", options=GGN).ggn.to_numpy()
    factors = kronecker_factors(tmp_path / "g.zarr", problem)
    (pde, fit) = factors.terms
    np.testing.assert_allclose(pde.corner, exact[-2:, -2:], rtol=1e-12)
    assert fit.corner.size == 0
    found = by_name(compare_approximations(tmp_path / "g.zarr", factors=factors))
    near = np.zeros_like(exact)
    near[-2:, -2:] = exact[-2:, -2:]
    for layer in (*pde.layers, *fit.layers):
        near[layer.offset : layer.stop, layer.offset : layer.stop] += layer.product()
    error = np.linalg.norm(exact - near) / np.linalg.norm(exact)
    assert found["K-FAC"].error == pytest.approx(error, rel=1e-10)
    # Of two terms: A of 3 and 4, B of 3 and 1 rows; and three numbers of the parameters.
    assert found["K-FAC"].numbers == 2 * (6 + 6 + 10 + 1) + 3


def test_factors_of_another_loss_are_refused(tmp_path: Path) -> None:
    size = {"width": 4, "depth": 1, "num_samples": 9, "dtype": "float64"}
    for seed in (0, 1):
        problem = load_problem("regression", **size, seed=seed)
        compute_hessian(problem, tmp_path / f"{seed}.zarr")
    factors = kronecker_factors(tmp_path / "1.zarr", problem)
    with pytest.raises(StoreMismatchError, match=r"not of the loss of .*0\.zarr: .* differ"):
        compare_approximations(tmp_path / "0.zarr", factors=factors)


def test_the_command(hessian: Cli, tmp_path: Path) -> None:
    file, path = tmp_path / "inverse.py", tmp_path / "g.zarr"
    file.write_text(FILE)
    assert hessian("run", file, "--engine", "ggn", "--store", path, "--tile", "8")[0] == 0
    assert "FAC" not in hessian("approximations", path)[1]
    code, text, _ = hessian("approximations", path, "--kfac")
    assert code == 0
    data = json.loads(hessian("approximations", path, "--kfac", "--json")[1])
    rows = {one["name"]: one for one in data["found"]}
    for name in ("K-FAC", "EKFAC"):
        assert f"{rows[name]['error']:.2%}" in text


def test_what_is_not_of_dense_layers_is_left_out_in_a_sentence(
    hessian: Cli, tmp_path: Path
) -> None:
    file, path = tmp_path / "slopes.py", tmp_path / "h.zarr"
    slopes = "network = keras.Sequential([mlp(1, width=2, depth=1), keras.layers.PReLU()])"
    network = 'network = mlp(1, width=4, depth=1, dtype="float64")'
    assert network in FILE
    file.write_text("import keras\n" + FILE.replace(network, slopes))
    assert hessian("run", file, "--store", path, "--tile", "8")[0] == 0
    code, text, errors = hessian("approximations", path, "--kfac")
    assert code == 0
    assert "layers" in text
    assert "FAC" not in text
    assert "alpha[0] belongs to no dense layer. They are left out." in errors
