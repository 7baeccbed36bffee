"""The inputs of a run as data: what decides the values of its Hessian."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from hessian_tasks.parameters import ParameterLayout
from hessian_tasks.source import ProblemSource

__all__ = ["FrozenInputs", "FrozenTerm"]


@dataclass(frozen=True)
class FrozenTerm:
    """What is recorded of one loss term.

    Attributes:
        name: Identifier of the term.
        kind: ``"residual"`` or ``"loss"``.
        weight: Factor in the total loss.
        loss: Weighted value at θ.
        derivatives: Derivatives that a residual uses; empty for other losses.
        arrays: Its points or data.
    """

    name: str
    kind: str
    weight: float
    loss: float
    derivatives: tuple[str, ...]
    arrays: Mapping[str, npt.NDArray[Any]]


@dataclass(frozen=True)
class FrozenInputs:
    """Everything that decides the values of the Hessian.

    Attributes:
        theta: The parameter vector ``[P]``.
        state: The non-trainable weights, flattened, float64.
        gradient: ``∇L(θ)`` ``[P]``.
        layout: The parameter table.
        terms: The loss terms.
        coordinates: Names of the network's inputs.
        source: Where the problem comes from.
        source_digest: SHA-256 of its text at the time of freezing.
        model_config: Architecture as JSON, if Keras can rebuild it safely.
    """

    theta: npt.NDArray[Any]
    state: npt.NDArray[Any]
    gradient: npt.NDArray[Any]
    layout: ParameterLayout
    terms: tuple[FrozenTerm, ...]
    coordinates: tuple[str, ...]
    source: ProblemSource
    source_digest: str
    model_config: str | None

    @property
    def dtype(self) -> np.dtype[Any]:
        """Dtype of θ and of the Hessian."""
        return self.theta.dtype

    @property
    def loss(self) -> float:
        """The total loss at θ."""
        return float(sum(term.loss for term in self.terms))

    def fingerprint(self) -> dict[str, str]:
        """What two runs must agree on to share an array: labels to digests or values."""
        prints = {
            "network": _digest_text(repr(self.layout)),
            "weights of the network (theta)": _digest(self.theta),
            "non-trainable weights": _digest(self.state),
            "dtype": str(self.dtype),
            "problem source": self.source_digest,
            "problem options": repr(sorted(self.source.options.items())),
            "loss terms": ", ".join(term.name for term in self.terms),
        }
        for term in self.terms:
            prints[f"weight of term {term.name}"] = repr(term.weight)
            for key, array in term.arrays.items():
                prints[f"{key} of term {term.name}"] = _digest(array)
        return prints


def _digest(array: npt.NDArray[Any]) -> str:
    header = f"{array.dtype.str}{array.shape}".encode()
    return hashlib.sha256(header + np.ascontiguousarray(array).tobytes()).hexdigest()


def _digest_text(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
