"""What a DeepXDE model was compiled with, and whether all of it can be read."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import tensorflow as tf

from hessian_tasks.errors import ProblemError, plain

__all__ = ["Declared", "check_supported", "declared_by", "evaluate_own", "is_fit"]

# Layers that do something else in training than afterwards.
RANDOM = ("Dropout", "GaussianDropout", "GaussianNoise", "BatchNormalization")


@dataclass(frozen=True)
class Declared:
    """The components of a model's loss: equations, conditions, regularisers, in this order.

    Attributes:
        losses: The loss function of each.
        weights: Their factors in the total loss.
        num_equations: Number of equations.
        is_regularised: Whether the last component is the sum of the network's regularisers.
    """

    losses: tuple[Callable[..., Any], ...]
    weights: tuple[Any, ...]
    num_equations: int
    is_regularised: bool


def is_fit(data: Any) -> bool:
    """Whether the data are targets of the network's outputs, and no equations."""
    import deepxde as dde

    return type(data).losses in (dde.data.Function.losses, dde.data.DataSet.losses)


def check_supported(model: Any) -> None:
    """Refuse what cannot be read as a problem.

    Raises:
        ProblemError: Saying what it is and what to do instead.
    """
    import deepxde as dde

    if dde.backend.backend_name != "tensorflow":
        raise ProblemError(
            f"DeepXDE runs on its backend {dde.backend.backend_name!r}; only 'tensorflow' is read. "
            "Set DDE_BACKEND=tensorflow before deepxde is imported."
        )
    if not isinstance(model, dde.Model):
        raise ProblemError(f"Expected a dde.Model of DeepXDE, got a {type(model).__name__}.")
    if model.outputs_losses_train is None:
        raise ProblemError(
            "The DeepXDE model is not compiled, so it has no loss yet. Call model.compile, with "
            "the loss, loss_weights and external_trainable_variables that it is trained with."
        )
    if dde.config.autodiff != "reverse":
        raise ProblemError(
            f"DeepXDE differentiates by {dde.config.autodiff!r} mode; only its default is read. "
            'Call dde.config.set_default_autodiff("reverse").'
        )
    _check_data(model.data)
    _check_type(model.net)
    for layer in model.net._flatten_layers():
        if any(kind.__name__ in RANDOM for kind in type(layer).__mro__):
            raise ProblemError(
                f"The network of the DeepXDE model has a layer {type(layer).__name__}, with which "
                "its training loss is random, or that of a batch. Build it without: for FNN, "
                "dropout_rate=0."
            )


def _check_type(network: Any) -> None:
    import deepxde as dde

    layers = network._flatten_layers(include_self=False)
    ours, theirs = {layer.variable_dtype for layer in layers}, dde.config.default_float()
    if ours and theirs not in ours:
        raise ProblemError(
            f"The network of the DeepXDE model has weights in {', '.join(sorted(ours))}, but "
            f"DeepXDE computes in {theirs}: Keras keeps the float type of the first layer that a "
            "process makes. Call dde.config.set_default_float before it, in a new process."
        )


def _check_data(data: Any) -> None:
    import deepxde as dde

    kinds = (dde.data.PDE, dde.data.Function, dde.data.DataSet)
    own = [kind.losses for kind in kinds]
    # Subclasses that compute another loss are other problems: FPDE, IDE, a user's own.
    if type(data).losses not in own or type(data).losses_train is not dde.data.Data.losses_train:
        raise ProblemError(
            f"The data of the DeepXDE model are a {type(data).__name__}, which computes its loss "
            "by itself; PDE, TimePDE, Function and DataSet are read. Declare that loss as a "
            "LossTerm of a Problem with the model's net."
        )
    if getattr(data, "online", False):
        raise ProblemError(
            "The Function of the DeepXDE model has online=True: it draws other points for every "
            "step, so that there is no one loss. Build it with online=False."
        )


def declared_by(model: Any) -> Declared:
    """Find out what a model's loss is made of, by evaluating it once.

    DeepXDE hands the loss functions to its data alone, so that another object takes the place of
    these for as long as that takes.

    Raises:
        ProblemError: If DeepXDE's own loss fails.
    """
    data = model.data
    data.train_next_batch()
    listening = _Listening(data)
    model.data = listening
    try:
        tf.function(lambda: evaluate_own(model, data), autograph=False).get_concrete_function()
    except Exception as error:  # whatever the user's own functions raise
        raise ProblemError(
            f"DeepXDE's own loss of the model fails: {type(error).__name__}: {plain(error)}"
        ) from error
    finally:
        model.data = data
    number, regularised = listening.number, model.net.regularizer is not None
    given = listening.loss
    losses = list(given) if isinstance(given, list | tuple) else [given] * number
    return Declared(
        losses=(*losses, *[_nothing] * regularised),
        weights=tuple(
            [1.0] * (number + regularised) if model.loss_weights is None else model.loss_weights
        ),
        num_equations=number - len(getattr(data, "bcs", [])),
        is_regularised=regularised,
    )


def evaluate_own(model: Any, data: Any) -> Any:
    """DeepXDE's own weighted losses ``[components]``; call it inside ``tf.function``."""
    own = getattr(model.outputs_losses_train, "python_function", model.outputs_losses_train)
    as_tensor = [
        None if array is None else tf.constant(array)
        for array in (data.train_x, data.train_y, getattr(data, "train_aux_vars", None))
    ]
    return own(*as_tensor)[1]


def _nothing(*_: Any) -> Any:
    raise AssertionError("regularisers are no loss of an error")


class _Listening:
    """Stands for a model's data, and notes the loss functions that these are given."""

    def __init__(self, data: Any) -> None:
        self._data = data
        self.loss: Any = None
        self.number = 0

    def losses_train(
        self, targets: Any, outputs: Any, loss: Any, inputs: Any, model: Any, aux: Any = None
    ) -> Any:
        found = self._data.losses_train(targets, outputs, loss, inputs, model, aux=aux)
        self.loss, self.number = loss, len(found) if isinstance(found, list) else 1
        return found
