"""The example files run as they are."""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from hessian_tasks.autodiff import AutodiffEngine, hessian_vector_product
from hessian_tasks.layered.engine import LayeredEngine
from hessian_tasks.loss import losses_and_gradient
from hessian_tasks.networks.trainables import resolve
from hessian_tasks.reading import read_terms
from hessian_tasks.rebuild import freeze, rebuild
from hessian_tasks.source import ProblemSource
from hessian_tasks.spec import BlockRow
from tests.helpers.oracles import FiniteDifferenceJet

EXAMPLES = Path(__file__).parents[1] / "examples"


# Fast tests run it from docs/howto/own_loss.md.
@pytest.mark.slow
def test_notebook_loss_equals_the_declared_one(capsys: pytest.CaptureFixture[str]) -> None:
    # The file itself asserts that both Hessians agree.
    runpy.run_path(str(EXAMPLES / "notebook_loss.py"), run_name="__main__")
    printed = capsys.readouterr().out
    assert "Hessian 261 x 261, float64" in printed


def test_notebook_loss_through_its_file() -> None:
    path = EXAMPLES / "notebook_loss.py"
    ours = ProblemSource(str(path), {"width": 3}).load()
    declared = ProblemSource(f"{path}:declared", {"width": 3}).load()
    losses, gradient = losses_and_gradient(ours)
    expected_losses, expected_gradient = losses_and_gradient(declared)
    # Sums of 2000 float64 terms.
    assert losses["loss_total"] == pytest.approx(sum(expected_losses.values()), rel=1e-12)
    assert gradient == pytest.approx(expected_gradient, rel=1e-10, abs=1e-12)


@pytest.mark.parametrize("name", ["notebook_loss.py", "own_problem.py"])
def test_file_can_be_rebuilt_by_a_worker(name: str) -> None:
    source = ProblemSource(str(EXAMPLES / name), {"width": 3})
    frozen = freeze(source.load(), source)
    engine = AutodiffEngine(rebuild(frozen))
    last = BlockRow(0, frozen.layout.num_params - 1, frozen.layout.num_params)
    # ∂u/∂c = 1 for the output bias c: no curvature but that of the squares themselves, which
    # is 2 times the weights, 1 each, of terms that see u; for the oscillator u(0) = 1 and the
    # equation, whose weight ω⁻⁴ cancels the (ω²)² of its own.
    expected = 2.0 if name == "notebook_loss.py" else 4.0
    assert engine.block_row(last).item() == pytest.approx(expected, rel=1e-5)


def test_oscillator_is_solved_by_its_exact_solution() -> None:
    problem = ProblemSource(str(EXAMPLES / "own_problem.py")).load()
    exact: Any = problem.exact_solution
    for term in problem.terms:
        points = np.asarray(term.points)
        jet: Any = FiniteDifferenceJet(exact, points, "t")
        residual = term.residual(tf.constant(points), jet)
        # Differences of second order lose 1e-16 / 1e-3² = 1e-10, times ω² here.
        assert np.abs(residual).max() < 1e-8, term.name


def test_oscillator_has_three_terms_of_two_derivatives() -> None:
    problem = ProblemSource(str(EXAMPLES / "own_problem.py"), {"width": 2}).load()
    readings = read_terms(resolve(problem))
    assert {reading.term.name: reading.words for reading in readings} == {
        "ode": "u, u.t, u.tt at 200 points, adds up point by point",
        "position": "u at 1 point, adds up point by point",
        "velocity": "u.t at 1 point, adds up point by point",
    }


def test_the_inverse_problem_is_solved_by_what_it_looks_for() -> None:
    path = EXAMPLES / "inverse_problem.py"
    module = runpy.run_path(str(path))
    problem = ProblemSource(str(path)).load()
    heat, data, end = problem.terms
    points = np.asarray(heat.points)
    u: Any = FiniteDifferenceJet(module["true_u"], points, "x")
    k: Any = FiniteDifferenceJet(module["true_k"], points, "x")
    residual = heat.residual(tf.constant(points), u, k=k, rate=2.0, f=heat.data["f"])
    # Differences of second order lose 1e-16 / 1e-3² = 1e-10, times π² here.
    assert np.abs(residual).max() < 1e-8
    assert np.abs(module["true_u"](data.points) - data.data["y"]).max() < 0.05
    assert module["true_k"](np.asarray(end.points)) == pytest.approx(1.0)


def test_the_inverse_problem_goes_by_layers() -> None:
    source = ProblemSource(str(EXAMPLES / "inverse_problem.py"), {"width": 3})
    problem = rebuild(freeze(source.load(), source))
    engine = LayeredEngine(problem)
    assert engine.left_out == {}
    assert engine.readings["heat"] == (
        "u, k, u.x, k.x, u.xx at 60 points, reads parameters/rate, adds up point by point"
    )
    every = BlockRow(0, 0, engine.layout.num_params)
    expected = hessian_vector_product(problem, np.eye(every.stop))
    # Both round, in float32.
    assert np.abs(engine.block_row(every) - expected).max() <= 2e-5 * np.abs(expected).max()


def test_the_viscosity_is_that_of_the_data() -> None:
    path = EXAMPLES / "viscosity.py"
    module = runpy.run_path(str(path))
    pde, start, ends, measured = ProblemSource(str(path)).load().terms
    points = np.asarray(pde.points)
    # Within the domain by the reach of a stencil, and before the shock, which is too steep for it.
    early = points[(points[:, 1] > 0.01) & (points[:, 1] < 0.2)]
    u: Any = FiniteDifferenceJet(module["true_u"], early, ("x", "t"))
    residual = pde.residual(tf.constant(early), u, nu=0.01)
    # Rounding in differences, and (h/δ)⁸ of the eighth order where u bends within δ = 0.1.
    assert np.abs(residual).max() < 1e-6
    for term in (start, ends):
        known: Any = FiniteDifferenceJet(module["true_u"], np.asarray(term.points), ("x", "t"))
        assert np.abs(term.residual(tf.constant(term.points), known)).max() < 1e-12
    assert measured.data["y"].shape == (40, 1)
    # Four standard deviations of the errors, which are drawn with a seed.
    assert np.abs(module["true_u"](measured.points) - measured.data["y"]).max() < 0.04
