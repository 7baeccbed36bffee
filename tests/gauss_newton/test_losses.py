"""The Gauss-Newton matrix of losses that are no residuals: networks linearised, the loss kept."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import numpy.typing as npt
import pytest
import tensorflow as tf

from hessian_tasks import BlockRow, DensityTerm, LossTerm, Problem, ResidualTerm
from hessian_tasks.autodiff import AutodiffEngine
from hessian_tasks.autodiff.generalised import find_kinds, gauss_newton_vector_product
from hessian_tasks.autodiff.matrices import AutodiffCurvature, AutodiffJacobian
from hessian_tasks.autodiff.products import ShardProducts, cut_points
from hessian_tasks.gauss_newton import GaussNewtonEngine
from hessian_tasks.layered.gauss_newton import layered_matrices
from hessian_tasks.networks.models import get_theta, set_theta, trainable_variables
from hessian_tasks.networks.trainables import resolve
from hessian_tasks.problems import classification
from hessian_tasks.problems.networks import mlp
from hessian_tasks.reading import read_terms
from hessian_tasks.spec import GAUSS_NEWTON
from pipeline.api import compute_hessian, verify_hessian
from pipeline.curvature.gauss_newton import neural_tangent_kernel, residual_curvature
from pipeline.errors import StoreMismatchError
from pipeline.run.engines import choose_engine
from pipeline.run.options import RunOptions
from pipeline.store.store import HessianStore
from tests.helpers.chosen import some_slow
from tests.helpers.oracles import dense_jacobian
from tests.helpers.runs import Cli

Array = npt.NDArray[Any]
POINTS = np.random.default_rng(0).uniform(-1, 1, (9, 2))
SLOPE = 0.4  # the parameter a


def shifted(problem: Problem) -> Problem:
    """The problem at parameters where nothing is small."""
    problem = resolve(problem)
    theta = get_theta(problem.model)
    set_theta(problem.model, theta + np.random.default_rng(3).normal(0.0, 0.3, theta.shape))
    return problem


def net(depth: int = 2) -> Any:
    return mlp(2, 1, width=3, depth=depth, dtype="float64")


def whole(engine: Any, length: int | None = None) -> Array:
    """The matrix, from block rows of some length."""
    size = engine.layout.num_params
    found = np.zeros((size, size))
    for index, start in enumerate(range(0, size, length or size)):
        row = BlockRow(index, start, min(start + (length or size), size))
        found[start : row.stop, start:] = engine.block_row(row)
    return np.triu(found) + np.triu(found, 1).T


def of_matrices(problem: Problem, by_layers: bool) -> GaussNewtonEngine:
    if by_layers:
        return GaussNewtonEngine(problem, layered_matrices(read_terms(problem)), True)
    matrices = [
        AutodiffJacobian(problem, term)
        if isinstance(term, ResidualTerm)
        else AutodiffCurvature(problem, term)
        for term in problem.terms
    ]
    return GaussNewtonEngine(problem, matrices, False)


def every_way(problem: Problem) -> dict[str, Array]:
    products = ShardProducts(problem, GAUSS_NEWTON)
    unit = np.eye(products.num_params)
    shards = cut_points(problem, max_batch=4, num_shards=2)
    return {
        "layered": whole(of_matrices(problem, True)),
        "layered, cut": whole(of_matrices(problem, True), 4),
        "autodiff": whole(of_matrices(problem, False)),
        "autodiff, cut": whole(of_matrices(problem, False), 9),
        "products": sum((products(shard, unit) for shard in shards), np.zeros_like(unit)),
        "verification": gauss_newton_vector_product(problem, unit),
    }


def assert_all_close(found: dict[str, Array], expected: Array, tolerance: float = 1e-12) -> None:
    scale = np.abs(expected).max()
    for way, matrix in found.items():
        assert np.abs(matrix - expected).max() <= tolerance * scale, way


def test_of_a_cross_entropy_it_is_the_fisher_matrix() -> None:
    """Σ Jᵀ (diag p - p pᵀ) J / N, with J of the logits."""
    problem = shifted(classification.problem(4, 2, 14, 3, dtype="float64"))
    points = tf.constant(problem.terms[0].arrays["points"])
    logits, derivatives = dense_jacobian(problem, lambda: problem.model(points))
    odds = np.exp(logits - logits.max(axis=1, keepdims=True))
    p = odds / odds.sum(axis=1, keepdims=True)
    bends = [np.diag(q) - np.outer(q, q) for q in p]
    fisher = sum(j.T @ b @ j for j, b in zip(derivatives, bends, strict=True)) / len(p)
    assert_all_close(every_way(problem), fisher)


def log_cosh(x: Any, u: Any, a: Any) -> Any:
    return tf.math.log(tf.cosh(u.d("xx") - a * u.value))


def huber(x: Any, u: Any, a: Any) -> Any:
    r = tf.abs(u.d("y") - a * x[:, :1])
    return tf.where(r < 0.3, r**2 / 2, 0.3 * (r - 0.15))


@pytest.mark.parametrize("density", some_slow([log_cosh, huber], [huber]))
def test_what_is_left_out_is_the_curvature_of_the_network(density: Callable[..., Any]) -> None:
    """H - G is the derivative of ``Σ ℓ_u(θ₀) ∂u/∂θ``, with ℓ_u held fixed; by differences of it."""
    term = DensityTerm("density", POINTS, density, weight=-0.7)
    problem = shifted(Problem(net(), [term], "xy", parameters={"a": SLOPE}))
    theta, variables = get_theta(problem.model), trainable_variables(problem.model)
    a = float(theta[-1])

    def jets() -> list[Any]:
        x = tf.constant(POINTS)
        with tf.GradientTape(persistent=True) as outer:
            outer.watch(x)
            with tf.GradientTape() as tape:
                tape.watch(x)
                u = problem.model(x)
            first = tape.gradient(u, x)
            slope = first[:, 0]
        return [u, outer.gradient(slope, x)[:, :1], first[:, 1:]]

    def slopes() -> list[Array]:
        u, u_xx, u_y = (jet.numpy() for jet in tf.function(jets, autograph=False)())
        if density is log_cosh:
            bent = np.tanh(u_xx - a * u)
            return [-a * bent, bent, 0 * bent]
        r = u_y - a * POINTS[:, :1]
        return [0 * r, 0 * r, np.clip(r, -0.3, 0.3)]

    held = [tf.constant(-0.7 / len(POINTS) * slope) for slope in slopes()]

    @tf.function(autograph=False)  # type: ignore[untyped-decorator]
    def gradient() -> Any:
        with tf.GradientTape() as tape:
            pairs = zip(held, jets(), strict=True)
            value = tf.add_n([tf.reduce_sum(slope * jet) for slope, jet in pairs])
        zero = tf.UnconnectedGradients.ZERO
        found = tape.gradient(value, variables, unconnected_gradients=zero)
        return tf.concat([tf.reshape(part, [-1]) for part in found], axis=0)

    def at(step: Array) -> Array:
        set_theta(problem.model, theta + step)
        return np.asarray(gradient().numpy())

    step = 1e-5
    columns = [(at(step * e) - at(-step * e)) / (2 * step) for e in np.eye(len(theta))]
    set_theta(problem.model, theta)
    hessian = whole(AutodiffEngine(problem))
    found = {way: hessian - matrix for way, matrix in every_way(problem).items()}
    assert np.abs(columns).max() > 1e-2 * np.abs(hessian).max()
    # Differences with step h are right up to h² and eps / h, with derivatives of order 10.
    assert_all_close(found, np.array(columns), 1e-7)


def own_derivatives(model: Any, points: Any, a: Any) -> Any:
    with tf.GradientTape() as outer:
        outer.watch(points)
        with tf.GradientTape() as tape:
            tape.watch(points)
            u = model(points)
        first = tape.gradient(u, points)
    u_xx = outer.gradient(first, points)[:, :1]
    return tf.reduce_mean(tf.sqrt(1 + (u_xx - a * u) ** 2)) + a**4


def mixed(*terms: Any) -> Problem:
    """Terms of all kinds, with a parameter and weights that are read directly."""
    pair = DensityTerm("pair", POINTS, lambda x, u, a: tf.exp(a * (u.value - u.at(x + 1.0).value)))
    bent = DensityTerm("bent", POINTS, lambda x, u: -tf.exp(u.value * u.d("x")))
    own = LossTerm("own", own_derivatives, data={"points": POINTS}, weight=0.5)
    rest = ResidualTerm("rest", POINTS, lambda x, u, a: u.d("y") - a * u.value**2)
    return Problem(net(1), [pair, bent, own, rest, *terms], "xy", parameters={"a": SLOPE})


@pytest.mark.slow
def test_all_ways_agree_for_terms_of_all_kinds() -> None:
    norm = LossTerm("norm", lambda model: tf.reduce_sum(model.trainable_weights[0] ** 4))
    problem = shifted(mixed(norm))
    kinds = find_kinds(read_terms(problem))
    assert kinds.left_out == {}
    # exp(a d) has ∂²/∂(a, d)² of determinant -(1 + 2 a d) exp(2 a d).
    assert kinds.convex == {"pair": False, "bent": False, "own": False, "norm": True}
    found = every_way(problem)
    assert_all_close(found, found["verification"])


@pytest.mark.slow
def test_networks_that_are_not_layered_go_to_autodiff(tmp_path: Path) -> None:
    keras.utils.set_random_seed(2)
    dense = [keras.layers.Dense(width, dtype="float64") for width in (3, 1)]
    norm = keras.layers.LayerNormalization(dtype="float64")
    network = keras.Sequential([keras.Input((2,), dtype="float64"), dense[0], norm, dense[1]])
    term = DensityTerm("density", POINTS, log_cosh)
    problem = Problem(network, [term], "xy", parameters={"a": SLOPE})
    path = tmp_path / "g.zarr"
    dataset = compute_hessian(problem, path, options=RunOptions(engine="ggn"))
    expected = gauss_newton_vector_product(resolve(problem), np.eye(dataset.sizes["row"]))
    # Where three neurons nearly agree, normalising them makes rounding larger.
    assert_all_close({"store": dataset.ggn.to_numpy()}, expected, 1e-9)
    assert HessianStore(path).attributes["engine_reason"].startswith("by autodiff because ")
    certificate = verify_hessian(path, problem, num_vectors=1)
    assert (certificate.passed, certificate.jacobian_errors) == (True, [])
    with pytest.raises(StoreMismatchError, match="holds no Jacobians: none of its terms"):
        neural_tangent_kernel(path)


def kinked(x: Any, u: Any) -> Any:
    return tf.sqrt(tf.abs(u.value - tf.stop_gradient(u.value)))


def moving(x: Any, u: Any, a: Any) -> Any:
    return tf.exp(u.at(x + a).value)


@pytest.mark.parametrize(
    ("term", "reason"),
    [
        (LossTerm("bad", lambda model: tf.reduce_mean(model(POINTS)) ** 2), "couples its points"),
        pytest.param(
            DensityTerm("bad", POINTS, kinked),
            "NaN or infinite at these weights",
            marks=pytest.mark.slow,
        ),
        pytest.param(
            DensityTerm("bad", POINTS, moving),
            "points that depend on the weights",
            marks=pytest.mark.slow,
        ),
    ],
)
def test_a_term_that_has_none_is_named_and_the_others_are_computed(term: Any, reason: str) -> None:
    problem = shifted(mixed(term))
    engine, choice = choose_engine(problem, "ggn")
    assert list(choice.left_out) == ["bad"]
    assert reason in choice.left_out["bad"]
    assert "without term 'bad', which " in choice.reason
    names = [t.name for t in problem.terms if t.name != "bad"]
    size = len(get_theta(problem.model))
    expected = gauss_newton_vector_product(problem, np.eye(size), names)
    assert_all_close({"engine": whole(engine)}, expected)


# ---- stores ------------------------------------------------------------------------------------

PROBLEM = """
import numpy as np
import tensorflow as tf
from hessian_tasks import DensityTerm, LossTerm, Problem
from hessian_tasks.problems.networks import mlp

def entropy(model, points, labels):
    loss = tf.nn.sparse_softmax_cross_entropy_with_logits(labels=labels, logits=model(points))
    return tf.reduce_mean(loss)

def problem(coupled=False):
    x = np.linspace(-1, 1, 6)[:, None] * [1.0, 0.5]
    smooth = DensityTerm("smooth", x, lambda x, u, a: tf.exp(-a * tf.reduce_sum(u.d("x") ** 2, 1)))
    fit = LossTerm("fit", entropy, data={"points": x, "labels": np.arange(6) % 3})
    mean = LossTerm("mean", lambda model: tf.reduce_mean(model(tf.constant(x))) ** 2)
    terms = [smooth, fit, mean] if coupled else [smooth, fit]
    network = mlp(2, 3, width=3, depth=1, dtype="float64")
    return Problem(network, terms, "xy", parameters={"a": 0.3})
"""


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("losses") / "problem.py"
    path.write_text(PROBLEM)
    return path


def test_commands(file: Path, tmp_path: Path, hessian: Cli) -> None:
    h, g = tmp_path / "h.zarr", tmp_path / "g.zarr"
    assert hessian("run", file, "--per-term", "--store", h)[0] == 0
    code, output, errors = hessian("run", file, "--per-term", "--engine", "ggn", "--store", g)
    assert (code, errors, "without" in output) == (0, "", False)
    code, output, _ = hessian("verify", g)
    assert (code, "error of G v" in output, "error of J v" in output) == (0, True, False)
    code, output, _ = hessian("info", g)
    assert (code, "Gauss-Newton matrices  ggn, ggn_smooth, ggn_fit" in output) == (0, True)
    assert "term 'smooth' with the loss kept, not convex in the jets" in output
    assert "term 'fit' with the loss kept, convex in the jets" in output
    code, output, _ = hessian("terms", h, "--ggn", g, "--number", 2)
    assert (code, "H-G fit" in output) == (0, True)
    code, output, _ = hessian("plan", file, "--engine", "ggn")
    assert (code, "Gauss-Newton matrices" in output, "Jacobians" in output) == (0, True, False)


@pytest.mark.slow
def test_a_store_says_what_it_is_without(file: Path, tmp_path: Path, hessian: Cli) -> None:
    h, g = tmp_path / "h.zarr", tmp_path / "g.zarr"
    coupled = (file, "-o", "coupled=true", "--per-term", "--store")
    assert hessian("run", *coupled, h)[0] == 0
    code, output, errors = hessian("run", *coupled, g, "--engine", "ggn")
    assert (code, "without mean, of which there is no Gauss-Newton" in output + errors) == (0, True)
    store = HessianStore(g)
    assert store.left_out == {"mean": "couples its points"}
    assert list(store.arrays) == [None, "smooth", "fit"]
    assert hessian("verify", g)[0] == 0
    code, output, _ = hessian("info", g)
    assert (code, "without term 'mean', which couples its points" in output) == (0, True)
    with pytest.raises(StoreMismatchError, match="is without mean, of which there is no"):
        residual_curvature(h, g)
    for command in ("terms", "steps"):
        code, _, errors = hessian(command, h, "--ggn", g)
        assert (code, "is without mean" in errors, "Traceback" in errors) == (1, True, False)
    code, _, errors = hessian("estimate", *coupled[:3], "--engine", "ggn")
    assert (code, "because it couples its points" in errors) == (1, True)
