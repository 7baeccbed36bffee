"""Self-scaled Broyden: the family of updates, the choice in it, and the iteration."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import psutil
import pytest
import scipy.optimize
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st

from hessian_tasks.networks.models import get_theta
from hessian_tasks.problem import LossTerm, Problem
from hessian_tasks.problems.networks import mlp
from pipeline.errors import DoesNotFitError
from pipeline.training import _ssbroyden as module
from pipeline.training import train
from pipeline.training._ssbroyden import InverseHessian, self_scaling

Array = npt.NDArray[np.float64]
SEEDS = st.integers(0, 10**6)


def quadratic(size: int, seed: int, condition: float = 1e2) -> Array:
    """A positive definite matrix ``[P, P]`` with eigenvalues from 1 to its condition number."""
    basis, _ = np.linalg.qr(np.random.default_rng(seed).standard_normal((size, size)))
    return np.asarray((basis * np.geomspace(1, condition, size)) @ basis.T)


def dense(inverse: InverseHessian, size: int) -> Array:
    return np.stack([inverse @ unit for unit in np.eye(size)])


def parameters(size: int, loss: Any, start: Any) -> Problem:
    """A loss of a vector ``a`` alone."""
    term = LossTerm("loss", lambda model, a: loss(a))
    return Problem(
        mlp(1, width=1, depth=1, dtype="float64"), [term], parameters={"a": start}, only="a"
    )


@given(st.integers(2, 12), st.floats(0.1, 10), st.floats(0.01, 1.0), SEEDS)
def test_update_is_that_of_the_formula(size: int, tau: float, phi: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    inverse, h = InverseHessian(size), np.eye(size)
    matrix = quadratic(size, seed)
    for _ in range(3):
        s = rng.standard_normal(size)
        y = matrix @ s
        inverse.update(s, y, inverse @ y, tau, phi)
        image, inner = h @ y, y @ s
        v = s / inner - image / (y @ image)
        rest = h - np.outer(image, image) / (y @ image) + phi * (y @ image) * np.outer(v, v)
        h = rest / tau + np.outer(s, s) / inner
        found = dense(inverse, size)
        # Each update may multiply rounding by 1/τ and by the condition number, 1e2.
        tolerance = 1e-9 * np.abs(h).max()
        np.testing.assert_allclose(found, h, rtol=0, atol=tolerance)
        np.testing.assert_allclose(inverse @ y, s, rtol=0, atol=tolerance * np.abs(y).max() * size)


@given(st.integers(2, 12), SEEDS)
def test_tau_and_phi_of_one_are_bfgs(size: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    inverse, theirs = InverseHessian(size), scipy.optimize.BFGS(init_scale=1.0)
    theirs.initialize(size, "inv_hess")
    matrix = quadratic(size, seed)
    for _ in range(4):
        s = rng.standard_normal(size)
        y = matrix @ s
        inverse.update(s, y, inverse @ y, 1.0, 1.0)
        theirs.update(s, y)
    expected = theirs.get_matrix()
    np.testing.assert_allclose(
        dense(inverse, size), expected, rtol=0, atol=1e-10 * np.abs(expected).max()
    )


@pytest.mark.parametrize("size", [2, 3, 5, 8])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_exact_line_searches_end_in_as_many_steps_as_there_are_parameters(
    size: int, seed: int
) -> None:
    """S. Oren, D. Luenberger (1974): scaled or not, the directions are conjugate."""
    matrix = quadratic(size, seed, 10.0)
    theta = np.random.default_rng(seed).standard_normal(size)
    inverse, gradient = InverseHessian(size), matrix @ theta
    first = float(np.linalg.norm(gradient))
    for _ in range(size):
        direction = -(inverse @ gradient)
        length = -(gradient @ direction) / (direction @ matrix @ direction)
        s = length * direction
        y = matrix @ s
        image, inner = inverse @ y, y @ s
        b, h = -length * (gradient @ s) / inner, (y @ image) / inner
        tau, phi = self_scaling(b, h, size, is_first=inverse.is_fresh)
        inverse.update(s, y, image, tau, phi)
        theta, gradient = theta + s, matrix @ (theta + s)
        values = np.linalg.eigvalsh(dense(inverse, size))
        assert values[0] > 0
    # Rounding of conjugacy grows from step to step as in conjugate gradients, to 1e-11 here; one
    # step less leaves more than 1e-3.
    assert np.linalg.norm(gradient) < 1e-8 * first


@given(st.floats(1e-3, 1e3), st.floats(1.0, 1e3), st.integers(2, 10**5), st.booleans())
def test_choice_is_in_the_interval_that_keeps_positive(
    b: float, product: float, size: int, first: bool
) -> None:
    h = product / b  # b h ≥ 1, as Cauchy and Schwarz have it
    tau, phi = self_scaling(b, h, size, is_first=first)
    a = max(b * h - 1, 0.0)
    assert tau > 0
    # H' is positive definite if φ > -1 / a: φ = (1 - t) / (1 + a t) decreases to that.
    assert 1 + a * phi > 0
    if not first:
        assert tau <= 1 + 1e-12


def rosenbrock(a: Any) -> Any:
    return tf.reduce_sum(100 * (a[1:] - a[:-1] ** 2) ** 2 + (1 - a[:-1]) ** 2)


def test_finds_the_minimum_of_rosenbrock() -> None:
    problem = parameters(6, rosenbrock, [-1.2, 1.0, -1.2, 1.0, -1.2, 1.0])
    losses: list[float] = []
    result = train(
        problem,
        adam_steps=0,
        ssbroyden_steps=300,
        on_step=lambda phase, step, loss: losses.append(loss),
    )
    assert len(losses) < 300
    assert losses == sorted(losses, reverse=True)
    # (1 - a)² is lost in 1 beyond 1e-16: a is known to 1e-8, whatever curvature 0.1 to 1e3 allows.
    assert get_theta(result.problem.model) == pytest.approx(np.ones(6), abs=1e-6)
    assert result.history is None


def test_matrices_that_do_not_fit_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    free = psutil.virtual_memory()._replace(available=100)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: free)
    problem = parameters(4, rosenbrock, np.zeros(4))
    for name in ("ssbroyden_steps", "levenberg_marquardt_steps"):
        with pytest.raises(DoesNotFitError, match=r"keeps matrices of 4 x 4 numbers.*L-BFGS"):
            train(problem, adam_steps=0, **{name: 1})


def test_begins_anew_where_the_line_search_finds_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Once, by steepest descent; if that finds nothing either, it ends."""
    search, calls = scipy.optimize.line_search, list[int]()

    def fail(f: Any, slope: Any, start: Any, direction: Any, **options: Any) -> Any:
        calls.append(len(calls))
        if len(calls) in (3, 5, 6):
            return (None,) * 6
        steepest = np.allclose(direction, -options["gfk"])
        assert steepest == (len(calls) in (1, 4))
        return search(f, slope, start, direction, **options)

    monkeypatch.setattr(module.scipy.optimize, "line_search", fail)
    steps = list[int]()
    problem = parameters(4, rosenbrock, [-1.2, 1.0, -1.2, 1.0])
    train(
        problem,
        adam_steps=0,
        ssbroyden_steps=50,
        on_step=lambda phase, step, loss: steps.append(step),
    )
    assert (len(calls), steps) == (6, [1, 2, 3])
