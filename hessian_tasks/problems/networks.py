"""The network of the built-in problems."""

from typing import Any

import keras

__all__ = ["mlp"]


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

    Example:
        >>> mlp(2, width=50).count_params()
        5301
    """
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
