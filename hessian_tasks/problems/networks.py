"""The network of the built-in problems."""

import itertools
from typing import Any

import keras

__all__ = ["mlp"]

# Beyond these building takes minutes, or all memory.
MAX_DEPTH, MAX_PARAMS = 1000, 10**8


def mlp(
    num_inputs: int,
    num_outputs: int = 1,
    *,
    width: int = 50,
    depth: int = 3,
    seed: int = 0,
    dtype: str = "float32",
) -> Any:
    """A multilayer perceptron with tanh activations and a linear output.

    Args:
        num_inputs: Number of coordinates.
        num_outputs: Number of outputs.
        width: Units of each hidden layer.
        depth: Number of hidden layers.
        seed: Seed of the Glorot-normal initial kernels; biases start at zero.
        dtype: ``"float32"`` or ``"float64"``.

    Raises:
        ValueError: If there is no such network, or it is too large to be built.

    Example:
        >>> mlp(2, width=50).count_params()
        5301
    """
    _check(num_inputs, num_outputs, width, depth)
    if dtype not in ("float32", "float64"):
        raise ValueError(f"dtype is {dtype!r}, expected 'float32' or 'float64'")
    layers = [keras.Input((num_inputs,), dtype=dtype)]
    for number in range(depth + 1):
        hidden = number < depth
        layers.append(
            keras.layers.Dense(
                width if hidden else num_outputs,
                activation="tanh" if hidden else None,
                kernel_initializer=keras.initializers.GlorotNormal(seed=seed + number),
                name=f"hidden_{number + 1}" if hidden else "output",
                dtype=dtype,
            )
        )
    return keras.Sequential(layers, name="mlp")


def _check(num_inputs: int, num_outputs: int, width: int, depth: int) -> None:
    if not 0 <= depth <= MAX_DEPTH:
        raise ValueError(f"depth is {depth}, expected 0 to {MAX_DEPTH}")
    if width < 1:
        raise ValueError(f"width is {width}, expected at least 1")
    if num_outputs < 1:
        raise ValueError(f"the number of outputs is {num_outputs}, expected at least 1")
    sizes = [num_inputs, *[width] * depth, num_outputs]
    if sum(a * b for a, b in itertools.pairwise(sizes)) > MAX_PARAMS:
        raise ValueError(f"width and depth give more than {MAX_PARAMS:,} parameters")
