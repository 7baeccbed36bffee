"""What every optimiser does alike: it lowers losses, reports, is observed, and can be repeated."""

from __future__ import annotations

import itertools
import runpy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from hessian_tasks import LossTerm, Problem, load_problem, mlp
from hessian_tasks.errors import ProblemError
from hessian_tasks.loss import losses_and_gradient
from hessian_tasks.networks.models import get_theta
from hessian_tasks.networks.trainables import parameters_of, resolve
from pipeline import open_watched
from pipeline.training import train
from tests.helpers.runs import ROOT, Cli

STEPS = {
    "adam": {"adam_steps": 60, "lbfgs_steps": 0, "learning_rate": 0.01},
    "lbfgs": {"adam_steps": 0, "lbfgs_steps": 60},
    "ssbroyden": {"adam_steps": 0, "ssbroyden_steps": 60},
    "levenberg-marquardt": {"adam_steps": 0, "levenberg_marquardt_steps": 12},
}


def pinn() -> Problem:
    sizes = {"width": 8, "depth": 1, "num_interior": 60, "num_boundary": 20}
    return load_problem("heat", **sizes, dtype="float64")


def inverse() -> Problem:
    """Two networks and a rate, from measured data, in float32."""
    made: Problem = runpy.run_path(str(ROOT / "examples" / "inverse_problem.py"))["problem"](
        width=6
    )
    return made


@pytest.mark.parametrize("phase", STEPS)
@pytest.mark.parametrize("build", [pinn, inverse])
def test_lowers_the_loss_and_reports_every_step(build: Any, phase: str) -> None:
    problem = resolve(build())
    start = get_theta(problem.model)
    before = sum(losses_and_gradient(problem)[0].values())
    reported, observed = list[tuple[str, int, float]](), list[tuple[str, int]]()
    thetas = list[Any]()

    def observe(given: Problem, phase: str, step: int) -> None:
        observed.append((phase, step))
        thetas.append(get_theta(given.model))

    result = train(
        problem, on_step=lambda *step: reported.append(step), observe=observe, **STEPS[phase]
    )
    # Adam from small losses may first go up; the others fall with every step.
    assert result.loss < (0.9 if phase == "adam" else 0.5) * before
    assert [step[:2] for step in reported] == [(phase, n + 1) for n in range(len(reported))]
    assert observed == [("start", 0), *[step[:2] for step in reported]]
    assert np.array_equal(thetas[0], start)
    assert np.array_equal(thetas[-1], get_theta(problem.model))
    assert all(np.any(a != b) for a, b in itertools.pairwise(thetas))
    if phase != "adam":
        assert reported[-1][2] == pytest.approx(result.loss, rel=1e-5)
        losses = [loss for _, _, loss in reported]
        assert losses == sorted(losses, reverse=True)
    assert (result.history is not None) == (phase == "lbfgs")
    if build is inverse:
        assert parameters_of(problem.model)["rate"].numpy() != 1.0


@pytest.mark.parametrize("phase", STEPS)
def test_same_seed_same_weights(phase: str) -> None:
    steps = {**STEPS[phase], f"{phase.replace('-', '_')}_steps": 4}
    first, second = (train(pinn(), **steps).problem for _ in range(2))
    assert np.array_equal(get_theta(first.model), get_theta(second.model))


def drifting_to_nan(model: Any, a: Any) -> Any:
    """Falls with a, and is NaN once that has passed -0.25."""
    return a[0] + 0 * tf.sqrt(a[0] + 0.25)


def test_self_scaled_broyden_names_the_step_of_a_nan() -> None:
    network = mlp(1, width=1, depth=1, dtype="float64")
    term = LossTerm("loss", drifting_to_nan)
    problem = Problem(network, [term], parameters={"a": [0.0]}, only="a")
    with pytest.raises(ProblemError, match="nan in step 1 of self-scaled Broyden"):
        train(problem, adam_steps=0, ssbroyden_steps=9)


def test_levenberg_marquardt_refuses_to_begin_at_nan() -> None:
    network = mlp(1, width=1, depth=1, dtype="float64")
    term = LossTerm("loss", lambda model, a: tf.sqrt(a[0]))
    problem = Problem(network, [term], parameters={"a": [-1.0]}, only="a")
    with pytest.raises(ProblemError, match="nan in step 1 of Levenberg-Marquardt"):
        train(problem, adam_steps=0, levenberg_marquardt_steps=9)


def test_command(hessian: Cli, tmp_path: Path) -> None:
    out = tmp_path / "w.keras"
    problem = ["heat", "-o", "width=5", "-o", "depth=1", "-o", "num_interior=20"]
    steps = ["--adam", 2, "--ssbroyden", 4, "--levenberg-marquardt", 4]
    code, output, errors = hessian(
        "train", *problem, "-o", "dtype=float64", *steps, "--out", out, "--watch", 5,
        "--checkpoints", 2,
    )  # fmt: skip
    assert (code, errors) == (0, "")
    phases = [line.split()[0] for line in output.splitlines() if " step " in line]
    assert phases == ["adam", "ssbroyden", "levenberg-marquardt"]
    watched = open_watched(tmp_path / "w-watched.zarr")
    assert watched.phase.values.tolist() == ["start", "ssbroyden", "levenberg-marquardt"]
    assert watched.step.values.tolist() == [0, 5, 10]
    saved = sorted(path.name for path in tmp_path.glob("*.keras"))
    assert saved == ["w-000005.keras", "w-000010.keras", "w.keras"]
    code, _, errors = hessian("train", *problem, *steps, "--history", tmp_path / "p.npz")
    assert (code, "--lbfgs 1000" in errors) == (2, True)
