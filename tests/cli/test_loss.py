"""``hessian loss``: the loss at given weights, which nothing has to be computed and stored for."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from pipeline import compute_hessian, load_problem
from tests.helpers.runs import Cli, snapshot

OPTIONS = {"width": 4, "depth": 1, "num_samples": 10, "dtype": "float64"}
FLAGS = [f"-o{key}={value}" for key, value in OPTIONS.items()]


def test_loss_is_that_of_the_weights(
    tmp_path: Path, hessian: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    theta = np.random.default_rng(0).normal(size=13)
    np.save("theta.npy", theta)
    before = snapshot(tmp_path)
    code, output, errors = hessian("loss", "regression", *FLAGS, "--weights", "theta.npy")
    assert (code, errors) == (0, "")
    _, data, _ = hessian("loss", "regression", *FLAGS, "--weights", "theta.npy", "--json")
    assert snapshot(tmp_path) == before
    found = json.loads(data)
    (term,) = load_problem("regression", **OPTIONS).terms
    x, y = term.data["x"], term.data["y"]
    hidden = np.tanh(x * theta[:4] + theta[4:8])
    residual = hidden @ theta[8:12] + theta[12] - y[:, 0]
    # Ten squares, in float64.
    assert found["loss"] == pytest.approx(np.mean(residual**2), rel=1e-13)
    # By the output's bias the network's derivative is 1.
    assert found["gradient_norm"] >= abs(2 * np.mean(residual))
    assert (found["num_params"], found["dtype"]) == (13, "float64")
    assert found["variables"][2] == {"name": "output/kernel", "shape": [4, 1]}
    assert output.splitlines() == [
        f"loss               {found['loss']:.6g}",
        f"  fit              {found['loss']:.6g}, weight 1, loss",
        f"gradient           norm {found['gradient_norm']:.6g}",
        "parameters         13 trainable, float64",
        "  hidden_1/kernel  (1, 4) from row 0",
        "  hidden_1/bias    (4,) from row 4",
        "  output/kernel    (4, 1) from row 8",
        "  output/bias      (1,) from row 12",
    ]


def test_info_of_a_store_says_the_same(tmp_path: Path, hessian: Cli) -> None:
    compute_hessian(load_problem("regression", **OPTIONS), tmp_path / "h.zarr")
    loss = hessian("loss", "regression", *FLAGS)[1].splitlines()
    info = hessian("info", tmp_path / "h.zarr")[1].splitlines()
    assert loss[0] in info
    assert all(line in info for line in loss[2:])


def test_what_is_not_trained_and_what_is_missing_is_said(tmp_path: Path, hessian: Cli) -> None:
    file = tmp_path / "own.py"
    file.write_text(
        "from hessian_tasks import *\n"
        "def problem():\n"
        "    term = LossTerm('nu', lambda model, nu: nu**2)\n"
        "    return Problem(mlp(1, width=2, depth=1), [term], parameters={'nu': 0.5}, only='nu')\n"
    )
    code, output, _ = hessian("loss", file)
    assert code == 0
    assert "parameters       1 of 8 trainable, float32" in output
    assert "not trained      7 weights" in output
    code, output, errors = hessian("loss")
    assert (code, output) == (2, "")
    assert errors.startswith("hessian: Give a problem")


def test_what_a_users_file_prints_is_not_among_the_results(tmp_path: Path, hessian: Cli) -> None:
    file = tmp_path / "own.py"
    file.write_text(
        "from hessian_tasks import load_problem\n"
        "print('read')\n"
        "def problem():\n"
        "    print('called')\n"
        "    return load_problem('regression', width=4, depth=1, num_samples=10)\n"
    )
    code, output, errors = hessian("loss", file, "--json")
    assert (code, json.loads(output)["num_params"]) == (0, 13)
    assert errors.split() == ["read", "called"]
