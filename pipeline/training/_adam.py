"""Adam (D. Kingma, J. Ba, 2015), of the full loss."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import tensorflow as tf

from hessian_tasks.networks.models import dtype_of, get_theta, trainable_variables
from pipeline.training._objective import Objective

__all__ = ["run_adam"]


def run_adam(objective: Objective, num_steps: int, learning_rate: float) -> None:
    """Make steps of Adam; the loss that is reported is the one before the step.

    Args:
        objective: The loss.
        num_steps: How many.
        learning_rate: Their size.

    Raises:
        ProblemError: If the loss or its gradient is not finite.
    """
    objective.begin("adam", "Adam")
    model = objective.problem.model
    variables = trainable_variables(model)
    sizes = [int(np.prod(variable.shape)) for variable in variables]
    # Keras' optimizers take its own variables alone, and parameters may be others.
    theta = keras.Variable(get_theta(model), dtype=dtype_of(model))
    optimizer = keras.optimizers.Adam(learning_rate)
    optimizer.build([theta])

    def advance(values: Any, grad: Any) -> tuple[Any, Any]:
        optimizer.apply([grad], [theta])
        for part, variable in zip(tf.split(theta.value, sizes), variables, strict=True):
            variable.assign(tf.reshape(part, variable.shape))
        return tf.reduce_sum(values), tf.reduce_sum(tf.square(grad))

    compiled = tf.function(advance, autograph=False, jit_compile=False)
    for _ in range(num_steps):
        found = objective.losses()
        # Called as it is, TensorFlow warns of retracing where a process trains several times.
        step = compiled.get_concrete_function(*found)
        loss, slope = (float(scalar) for scalar in step(*found))
        objective.check(loss, slope)
        objective.report(loss)
