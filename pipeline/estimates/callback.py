"""Curvature during Keras' own training."""

from __future__ import annotations

from typing import Any

import keras

from hessian_tasks.loss.regularization import with_regularization
from hessian_tasks.networks.trainables import networks_of, resolve
from hessian_tasks.problem import Problem
from hessian_tasks.rebuild import freeze
from hessian_tasks.source import LIVE, ProblemSource
from pipeline.errors import ConfigError
from pipeline.estimates.recording import WatchedStore
from pipeline.estimates.watching import Observation, Watch
from pipeline.store.places import Place

__all__ = ["HessianCallback"]


class HessianCallback(keras.callbacks.Callback):  # type: ignore[misc]
    """Observes the curvature of a problem's loss while ``model.fit`` trains its network.

    Before the first epoch, and after every ``every``-th: the smallest and largest eigenpairs with
    bounds on their errors, the trace with its standard error, the loss and its terms, the norm of
    the gradient, and the share of its square in the span of the leading eigenvectors. All from
    products with vectors, which are compiled once. The loss is the problem's, at all its points;
    that of ``model.compile`` may be any other. Training is not changed.

    Steps count epochs, over several calls of ``fit`` with one callback. A ``store`` that ends with
    the weights that training begins with is gone on with, from its last step.

    Attributes:
        observations: What was found, one after the other.

    Example:
        >>> import numpy as np
        >>> from hessian_tasks import Problem, ResidualTerm
        >>> net = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
        >>> x = np.array([[1.0], [3.0]], "float32")
        >>> fit = ResidualTerm("fit", x, lambda x, u: u.value)
        >>> watch = HessianCallback(Problem(net, [fit], coordinates="x"), every=2, pairs=1)
        >>> net.compile("sgd", "mse")
        >>> _ = net.fit(x, 0 * x, epochs=4, verbose=0, callbacks=[watch])
        >>> [(o.step, o.pairs.values.round(3).tolist()) for o in watch.observations][:2]
        [(0, [0.343, 11.657]), (2, [0.343, 11.657])]
    """

    def __init__(
        self, problem: Problem, *, every: int = 1, pairs: int = 3, store: Place | None = None
    ) -> None:
        """Prepare; nothing is compiled before training begins.

        Args:
            problem: The problem; the model that is trained has to be its network.
            every: Epochs from one observation to the next.
            pairs: Eigenpairs at each end.
            store: Directory to append the observations to, for
                :func:`~pipeline.estimates.watched.open_watched`; nowhere by default.

        Raises:
            ConfigError: If ``every`` or ``pairs`` is not positive.
        """
        super().__init__()
        if every < 1 or pairs < 1:
            raise ConfigError(f"every is {every} and pairs {pairs}; expected 1 or more.")
        self._problem, self._every, self._pairs = problem, every, pairs
        self._store = store
        self._kept: WatchedStore | None = None
        self._watch: Watch | None = None
        self._epochs = 0
        self.observations: list[Observation] = []

    def on_train_begin(self, logs: Any = None) -> None:
        """Observe the weights that training begins with.

        Raises:
            ConfigError: If the model is not the problem's network.
            StoreMismatchError: If ``store`` has observations of another problem or other weights.
            StoreError: If something else is there.
        """
        if self._watch is not None:
            return
        problem = with_regularization(resolve(self._problem))
        networks = networks_of(problem.model).values()
        if not any(network is self.model for network in networks):
            raise ConfigError(
                f"The model {self.model.name!r} that is trained is not the problem's network. "
                "Give the problem that model itself: Problem(model, …)."
            )
        if self._store is not None:
            source = ProblemSource(LIVE, live=problem)
            self._kept = WatchedStore(self._store, freeze(problem, source))
        self._watch = Watch(problem, self._pairs)
        if self._kept is None or self._kept.last_step is None:
            self._observe()
        else:
            self._epochs = self._kept.last_step

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Count the epoch, and observe if it is time to."""
        self._epochs += 1
        if self._epochs % self._every == 0:
            self._observe()

    def _observe(self) -> None:
        assert self._watch is not None, "training has begun"
        found = self._watch.observe(self._epochs, "fit" if self._epochs else "start")
        if self._kept is not None:
            self._kept.append(found)
        self.observations.append(found)
