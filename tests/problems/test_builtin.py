"""The built-in problems, and on them the jets and the autodiff engine."""

from __future__ import annotations

import importlib
import inspect
import itertools
from types import ModuleType
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from hessian_tasks.autodiff import AutodiffEngine
from hessian_tasks.jets import Jet, evaluate_by, forward_derivative, reverse_derivative
from hessian_tasks.loss import losses_and_gradient
from hessian_tasks.networks.models import get_theta, set_theta
from hessian_tasks.problem import Problem, ResidualTerm
from hessian_tasks.problems import BUILTIN
from hessian_tasks.problems.networks import mlp
from hessian_tasks.spec import BlockRow
from tests.helpers.chosen import some_slow
from tests.helpers.oracles import FiniteDifferenceJet, finite_difference_hessian

SUPERVISED = ("classification", "regression")
# These get a second hidden layer; with one for all, compiling takes a minute more.
DEEP = ("burgers", "classification", "poisson", "regression")
EQUATIONS = [name for name in BUILTIN if name not in SUPERVISED]


def module_of(name: str) -> ModuleType:
    return importlib.import_module(f"hessian_tasks.problems.{name}")


def small(name: str) -> Problem:
    """A tiny instance in float64, with random biases: at zero ones tanh'' = 0 hides much."""
    depth = 2 if name in DEEP else 1
    module = module_of(name)
    sizes = {key: 12 for key in inspect.signature(module.problem).parameters if "num_" in key}
    sizes.pop("num_classes", None)
    problem: Problem = module.problem(width=4, depth=depth, dtype="float64", **sizes)
    theta = get_theta(problem.model)
    set_theta(problem.model, theta + np.random.default_rng(1).normal(0.0, 0.2, theta.shape))
    return problem


def defect(problem: Problem, term: Any, exact: Any) -> float:
    """By how much a function in NumPy misses a term, relative to the derivatives used."""
    if not isinstance(term, ResidualTerm):
        data = {key: tf.constant(array) for key, array in term.arrays.items()}
        squared = term.loss(lambda points: tf.constant(exact(points.numpy())), **data)
        return float(np.sqrt(squared))
    points = np.asarray(term.points)
    if term.name == "pde":
        # Keep the stencils inside the domain, where alone all solutions are defined.
        centre = (points.min(axis=0) + points.max(axis=0)) / 2
        points = centre + 0.95 * (points - centre)
    jet = FiniteDifferenceJet(exact, points, problem.coordinates)
    residual = term.residual(tf.constant(points), jet)
    components = residual if isinstance(residual, list) else [residual]
    largest = max(float(np.abs(component).max()) for component in components)
    return largest / max(1.0, *jet.magnitudes)


# The differences err by about 1e-9 relative to the largest derivative (see oracles.STEPS);
# the worst defects are 4e-9 (biharmonic) and 2e-9 (Burgers' shock, as thin as ten steps). A
# function that is off by 1e-2 misses every term of every problem by more than 1e-4.
@pytest.mark.parametrize("name", EQUATIONS)
def test_exact_solution_satisfies_equation_and_conditions(name: str) -> None:
    module = module_of(name)
    problem = module.problem(width=1, depth=1, num_interior=400, num_boundary=50, dtype="float64")
    exact = module.exact_solution
    points = problem.terms[0].points
    np.testing.assert_array_equal(problem.exact_solution(points), exact(points))
    for term in problem.terms:
        assert defect(problem, term, exact) < 1e-7, term.name
    for term in problem.terms:
        off = defect(problem, term, lambda x: exact(x) + 1e-2 * np.exp(x.sum(1, keepdims=True)))
        assert off > 1e-4, term.name


def test_regression_samples_scatter_around_the_function() -> None:
    module = module_of("regression")
    problem = module.problem(width=1, num_samples=2000, noise=0.3)
    residue = defect(problem, problem.terms[0], module.exact_solution)
    # The mean of 2000 squares has a relative standard deviation of √(2/2000) = 3 %.
    assert residue == pytest.approx(0.3, rel=0.1)


def test_classification_arms_are_balanced_and_inside_the_disc() -> None:
    data = module_of("classification").spirals(300, 3, np.random.default_rng(0))
    assert np.bincount(data["labels"]).tolist() == [100, 100, 100]
    assert np.linalg.norm(data["points"], axis=1).max() <= 1


@pytest.mark.parametrize("name", BUILTIN)
def test_same_seed_same_problem(name: str) -> None:
    one, two = small(name), small(name)
    assert np.array_equal(get_theta(one.model), get_theta(two.model))
    for a, b in zip(one.terms, two.terms, strict=True):
        assert all(np.array_equal(a.arrays[key], b.arrays[key]) for key in a.arrays)


@pytest.mark.parametrize("name", some_slow(BUILTIN, [*SUPERVISED, "heat"]))
def test_hessian_is_the_derivative_of_the_gradient(name: str) -> None:
    problem = small(name)
    engine = AutodiffEngine(problem)
    everything = BlockRow(0, 0, engine.layout.num_params)
    hessian = engine.block_row(everything)
    scale = np.abs(hessian).max()
    # h = 1e-3: the stencil errs by h⁴ times the fifth derivative of the loss, about 1e-10,
    # and the gradient's rounding by ε/h, 1e-13.
    expected = finite_difference_hessian(problem, step=1e-3)
    assert np.abs(hessian - expected).max() < 1e-6 * scale
    assert np.abs(hessian - hessian.T).max() < 1e-10 * scale
    if len(problem.terms) > 1:
        parts = [engine.block_row(everything, term=term.name) for term in problem.terms]
        assert np.abs(sum(parts) - hessian).max() < 1e-12 * scale


@pytest.mark.parametrize(("depth", "order"), some_slow([(1, 4), (2, 3)], [2]))
def test_forward_and_reverse_derivatives_agree(depth: int, order: int) -> None:
    rng = np.random.default_rng(0)
    model = mlp(2, 2, width=3, depth=depth, dtype="float64")
    set_theta(model, rng.normal(0.0, 1.0, model.count_params()))
    orders = range(order + 1)
    names = ["".join(c) for m in orders for c in itertools.combinations_with_replacement("xy", m)]

    @tf.function(autograph=False)
    def derivatives(points: Any) -> list[list[Any]]:
        kinds = (forward_derivative, reverse_derivative)
        jets = [Jet(evaluate_by(model, kind), points, "xy") for kind in kinds]
        return [[jet.d(*name) for jet in jets] for name in names]

    points = tf.constant(rng.normal(size=(7, 2)))
    for name, (forward, reverse) in zip(names, derivatives(points), strict=True):
        scale = np.abs(reverse).max()
        assert scale > 0.01, name
        assert np.abs(forward - reverse).max() < 1e-12 * max(1.0, scale), name


@pytest.mark.parametrize("name", ["xxxx", "xxxy", "xxyy", "xyyy", "yyyy"])
def test_fourth_derivative_of_one_unit(name: str) -> None:
    model = mlp(2, width=1, depth=1, dtype="float64")
    w, b, a, c = np.array([0.7, -1.3]), 0.2, 1.7, 0.4
    set_theta(model, np.array([*w, b, a, c]))
    points = np.random.default_rng(0).normal(size=(9, 2))

    @tf.function(autograph=False)
    def derivative() -> Any:
        return Jet(evaluate_by(model), tf.constant(points), "xy").d(name)

    # tanh'''' = (1 - T²)(16 T - 24 T³), T = tanh.
    t = np.tanh(points @ w + b)
    factor = w[0] ** name.count("x") * w[1] ** name.count("y")
    expected = a * factor * (1 - t**2) * (16 * t - 24 * t**3)
    assert np.allclose(derivative().numpy()[:, 0], expected, rtol=1e-12, atol=1e-12)


def test_float32_is_the_default() -> None:
    for name in BUILTIN:
        model = module_of(name).problem(width=2, depth=1).model
        assert isinstance(model, keras.Model)
        assert {str(w.dtype) for w in model.trainable_weights} == {"float32"}


def test_integer_points_have_derivatives() -> None:
    def slope(x: Any, u: Any) -> Any:
        return u.d("x")

    losses = [
        losses_and_gradient(Problem(mlp(1, width=2, depth=1), [term], "x"))[0]["slope"]
        for term in (
            ResidualTerm("slope", [[0], [1]], slope),
            ResidualTerm("slope", [[0.0], [1.0]], slope),
        )
    ]
    assert losses[0] == losses[1] > 0
