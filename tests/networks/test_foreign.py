"""Weights that other libraries wrote: which tensor is which layer's, and what is refused."""

from __future__ import annotations

import itertools
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import numpy.typing as npt
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import save_file

from hessian_tasks.errors import ModelError, ProblemError, WeightsWarning
from hessian_tasks.networks._matching import DenseLayer, match
from hessian_tasks.networks.models import get_theta
from hessian_tasks.networks.trainables import resolve
from hessian_tasks.networks.weights import load_weights
from hessian_tasks.problem import LossTerm, Problem
from hessian_tasks.problems.networks import mlp

Array = npt.NDArray[Any]
layers = keras.layers

rng = np.random.default_rng(0)


def problem(
    model: Any = None, parameters: dict[str, Any] | None = None, dtype: str = "float64", **keys: Any
) -> Problem:
    model = mlp(2, width=3, depth=2, dtype=dtype) if model is None else model
    term = LossTerm("size", lambda model: tf.reduce_sum(model(tf.ones((1, 2), dtype))))
    return Problem(model, [term], "xy", parameters=parameters or {}, **keys)


def chain(*widths: int, dtype: str = "float64") -> list[tuple[Array, Array]]:
    """Kernels ``[in, out]`` and biases."""
    return [
        (rng.normal(size=(a, b)).astype(dtype), rng.normal(size=b).astype(dtype))
        for a, b in itertools.pairwise(widths)
    ]


def theta(values: list[tuple[Array, Array]]) -> Array:
    return np.concatenate([part.ravel() for pair in values for part in pair])


# What a library calls the two tensors of a layer, and whether its kernels are [out, in].
NAMES: dict[str, tuple[Callable[[int], tuple[str, str]], bool]] = {
    "Sequential of PyTorch": (lambda n: (f"{2 * n}.weight", f"{2 * n}.bias"), True),
    "DeepXDE with PyTorch": (lambda n: (f"linears.{n}.weight", f"linears.{n}.bias"), True),
    "Lightning": (lambda n: (f"model.net.{n}.weight", f"model.net.{n}.bias"), True),
    "Flax": (lambda n: (f"params/Dense_{n}/kernel", f"params/Dense_{n}/bias"), False),
    "paths of JAX": (lambda n: (f"['Dense_{n}']['kernel']", f"['Dense_{n}']['bias']"), False),
    "Equinox": (lambda n: (f".layers[{n}].weight", f".layers[{n}].bias"), True),
    "Haiku": (lambda n: (f"mlp/~/linear_{n}/w", f"mlp/~/linear_{n}/b"), False),
    "written by hand": (lambda n: (f"W{n + 1}", f"b{n + 1}"), False),
}


def named(library: str, values: list[tuple[Array, Array]]) -> dict[str, Array]:
    names, turned = NAMES[library]
    found = {}
    for number, (kernel, bias) in enumerate(values):
        for name, array in zip(names(number), (kernel.T if turned else kernel, bias), strict=True):
            found[name] = np.ascontiguousarray(array)
    return found


def write(path: Path, tensors: dict[str, Array]) -> Path:
    if path.suffix == ".npz":
        np.savez(path, **tensors)
    else:
        save_file(tensors, path)
    return path


@pytest.mark.parametrize("ending", [".npz", ".safetensors"])
@pytest.mark.parametrize("library", NAMES)
def test_what_libraries_write_is_read(library: str, ending: str, tmp_path: Path) -> None:
    values = chain(2, 3, 3, 1)
    path = write(tmp_path / f"net{ending}", named(library, values))
    assert np.array_equal(get_theta(load_weights(path, problem()).model), theta(values))


def test_ten_is_after_two(tmp_path: Path) -> None:
    """In the order in which JAX sorts names, which is that of safetensors, too."""
    widths = [2, *[3] * 11, 1]
    values = chain(*widths)
    sorted_by_name = dict(sorted(named("Flax", values).items()))
    assert next(iter(sorted_by_name)) == "params/Dense_0/bias"
    assert list(sorted_by_name)[4] == "params/Dense_10/bias"
    path = write(tmp_path / "net.npz", sorted_by_name)
    loaded = load_weights(path, problem(mlp(2, width=3, depth=11, dtype="float64")))
    assert np.array_equal(get_theta(loaded.model), theta(values))


@st.composite
def chains(draw: st.DrawFn) -> tuple[list[int], str, bool, list[int]]:
    widths = draw(st.lists(st.integers(1, 4), min_size=2, max_size=12))
    library = draw(st.sampled_from([name for name in NAMES if name != "written by hand"]))
    order = draw(st.permutations(range(len(widths) - 1)))
    return widths, library, draw(st.booleans()), list(order)


@given(chains())
@settings(max_examples=200)
def test_order_of_the_file_does_not_matter_where_names_have_numbers(
    drawn: tuple[list[int], str, bool, list[int]],
) -> None:
    widths, library, with_bias, order = drawn
    pairs = list(itertools.pairwise(widths))
    wanted = [DenseLayer(f"layer {i}", pair, with_bias) for i, pair in enumerate(pairs)]
    names, turned = NAMES[library]
    shapes: dict[str, tuple[int, ...]] = {}
    for number in order:
        kernel, bias = names(number)
        shapes[kernel] = pairs[number][::-1] if turned else pairs[number]
        if with_bias:
            shapes[bias] = pairs[number][1:]
    if library == "Haiku" and all(a == b for a, b in pairs):
        with pytest.raises(ModelError, match="their names do not say which"):
            match(shapes, wanted, ordered=True)
        return
    found, doubt = match(shapes, wanted, ordered=False)
    assert doubt == ""
    for number, layer in enumerate(found):
        kernel, bias = names(number)
        assert (layer.kernel, layer.bias) == (kernel, bias if with_bias else None)
        assert layer.turned == turned


@given(st.permutations(range(3)))
def test_order_is_found_by_shapes_where_these_decide(order: list[int]) -> None:
    pairs = [(2, 5), (5, 4), (4, 1)]
    wanted = [DenseLayer(f"layer {i}", pair, False) for i, pair in enumerate(pairs)]
    shapes = {f"{'xyz'[i]}.weight": pairs[i][::-1] for i in order}
    found, doubt = match(shapes, wanted, ordered=False)
    assert [layer.kernel for layer in found] == ["x.weight", "y.weight", "z.weight"]
    assert doubt == ""


def test_the_order_of_a_state_dictionary_decides_with_a_word() -> None:
    wanted = [DenseLayer(f"layer {i}", (3, 3), False) for i in range(3)]
    shapes = {f"{name}.weight": (3, 3) for name in ("first", "next", "last")}
    found, doubt = match(shapes, wanted, ordered=True)
    assert [layer.kernel for layer in found] == list(shapes)
    assert doubt == "both 'first.weight' and 'next.weight' have the shape of layer 'layer 0'"
    with pytest.raises(ModelError, match=f"{doubt}. Give the layers names that differ in numbers"):
        match(shapes, wanted, ordered=False)
    # The file's order contradicts the numbers.
    twisted = {f"{name}.weight": (3, 3) for name in ("a2", "a1", "b")}
    with pytest.raises(ModelError, match="Give the layers names"):
        match(twisted, wanted, ordered=True)


def test_many_layers_of_one_shape_are_not_tried_in_all_orders() -> None:
    wanted = [DenseLayer(f"layer {i}", (3, 3), False) for i in range(40)]
    shapes = {f"{chr(97 + i // 26)}{chr(97 + i % 26)}/kernel": (3, 3) for i in range(40)}
    with pytest.raises(ModelError, match="too many names for their order"):
        match(shapes, wanted, ordered=False)


HIDDEN = {"0.weight": (3, 2), "0.bias": (3,), "2.weight": (1, 3), "2.bias": (1,)}
LAYERS = [DenseLayer("hidden", (2, 3), True), DenseLayer("output", (3, 1), True)]
SQUARE = [DenseLayer("hidden", (3, 3), True), DenseLayer("output", (3, 3), True)]
REFUSED: dict[str, tuple[dict[str, tuple[int, ...]], list[DenseLayer], str]] = {
    "a word that is no kernel": (
        {**HIDDEN, "1.scale": (3,)}, LAYERS,
        r"'1.scale' is no kernel or bias; it has '0.weight', .*, '1.scale'",
    ),
    "names without words": ({"arr_0": (2, 3)}, LAYERS, "'arr_0' is no kernel or bias"),
    "nothing but digits": ({"0": (2, 3)}, LAYERS, "'0' is no kernel or bias"),
    "two kernels": ({**HIDDEN, "0.kernel": (2, 3)}, LAYERS, "'0.kernel' is a second one of its"),
    "a bias alone": ({**HIDDEN, "4.bias": (3,)}, LAYERS, "'4.bias' has no kernel beside it"),
    "one number twice": (
        {**HIDDEN, "00.weight": (3, 2)}, LAYERS, "'0.weight' and '00.weight' have the same number",
    ),
    "another width": (
        {**HIDDEN, "0.weight": (4, 2)}, LAYERS,
        r"'0.weight' is \[4, 2\] where layer 'hidden' takes \[3, 2\], \[out, in\]",
    ),
    "another depth": (
        {**HIDDEN, "4.weight": (1, 1)}, LAYERS,
        r"kernels of 3 layers, '0.weight', '2.weight', '4.weight', .* has 2: hidden, output",
    ),
    "a bias too many": (
        HIDDEN, [LAYERS[0], DenseLayer("output", (3, 1), False)],
        r"bias beside '2.weight' is \[1\] where that of layer 'output' is none",
    ),
    "a bias too few": (
        {k: v for k, v in HIDDEN.items() if k != "0.bias"}, LAYERS,
        r"bias beside '0.weight' is none where that of layer 'hidden' is \[3\]",
    ),
    "a bias of two axes": (
        {**HIDDEN, "0.bias": (1, 3)}, LAYERS, r"'0.weight' is \[1, 3\] where .* is \[3\]",
    ),
    "kernels that are called weights": (
        {"0.weight": (2, 3), "0.bias": (3,), "2.weight": (3, 1), "2.bias": (1,)}, LAYERS,
        r"'0.weight' says that it is stored \[out, in\], as by PyTorch and Equinox, but its "
        r"shape, \[2, 3\], is the other way round. Call it 'kernel'",
    ),
    "weights that are called kernels": (
        {"0.kernel": (3, 2), "0.bias": (3,), "2.kernel": (1, 3), "2.bias": (1,)}, LAYERS,
        r"'0.kernel' says that it is stored \[in, out\], as by Keras and Flax.*Call it 'weight'",
    ),
    "square, and no word": (
        {"W0": (3, 3), "b0": (3,), "W1": (3, 3), "b1": (3,)}, SQUARE, "names do not say which",
    ),
    "of both orientations": (
        {"W0": (3, 2), "b0": (3,), "W1": (3, 1), "b1": (1,)}, LAYERS, "no order of its layers",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_does_not_fit_is_said(case: str) -> None:
    shapes, wanted, message = REFUSED[case]
    with pytest.raises(ModelError, match=message):
        match(shapes, wanted, ordered=True)


def check_refused(path: Path, refused: Problem, message: str) -> None:
    """Assert that a file is refused, and that no weight is touched."""
    before = get_theta(resolve(refused).model)
    with pytest.raises(ModelError, match=message) as raised:
        load_weights(path, refused)
    assert str(path) in str(raised.value)
    assert np.array_equal(get_theta(resolve(refused).model), before)


def test_what_does_not_fit_names_the_file_and_what_always_fits(tmp_path: Path) -> None:
    path = write(tmp_path / "net.npz", named("Flax", chain(2, 4, 4, 1)))
    check_refused(
        path, problem(), r"does not fit: 'params/Dense_0/kernel' is \[2, 4\] where .* an .npy file"
    )


VALUES: dict[str, tuple[Callable[[Array], Array], str]] = {
    "nan": (lambda a: a * np.nan, r"has NaN, infinity .* in 'params/Dense_2/bias'"),
    "integers": (lambda a: a.astype(int), r"neither float32 nor float64: .*Dense_2/bias \(int64"),
    "half": (lambda a: a.astype("f2"), r"neither float32 nor float64: .*Dense_2/bias \("),
}


@pytest.mark.parametrize("ending", [".npz", ".safetensors"])
@pytest.mark.parametrize("case", VALUES)
def test_values_that_are_no_weights_are_refused(case: str, ending: str, tmp_path: Path) -> None:
    change, message = VALUES[case]
    tensors = named("Flax", chain(2, 3, 3, 1))
    tensors["params/Dense_2/bias"] = change(tensors["params/Dense_2/bias"])
    if (case, ending) == ("integers", ".safetensors"):
        message = message.replace("int64", "I64")
    check_refused(write(tmp_path / f"net{ending}", tensors), problem(), message)


def test_rounding_is_said_and_overflow_refused(tmp_path: Path) -> None:
    values = chain(2, 3, 3, 1)
    path = write(tmp_path / "net.npz", named("Flax", values))
    with pytest.warns(WeightsWarning, match="of float64, and was rounded to float32"):
        loaded = load_weights(path, problem(dtype="float32"))
    assert np.array_equal(get_theta(loaded.model), theta(values).astype("f4"))
    # Of what float32 holds exactly there is nothing to be said.
    single = [(k.astype("f4").astype("f8"), b.astype("f4").astype("f8")) for k, b in values]
    load_weights(write(path, named("Flax", single)), problem(dtype="float32"))
    load_weights(write(path, named("Flax", chain(2, 3, 3, 1, dtype="float32"))), problem())
    values[0][0][0, 0] = 1e300
    check_refused(
        write(path, named("Flax", values)), problem(dtype="float32"), "too large for float32"
    )


@pytest.mark.parametrize("content", [b"", b"xx", b"\xff" * 8 + b"{}", b"PK\x05\x06" + bytes(18)])
@pytest.mark.parametrize("ending", [".npz", ".safetensors", ".npy"])
def test_what_is_no_such_file_is_refused(content: bytes, ending: str, tmp_path: Path) -> None:
    path = tmp_path / f"net{ending}"
    path.write_bytes(content)
    check_refused(path, problem(), "cannot be read|does not fit")


def test_no_pickle_is_read(tmp_path: Path) -> None:
    ran = tmp_path / "ran"

    class Runs:
        def __reduce__(self) -> tuple[Any, tuple[str]]:
            return (Path.touch, (ran,))  # type: ignore[return-value]

    for ending in (".npz", ".npy"):
        path = tmp_path / f"net{ending}"
        if ending == ".npz":
            np.savez(path, a=np.array([Runs()], object))
        else:
            np.save(path, np.array([Runs()], object))
        check_refused(path, problem(), r"cannot be read|Object arrays")
    assert not ran.exists()


def test_an_unknown_ending_names_those_that_are_known(tmp_path: Path) -> None:
    path = tmp_path / "net.pkl"
    path.touch()
    check_refused(path, problem(), r"expected one of \.keras, .*\.npz, \.npy, \.safetensors, \.pt")
    check_refused(tmp_path / "none.npy", problem(), "does not exist")


def test_theta_is_read_in_its_order(tmp_path: Path) -> None:
    own = problem(parameters={"nu": 0.3, "source": [1.0, 2.0]})
    values = np.arange(28.0)
    np.save(tmp_path / "theta.npy", values)
    loaded = load_weights(tmp_path / "theta.npy", own)
    assert np.array_equal(get_theta(loaded.model), values)
    for shape in ((27,), (28, 1), ()):
        np.save(tmp_path / "theta.npy", np.zeros(shape))
        found = re.escape(str(list(shape)))
        check_refused(tmp_path / "theta.npy", own, rf"holds an array {found}; expected θ, \[28\]")
    np.save(tmp_path / "theta.npy", np.zeros(28, "i4"))
    check_refused(tmp_path / "theta.npy", own, r"theta \(int32\)")


def test_theta_larger_than_the_network_is_refused_unread(tmp_path: Path) -> None:
    """A header that promises more than there is, and a file of one terabyte that takes no disk."""
    path = tmp_path / "theta.npy"
    np.save(path, np.zeros(3))
    head = path.read_bytes()[:128]
    path.write_bytes(head.replace(b"(3,), }      ", b"(9999999,), }"))
    check_refused(path, problem(), "cannot be read")
    path.write_bytes(head.replace(b"(3,), }           ", b"(137438953456,), }"))
    with path.open("r+b") as file:
        file.truncate(2**40)
    check_refused(path, problem(), r"holds an array \[137438953456\]; expected θ, \[25\]")


def test_theta_says_what_it_leaves(tmp_path: Path) -> None:
    own = problem(only=["output"])
    np.save(tmp_path / "theta.npy", np.arange(4.0))
    before = get_theta(resolve(own).model, trainable=False)
    with pytest.warns(WeightsWarning, match="has θ alone: hidden_1/kernel, .* stay as"):
        loaded = load_weights(tmp_path / "theta.npy", own)
    assert np.array_equal(get_theta(loaded.model), np.arange(4.0))
    assert np.array_equal(get_theta(loaded.model, trainable=False), before)


def test_parameters_are_taken_by_their_names(tmp_path: Path) -> None:
    own = problem(parameters={"nu": 0.3, "source": [1.0, 2.0]})
    values = chain(2, 3, 3, 1)
    path = write(tmp_path / "net.npz", {**named("Flax", values), "nu": np.array([0.7])})
    with pytest.warns(WeightsWarning, match=r"no value of the parameter source = \[1\., 2\.\]"):
        loaded = load_weights(path, own)
    expected = np.concatenate([theta(values), [0.7, 1.0, 2.0]])
    assert np.array_equal(get_theta(loaded.model), expected)
    write(path, {**named("Flax", values), "source": np.zeros(3)})
    check_refused(path, own, r"'source' is \[3\] where the parameter of that name is \[2\]")


def test_held_and_frozen_layers_take_their_values(tmp_path: Path) -> None:
    values = chain(2, 3, 3, 1)
    path = write(tmp_path / "net.npz", named("Equinox", values))
    loaded = load_weights(path, problem(only="output"))
    assert np.array_equal(get_theta(loaded.model), theta(values[2:]))
    assert np.array_equal(get_theta(loaded.model, trainable=False), theta(values[:2]))


def test_several_networks_take_theta_alone(tmp_path: Path) -> None:
    several = Problem(
        {"u": mlp(2, width=3, depth=1), "v": mlp(2, width=3, depth=1)},
        [LossTerm("size", lambda model, v: tf.reduce_sum(v(tf.ones((1, 2)))))],
        "xy",
    )
    path = write(tmp_path / "net.npz", named("Flax", chain(2, 3, 1, dtype="float32")))
    with pytest.raises(ProblemError, match=r"several networks, .*\.npy file with θ"):
        load_weights(path, several)
    np.save(tmp_path / "theta.npy", np.arange(26.0))
    loaded = load_weights(tmp_path / "theta.npy", several)
    assert np.array_equal(get_theta(loaded.model), np.arange(26.0))


class Backwards(keras.Model):
    """Defines its layers in another order than it evaluates them in."""

    def __init__(self) -> None:
        super().__init__(dtype="float64")
        self.last = layers.Dense(3, dtype="float64", name="last")
        self.first = layers.Dense(3, dtype="float64", name="first")

    def call(self, x: Any) -> Any:
        return self.last(self.first(x))


def built(model: Any, width: int) -> Any:
    model(tf.zeros((1, width), "float64"))
    return model


def test_layers_are_in_the_order_of_their_evaluation(tmp_path: Path) -> None:
    model = built(Backwards(), 3)
    assert [weight.path.split("/")[1] for weight in model.weights[::2]] == ["last", "first"]
    values = chain(3, 3, 3)
    path = write(tmp_path / "net.npz", named("Flax", values))
    term = LossTerm("size", lambda model: tf.reduce_sum(model(tf.ones((1, 3), "float64"))))
    load_weights(path, Problem(model, [term], "xyz"))
    assert np.array_equal(model.first.kernel, values[0][0])
    assert np.array_equal(model.last.bias, values[1][1])
    assert "call" not in vars(model.first)


def functional(*middle: Any, inputs: int = 2) -> Any:
    return keras.Sequential(
        [keras.Input((inputs,), dtype="float64"), *middle, layers.Dense(1, dtype="float64")]
    )


def gated() -> Any:
    x = keras.Input((2,), dtype="float64")
    gates = [layers.Dense(3, dtype="float64")(x) for _ in range(2)]
    return keras.Model(x, layers.Dense(1, dtype="float64")(gates[0] * gates[1]))


def twice() -> Any:
    x = keras.Input((2,), dtype="float64")
    hidden = layers.Dense(2, dtype="float64")
    return keras.Model(x, layers.Dense(1, dtype="float64")(hidden(hidden(x))))


OTHERS: dict[str, tuple[Callable[[], Any], str]] = {
    "another kind": (
        lambda: functional(layers.BatchNormalization(dtype="float64")), r"it has .*/gamma",
    ),
    "a layer twice": (twice, "more than once, or not at all"),
    "no chain": (gated, r"takes more or less than .* gives"),
}  # fmt: skip


@pytest.mark.parametrize("case", OTHERS)
def test_networks_that_are_no_chains_are_refused(case: str, tmp_path: Path) -> None:
    make, message = OTHERS[case]
    path = write(tmp_path / "net.npz", named("Flax", chain(2, 3, 1)))
    check_refused(path, problem(make()), f"{message}.*an .npy file does")


@pytest.fixture
def without_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)


@pytest.mark.usefixtures("without_torch")
@pytest.mark.parametrize("ending", [".pt", ".pth"])
def test_without_pytorch_its_files_have_a_way_around(ending: str, tmp_path: Path) -> None:
    path = tmp_path / f"net{ending}"
    path.write_bytes(b"whatever")
    check_refused(path, problem(), r"takes PyTorch, which is not installed .*safetensors\.torch\.")
