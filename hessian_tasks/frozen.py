"""The inputs of a run as data: what decides the values of its Hessian."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from hessian_tasks.digests import digest, digest_text
from hessian_tasks.parameters import ParameterLayout
from hessian_tasks.source import ProblemSource

__all__ = [
    "NAMES",
    "SHAPES",
    "WEIGHTS",
    "Evaluated",
    "FrozenInputs",
    "FrozenTerm",
    "Rounding",
    "reads_label",
]


@dataclass(frozen=True)
class FrozenTerm:
    """What is recorded of one loss term.

    Attributes:
        name: Identifier of the term.
        kind: Of which kind, as :data:`~hessian_tasks.problem.terms.TermKind` names them.
        weight: Factor in the total loss.
        loss: Weighted value at θ.
        arrays: Its points or data.
        reads: Digest of what it reads beside the network and its arrays; empty where that is not
            known, as in stores from before it was recorded.
    """

    name: str
    kind: str
    weight: float
    loss: float
    arrays: Mapping[str, npt.NDArray[Any]]
    reads: str = ""


@dataclass(frozen=True)
class Rounding:
    """By how much rounding alone may move what is evaluated at θ; 0 where that was not measured.

    Attributes:
        loss: Any term's weighted loss.
        gradient: ``∇L``, in length.
    """

    loss: float = 0.0
    gradient: float = 0.0


@dataclass(frozen=True, eq=False)
class Evaluated:
    """The losses and their gradient at θ, computed or recorded.

    Attributes:
        losses: The weighted losses by term.
        gradient: ``∇L(θ)`` ``[P]`` in the model's dtype.
        rounding: By how much rounding may move these.
    """

    losses: Mapping[str, float]
    gradient: npt.NDArray[Any]
    rounding: Rounding = Rounding()

    def disagreement(self, recorded: Evaluated) -> str:
        """In what these differ from recorded ones by more than rounding.

        Returns:
            That in words, naming the term, or nothing.

        Example:
            >>> recorded = Evaluated({"pde": 0.2}, np.array([0.1]))
            >>> Evaluated({"pde": 0.3}, recorded.gradient).disagreement(recorded)
            "loss term 'pde' is 0.3, but 0.2 was recorded"
            >>> Evaluated({"pde": 0.2 + 1e-15}, recorded.gradient).disagreement(recorded)
            ''
        """
        # Sums of N terms in another order differ by a few ulp times sqrt(N); 1e3 ulp
        # leaves room for other thread counts and processors and none for other points.
        tolerance = 1e3 * float(np.finfo(recorded.gradient.dtype).eps)
        # At a minimum, losses and gradient are what is left where large terms cancel.
        slack = max(self.rounding.loss, recorded.rounding.loss)
        total = abs(sum(recorded.losses.values()))
        for name, loss in recorded.losses.items():
            if abs(self.losses[name] - loss) > tolerance * max(abs(loss), total) + slack:
                return f"loss term {name!r} is {self.losses[name]:.9g}, but {loss:.9g} was recorded"
        defect = float(np.linalg.norm(self.gradient - recorded.gradient))
        norm = float(np.linalg.norm(recorded.gradient))
        slack = max(self.rounding.gradient, recorded.rounding.gradient)
        if defect > tolerance * (norm + total) + slack:
            return (
                f"the gradient of the loss has norm {np.linalg.norm(self.gradient):.9g}, but "
                f"{norm:.9g} was recorded, and they differ by {defect:.3g}"
            )
        return ""


@dataclass(frozen=True)
class FrozenInputs:
    """Everything that decides the values of the Hessian.

    Attributes:
        theta: The parameter vector ``[P]``.
        state: The weights that are not trained, flattened, float64.
        gradient: ``∇L(θ)`` ``[P]``.
        layout: The parameter table.
        terms: The loss terms.
        coordinates: Names of the network's inputs.
        source: Where the problem comes from.
        source_digest: SHA-256 of its text at the time of freezing.
        model_config: Architecture as JSON, if Keras can rebuild it safely.
        imports: SHA-256 of the files that the source imports from its own folder, by name.
        rounding: By how much rounding may move the losses and the gradient.
        recorded: Whether they are a store's own word, so that the problem may have changed since.
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
    imports: Mapping[str, str] = field(default_factory=dict)
    rounding: Rounding = Rounding()
    recorded: bool = False

    @property
    def dtype(self) -> np.dtype[Any]:
        """Dtype of θ and of the Hessian."""
        return self.theta.dtype

    @property
    def loss(self) -> float:
        """The total loss at θ."""
        return float(sum(term.loss for term in self.terms))

    @property
    def evaluated(self) -> Evaluated:
        """The losses by term and the gradient at θ."""
        losses = {term.name: term.loss for term in self.terms}
        return Evaluated(losses, self.gradient, self.rounding)

    def fingerprint(self) -> dict[str, str]:
        """What two runs must agree on to share an array: labels to digests or values."""
        prints = {
            # Keras counts the names of layers on with every network that a process builds: only
            # runs from before shapes were recorded have to agree on these.
            NAMES: digest_text(repr(self.layout)),
            SHAPES: digest_text(repr([(v.name, v.shape) for v in self.layout.variables])),
            **dict(zip(WEIGHTS, map(digest, (self.theta, self.state)), strict=True)),
            "dtype": str(self.dtype),
            "problem source": self.source_digest,
            "problem options": repr(sorted(self.source.options.items())),
            "loss terms": ", ".join(term.name for term in self.terms),
        }
        if self.layout.held:
            prints["what only leaves out"] = repr([v.position for v in self.layout.held])
        prints |= {f"imported file {name}": text for name, text in self.imports.items()}
        for term in self.terms:
            if term.reads:
                prints[reads_label(term.name)] = term.reads
            prints[f"weight of term {term.name}"] = repr(term.weight)
            for key, array in term.arrays.items():
                prints[f"{key} of term {term.name}"] = digest(array)
        return prints


# What fingerprints call the network's parameters with the names of layers, and without.
NAMES, SHAPES = "network", "shapes of the network"
# And what training changes.
WEIGHTS = ("weights of the network (theta)", "non-trainable weights")


def reads_label(term: str) -> str:
    """What a fingerprint calls the digest of what a term reads."""
    return f"what term {term} reads"
