"""Networks of every make through freezing, rebuilding and workers, against finite differences."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

from hessian_tasks.autodiff import hessian_vector_product
from hessian_tasks.errors import ModelError
from hessian_tasks.networks.architecture import model_config
from hessian_tasks.networks.models import get_theta, set_theta
from hessian_tasks.problem import Problem, ResidualTerm
from hessian_tasks.rebuild import rebuild
from hessian_tasks.source import ProblemSource
from pipeline import compute_hessian, matrix_free_operator, open_store, verify_hessian
from pipeline.curvature.steps import try_steps
from pipeline.run.cluster.workers import Workers
from pipeline.run.inputs import freeze_source
from tests.helpers.chosen import some_slow
from tests.helpers.oracles import finite_difference_hessian
from tests.helpers.runs import Run
from tests.networks.architectures import MAKES, POINTS, sequential, subclassed

layers = keras.layers
FILE = str(Path(__file__).with_name("architectures.py"))
# Central differences of step 1e-3 err by 1e-12 times the sixth derivative of the loss.
CLOSE = {"rtol": 0.0, "atol": 1e-8}


def reference(problem: Problem) -> Any:
    return finite_difference_hessian(problem, 1e-3)


# One of each kind; the others differ by a layer.
REBUILT = ["sequential", "two networks", "nested", "subclassed", "unregistered layer", "Lambda"]
REBUILT += ["given Normalization", "frozen layer", "closure"]


@pytest.mark.parametrize("make", some_slow(MAKES, REBUILT))
def test_every_make_is_rebuilt(make: str) -> None:
    frozen = freeze_source(ProblemSource(FILE, {"make": make}))
    rebuilt = rebuild(frozen)
    products = hessian_vector_product(rebuilt, np.eye(len(frozen.theta)))
    np.testing.assert_allclose(products, reference(rebuilt), **CLOSE)


ON_WORKERS = ["sequential", "skip connection", "two networks", "shared layer", "nested"]
ON_WORKERS += ["subclassed", "registered layer", "Normalization", "closure", "two outputs"]


@pytest.mark.slow
@pytest.mark.parametrize("make", ON_WORKERS)
def test_makes_on_workers(make: str, tmp_path: Path, workers: Workers, run: Run) -> None:
    frozen = freeze_source(ProblemSource(FILE, {"make": make}))
    run(tmp_path / "h.zarr", frozen, workers=workers)
    computed = open_store(tmp_path / "h.zarr").hessian.to_numpy()
    np.testing.assert_allclose(computed, reference(rebuild(frozen)), **CLOSE)


# What Keras cannot build again safely, or builds as something else, goes by the problem's own code.
NOT_RECORDED = {"subclassed", "unregistered layer", "forgetful config", "Lambda"}


@pytest.mark.parametrize("make", MAKES)
def test_only_configs_that_give_the_network_again_are_recorded(make: str) -> None:
    assert (model_config(MAKES[make](), 2) is None) == (make in NOT_RECORDED)


def live(model: Any, residual: Any = None) -> Problem:
    term = ResidualTerm("pde", POINTS, residual or (lambda x, u: u.d("xx") - u.value**2))
    return Problem(model, [term], "xy")


def test_a_network_that_was_trained_further_is_not_touched(tmp_path: Path) -> None:
    problem = live(sequential())
    compute_hessian(problem, tmp_path / "h.zarr")
    set_theta(problem.model, 1.5 * get_theta(problem.model))
    further = get_theta(problem.model)
    assert verify_hessian(tmp_path / "h.zarr", problem).passed
    assert np.array_equal(get_theta(problem.model), further)


@pytest.mark.parametrize("make", some_slow([subclassed, lambda: subclassed], [subclassed]))
def test_nor_one_that_keras_cannot_copy(make: Any, tmp_path: Path) -> None:
    model = make()
    problem = live(model)
    compute_hessian(problem, tmp_path / "h.zarr")
    if isinstance(model, keras.Model):
        assert verify_hessian(tmp_path / "h.zarr", problem).passed
        set_theta(model, 1.5 * get_theta(model))
        further = get_theta(model)
        with pytest.raises(ModelError, match=r"other weights now than .* function that builds it"):
            verify_hessian(tmp_path / "h.zarr", problem)
        assert np.array_equal(get_theta(model), further)
    else:  # each call makes one with weights of its own
        assert verify_hessian(tmp_path / "h.zarr", problem).passed


def test_a_factory_of_one_network_is_not_taken_for_new_ones(tmp_path: Path) -> None:
    model = sequential()
    problem = live(lambda: model)
    compute_hessian(problem, tmp_path / "h.zarr")
    set_theta(model, 1.5 * get_theta(model))
    further = get_theta(model)
    assert verify_hessian(tmp_path / "h.zarr", problem).passed
    assert np.array_equal(get_theta(model), further)


def test_a_residual_that_reads_the_network_by_itself(tmp_path: Path) -> None:
    model = sequential()
    # At zero its gradient is zero too, and does not tell whether the right network is read.
    bias = model.trainable_weights[1]
    bias.assign(np.zeros(3))
    problem = live(model, lambda x, u: u.value - bias.value[0] ** 2 * u.d("xx"))
    found = compute_hessian(problem, tmp_path / "h.zarr").hessian.to_numpy()
    np.testing.assert_allclose(found, reference(problem), **CLOSE)


def test_steps_that_are_tried_leave_the_network_as_it_is(tmp_path: Path) -> None:
    problem = live(sequential())
    before = get_theta(problem.model)
    compute_hessian(problem, tmp_path / "h.zarr")
    try_steps(tmp_path / "h.zarr", problem=problem, dampings=[1.0])
    assert np.array_equal(get_theta(problem.model), before)


def test_products_are_those_of_the_weights_that_they_were_made_for() -> None:
    problem = live(sequential())
    operator = matrix_free_operator(problem)
    expected = reference(problem)
    np.testing.assert_allclose(operator @ np.eye(len(expected)), expected, **CLOSE)
    set_theta(problem.model, 1.5 * get_theta(problem.model))
    with pytest.raises(ModelError, match="weights have changed since"):
        operator @ np.eye(len(expected))
