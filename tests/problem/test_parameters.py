"""Problems with parameters, data and densities: closed forms, other paths, and the whole way."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import numpy.typing as npt
import pytest
import tensorflow as tf

from hessian_tasks.autodiff import AutodiffEngine, hessian_vector_product
from hessian_tasks.autodiff.generalised import gauss_newton_vector_product
from hessian_tasks.autodiff.matrices import AutodiffJacobian
from hessian_tasks.autodiff.products import ShardProducts, cut_points
from hessian_tasks.errors import ProblemError
from hessian_tasks.gauss_newton import GaussNewtonEngine
from hessian_tasks.layered.engine import LayeredEngine
from hessian_tasks.layered.gauss_newton import layered_matrices
from hessian_tasks.loss import losses_and_gradient
from hessian_tasks.loss.regularization import with_regularization
from hessian_tasks.networks.models import get_theta, parameter_layout, set_theta
from hessian_tasks.networks.trainables import resolve
from hessian_tasks.problem import DensityTerm, LossTerm, Problem, ResidualTerm
from hessian_tasks.problems.networks import mlp
from hessian_tasks.reading import read_terms
from hessian_tasks.spec import GAUSS_NEWTON, HESSIAN, BlockRow
from pipeline import compute_hessian, open_hessian, verify_hessian
from tests.helpers.chosen import some_slow

Array = npt.NDArray[Any]

rng = np.random.default_rng(2)
X = rng.uniform(-1, 1, (7, 2))
S = rng.uniform(-1, 1, (5, 2))
Y = rng.normal(size=(5, 1))


def network() -> Any:
    model = mlp(2, 1, width=4, depth=2, dtype="float64")
    theta = get_theta(model)
    set_theta(model, theta + np.random.default_rng(3).normal(0.0, 0.3, theta.shape))
    return model


def inverse(nu: Any = 0.3) -> Problem:
    """Find ν, and two coefficients of a source, from data."""

    def pde(x: Any, u: Any, nu: Any, source: Any) -> Any:
        return u.d("y") - nu * u.d("xx") - source[0] * tf.sin(source[1] * x[:, 0:1])

    return Problem(
        network(),
        [
            ResidualTerm("pde", X, pde, weight=0.8),
            ResidualTerm("data", S, lambda x, u, y: u.value - y, data={"y": Y}),
            LossTerm("prior", lambda model, nu: (nu - 0.5) ** 2, weight=0.1),
        ],
        coordinates="xy",
        parameters={"nu": nu, "source": [1.0, 2.0]},
    )


def deep_ritz() -> Problem:
    """Energy ½|∇u|² - f u, Huber's loss of the data, and a stiffness to be found."""

    def energy(x: Any, u: Any, stiffness: Any) -> Any:
        slope = tf.square(u.d("x")) + tf.square(u.d("y"))
        return tf.exp(stiffness) * slope / 2 - x[:, 0:1] * u.value

    def huber(x: Any, u: Any, y: Any) -> Any:
        miss = tf.abs(u.value - y)[:, 0]
        return tf.where(miss < 0.5, miss**2 / 2, 0.5 * (miss - 0.25))

    return Problem(
        network(),
        [
            DensityTerm("energy", X, energy, weight=1.3),
            DensityTerm("huber", S, huber, data={"y": Y}),
        ],
        coordinates="xy",
        parameters={"stiffness": 0.2},
    )


def whole(engine: Any) -> Array:
    return np.asarray(engine.block_row(BlockRow(0, 0, engine.layout.num_params)))


def assert_close(found: Array, expected: Array) -> None:
    # A few hundred additions in another order, in float64.
    assert np.abs(found - expected).max() <= 1e-11 * np.abs(expected).max()


@pytest.mark.parametrize("build", [inverse, deep_ritz])
def test_engines_and_products_agree(build: Any) -> None:
    problem = resolve(build())
    layered = LayeredEngine(problem)
    size = layered.layout.num_params
    assert layered.left_out == {}
    expected = hessian_vector_product(problem, np.eye(size))
    assert_close(whole(layered), expected)
    assert_close(whole(AutodiffEngine(problem)), expected)
    products = ShardProducts(problem, HESSIAN)
    shards = cut_points(problem, max_batch=3, num_shards=2)
    assert_close(sum(products(shard, np.eye(size)) for shard in shards), expected)
    for start, stop in [(0, 3), (size - 4, size - 1), (size - 1, size)]:
        block = layered.block_row(BlockRow(0, start, stop))
        np.testing.assert_allclose(block, expected[start:stop, start:], rtol=0, atol=1e-11)


@pytest.mark.slow
def test_gauss_newton_matrices_agree() -> None:
    problem = inverse()
    problem = resolve(Problem(**{**vars(problem), "terms": problem.terms[:2]}))
    size = parameter_layout(problem.model).num_params
    expected = gauss_newton_vector_product(problem, np.eye(size))
    jacobians = [AutodiffJacobian(problem, term) for term in problem.terms]
    by_layers = layered_matrices(read_terms(problem))
    assert_close(whole(GaussNewtonEngine(problem, by_layers, by_layers=True)), expected)
    assert_close(whole(GaussNewtonEngine(problem, jacobians, by_layers=False)), expected)
    products = ShardProducts(problem, GAUSS_NEWTON)
    shards = cut_points(problem, max_batch=3, num_shards=2)
    assert_close(sum(products(shard, np.eye(size)) for shard in shards), expected)


def test_second_derivative_by_a_coefficient_is_a_formula() -> None:
    """``∂²L/∂ν² = 2 w mean u_xx²`` of ``r = u_y - ν u_xx``, and 2 w of ``(ν - ½)²``."""
    problem = resolve(inverse())
    points = tf.constant(X)
    with tf.GradientTape() as outer:
        outer.watch(points)
        with tf.GradientTape() as inner:
            inner.watch(points)
            u = problem.model(points)
        slope = inner.gradient(u, points)[:, 0]
    u_xx = outer.gradient(slope, points)[:, 0].numpy()
    at = parameter_layout(problem.model).num_params - 3
    assert parameter_layout(problem.model).describe(at) == "parameters/nu[]"
    found = whole(LayeredEngine(problem))[at, at]
    assert found == pytest.approx(2 * 0.8 * np.mean(u_xx**2) + 2 * 0.1, rel=1e-12)


def test_an_energy_of_linear_features_is_a_gram_matrix() -> None:
    """Deep Ritz with u = θ·x: H = mean of ∇φᵢ·∇φⱼ, the identity for the coordinates."""
    import keras

    dense = keras.layers.Dense(1, use_bias=False, dtype="float64")
    model = keras.Sequential([keras.Input((2,), dtype="float64"), dense])
    term = DensityTerm("energy", X, lambda x, u: (u.d("x") ** 2 + u.d("y") ** 2) / 2)
    problem = Problem(model, [term], coordinates="xy")
    np.testing.assert_allclose(whole(LayeredEngine(problem)), np.eye(2), rtol=0, atol=1e-14)


@pytest.mark.parametrize(
    "variable", some_slow([False, True], [True]), ids=["number", "tf.Variable"]
)
def test_a_store_has_rows_of_parameters(tmp_path: Path, variable: bool) -> None:
    problem = inverse(tf.Variable(0.3, dtype=tf.float64, name="mine") if variable else 0.3)
    found = compute_hessian(problem, tmp_path / "h.zarr")
    row = found.hessian.sel(row_layer="parameters", row_variable="nu").to_numpy()
    expected = hessian_vector_product(resolve(problem), np.eye(found.sizes["row"]))
    assert_close(row, expected[-3:-2])
    assert verify_hessian(tmp_path / "h.zarr", problem).passed


def test_a_closure_over_a_parameter_is_differentiated() -> None:
    nu = tf.Variable(0.3, dtype=tf.float64)
    closed = Problem(
        network(),
        [ResidualTerm("pde", X, lambda x, u: u.d("y") - nu * u.d("xx"))],
        coordinates="xy",
        parameters={"nu": nu},
    )
    named = Problem(
        network(),
        [ResidualTerm("pde", X, lambda x, u, nu: u.d("y") - nu * u.d("xx"))],
        coordinates="xy",
        parameters={"nu": 0.3},
    )
    hessians = [whole(LayeredEngine(resolve(problem))) for problem in (closed, named)]
    assert np.array_equal(*hessians)
    assert np.abs(hessians[0][-1]).max() > 0.1


# Made when they are needed: TensorFlow's devices cannot be set up after a variable is made.
REFUSED: dict[str, tuple[Callable[[], dict[str, Any]], str]] = {
    "not trainable": (lambda: {"nu": tf.Variable(0.5, trainable=False)}, "is not trainable"),
    "another dtype": (lambda: {"nu": tf.Variable(0.5)}, "float32, but the network's weights are"),
    "no number": (lambda: {"nu": "high"}, "Expected numbers in parameter 'nu'"),
    "not finite": (lambda: {"nu": np.nan}, "NaN or infinite values in parameter 'nu'"),
    "no name": (lambda: {"ν²": 1.0}, "cannot name the parameter"),
}


@pytest.mark.parametrize(("parameters", "message"), REFUSED.values(), ids=REFUSED)
def test_other_parameters_are_refused(
    parameters: Callable[[], dict[str, Any]], message: str
) -> None:
    term = ResidualTerm("pde", X, lambda x, u: u.value)
    with pytest.raises(ProblemError, match=message):
        resolve(Problem(network(), [term], coordinates="xy", parameters=parameters()))


def test_data_have_one_entry_a_point() -> None:
    with pytest.raises(ProblemError, match=r"'y' of term 'data' has shape \(5, 1\); .* 7 points"):
        ResidualTerm("data", X, lambda x, u, y: u.value - y, data={"y": Y})


def two_networks() -> Problem:
    """Find the conductivity k(x, y) as a network of its own: ∇·(k ∇u) = f."""

    def pde(x: Any, u: Any, k: Any, f: Any, scale: Any) -> Any:
        flux = k.value * (u.d("xx") + u.d("yy")) + k.d("x") * u.d("x") + k.d("y") * u.d("y")
        return scale * flux - f

    def positive(model: Any, k: Any) -> Any:
        """A loss that calls both networks, one of them elsewhere."""
        return tf.reduce_mean(tf.nn.softplus(-k(S)) * model(S) ** 2)

    k = mlp(2, 1, width=3, depth=1, dtype="float64")
    set_theta(k, np.random.default_rng(8).normal(0.0, 0.7, k.count_params()))
    f = np.sin(X[:, :1])
    return Problem(
        {"u": network(), "k": k},
        [
            ResidualTerm("pde", X, pde, data={"f": f}),
            ResidualTerm("data", S, lambda x, u, y: u.value - y, data={"y": Y}),
            LossTerm("positive", positive, weight=0.3),
        ],
        coordinates="xy",
        parameters={"scale": 0.7},
    )


def test_several_networks_share_a_hessian(tmp_path: Path) -> None:
    problem = resolve(two_networks())
    layered = LayeredEngine(problem)
    size = layered.layout.num_params
    expected = hessian_vector_product(problem, np.eye(size))
    assert layered.left_out == {}
    assert_close(whole(layered), expected)
    assert layered.layout.layers() == [
        "u/hidden_1", "u/hidden_2", "u/output", "k/hidden_1", "k/output", "parameters"
    ]  # fmt: skip
    first_of_k = next(v.offset for v in layered.layout.variables if v.layer == "k/hidden_1")
    assert np.abs(expected[:first_of_k, first_of_k:]).max() > 0.1
    products = ShardProducts(problem, HESSIAN)
    shards = cut_points(problem, max_batch=3, num_shards=2)
    assert_close(sum(products(shard, np.eye(size)) for shard in shards), expected)
    stored = compute_hessian(two_networks(), tmp_path / "h.zarr")
    assert_close(stored.hessian.to_numpy(), expected)
    assert verify_hessian(tmp_path / "h.zarr", two_networks()).passed


def test_networks_may_share_layers() -> None:
    """A trunk with two heads: its weights count once, and the matrix is that of one network."""
    x = keras.Input((2,), dtype="float64")
    trunk = keras.layers.Dense(4, "tanh", dtype="float64", kernel_regularizer="l2")(x)
    heads = [keras.layers.Dense(1, dtype="float64")(trunk) for _ in range(2)]
    together = keras.Model(x, keras.layers.Concatenate(dtype="float64")(heads))
    two = {"u": keras.Model(x, heads[0]), "k": keras.Model(x, heads[1])}
    named = ResidualTerm("pde", X, lambda x, u, k: k.value * u.d("xx") - 1)
    plain = ResidualTerm("pde", X, lambda x, u: u[1].value * u[0].d("xx") - 1)
    shared, single = (
        with_regularization(resolve(Problem(model, [term], coordinates="xy")))
        for model, term in ((two, named), (together, plain))
    )
    assert parameter_layout(shared.model).num_params == parameter_layout(single.model).num_params
    expected = hessian_vector_product(single, np.eye(22))
    assert_close(hessian_vector_product(shared, np.eye(22)), expected)
    assert_close(whole(LayeredEngine(single)), expected)


def test_a_variable_counts_once() -> None:
    model, term = network(), ResidualTerm("pde", X, lambda x, u: u.value)
    twice = tf.Variable(0.5, dtype=tf.float64)
    for parameters, owner in (
        ({"nu": twice, "mu": twice}, "Parameter 'mu' is the variable of parameter 'nu'"),
        ({"nu": model.trainable_weights[0].value}, "Parameter 'nu' is the variable of .*kernel"),
    ):
        with pytest.raises(ProblemError, match=owner):
            resolve(Problem(model, [term], coordinates="xy", parameters=parameters))


def test_a_term_is_given_the_network_that_it_names() -> None:
    k = mlp(2, 1, width=3, depth=1, dtype="float64")
    alone = Problem(k, [ResidualTerm("prior", X, lambda x, u: u.value - 1)], coordinates="xy")
    expected = hessian_vector_product(alone, np.eye(13))
    for term in (
        ResidualTerm("prior", X, lambda x, k: k.value - 1),
        LossTerm("prior", lambda k: tf.reduce_mean((k(X) - 1) ** 2)),
    ):
        problem = resolve(Problem({"u": network(), "k": k}, [term], coordinates="xy"))
        found = whole(LayeredEngine(problem))
        assert_close(found[-13:, -13:], expected)
        assert not found[:-13].any()


@pytest.mark.parametrize("name", ["nu", "k"])
def test_data_have_names_of_their_own(name: str) -> None:
    term = ResidualTerm("fit", X, lambda x, u, nu: u.value - nu, data={name: X[:, :1]})
    with pytest.raises(ProblemError, match=f"has data named '{name}', as a network or parameter"):
        Problem({"u": network(), "k": network()}, [term], "xy", parameters={"nu": 1.0})


@pytest.mark.parametrize("fixed", some_slow(["u", "k"], ["k"]))
def test_a_network_may_be_held_fixed(fixed: str) -> None:
    term = ResidualTerm("pde", X, lambda x, u, k: k.value * u.d("xx") - 1)
    free = {"u": network(), "k": mlp(2, 1, width=3, depth=1, dtype="float64")}
    expected = hessian_vector_product(resolve(Problem(free, [term], "xy")), np.eye(50))
    free[fixed].trainable = False
    kept = slice(37, None) if fixed == "u" else slice(37)
    found = whole(LayeredEngine(resolve(Problem(free, [term], "xy"))))
    assert_close(found, expected[kept, kept])


def test_a_variable_of_keras_is_a_parameter() -> None:
    """Read from a closure, of a network that is held fixed: P = 1, ``∂²L/∂ν² = 2 mean u²``."""
    nu, model = keras.Variable(0.3, dtype="float64"), network()
    model.trainable = False
    term = ResidualTerm("pde", X, lambda x, u: nu * u.value - 1)
    problem = resolve(Problem(model, [term], coordinates="xy", parameters={"nu": nu}))
    assert_close(whole(LayeredEngine(problem)), 2 * np.mean(model(X).numpy() ** 2, keepdims=True))


def test_training_writes_what_a_run_reads(
    tmp_path: Path, hessian: Callable[..., tuple[int, str, str]]
) -> None:
    """`hessian train` prints and keeps a coefficient, and a run starts from it."""
    (tmp_path / "own.py").write_text(
        "import numpy as np\n"
        "from hessian_tasks import Problem, ResidualTerm\n"
        "from hessian_tasks.problems.networks import mlp\n"
        "x = np.linspace(0, 1, 9)[:, None]\n"
        "def problem():\n"
        "    return Problem(\n"
        "        {'u': mlp(1, width=3, depth=1), 'k': mlp(1, width=2, depth=1)},\n"
        "        [ResidualTerm('ode', x, lambda x, u, k, nu: k.value * u.d('x') - nu * u.value),\n"
        "         ResidualTerm('data', x, lambda x, u, y: u.value - y, data={'y': np.exp(x)})],\n"
        "        coordinates='x', parameters={'nu': 1.0})\n"
    )
    problem, out, store = (str(tmp_path / name) for name in ("own.py", "own.npz", "h.zarr"))
    status, _, errors = hessian("train", problem, "--out", str(tmp_path / "own.keras"))
    assert (status, "Save as .npz" in errors) == (2, True)
    status, printed, _ = hessian("train", problem, "--out", out, "--adam", "3", "--lbfgs", "40")
    assert (status, "nu = " in printed) == (0, True)
    assert hessian("run", problem, "--weights", out, "--store", store)[0] == 0
    opened = open_hessian(store)
    nu = float(opened.theta.sel(row_layer="parameters", row_variable="nu")[0])
    assert nu == pytest.approx(float(printed.partition("nu = ")[2].split()[0]), rel=1e-6)
    assert nu != 1.0


def test_data_of_a_single_network_may_be_called_u() -> None:
    """The one network has no name that data could take."""
    residual = ResidualTerm("data", S, lambda x, net, u: net.value - u, data={"u": Y})
    loss = LossTerm(
        "again", lambda net, S, u: tf.reduce_mean((net(S) - u) ** 2), data={"S": S, "u": Y}
    )
    losses, _ = losses_and_gradient(resolve(Problem(network(), [residual, loss], "xy")))
    assert losses["data"] == pytest.approx(losses["again"], rel=1e-14)
