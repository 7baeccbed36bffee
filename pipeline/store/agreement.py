"""Whether two runs are of the same inputs, by what each has recorded of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from hessian_tasks.frozen import (
    NAMES,
    SHAPES,
    Evaluated,
    FrozenInputs,
    FrozenTerm,
    Rounding,
    reads_label,
)
from hessian_tasks.source import ProblemSource
from pipeline.store.opened import HoldsInputs

__all__ = ["altered_inputs", "differences", "differing_inputs", "read_inputs"]

# What a term reads is recorded of every term, and with it what the problem file imports.
READS, IMPORTS = "what term ", "imported file "


def differences(first: Mapping[str, str], second: Mapping[str, str]) -> str:
    """In what two fingerprints differ, in words, or nothing.

    Fingerprints from before it was recorded what terms read, which files are imported, and what
    shapes the network has apart from its layers' names, are compared by what they have; the losses
    and the gradient at θ have to tell the rest.

    Example:
        >>> differences({"dtype": "float32"}, {"dtype": "float64"}), differences({}, {})
        ('dtype differs', '')
        >>> old, new = {"dtype": "float32"}, {"dtype": "float32", "what term pde reads": "1f"}
        >>> differences(old, new), differences(new, {**new, "what term pde reads": "2e"})
        ('', 'what term pde reads differs')
    """
    both = (first, second)
    known = all(any(label.startswith(READS) for label in one) for one in both)
    other = NAMES if all(SHAPES in one for one in both) else SHAPES
    labels = [label for label in dict.fromkeys([*first, *second]) if label != other]
    differing = [
        label
        for label in labels
        if first.get(label) != second.get(label)
        and (known or not label.startswith((READS, IMPORTS)))
    ]
    return _in_words(differing)


def _in_words(differing: Sequence[str]) -> str:
    return f"{', '.join(differing)} differ{'s' if len(differing) == 1 else ''}" if differing else ""


def differing_inputs(recorded: HoldsInputs, frozen: FrozenInputs) -> str:
    """In what the inputs of a run differ from recorded ones, in words, or nothing.

    Digests tell what is recorded exactly, losses and gradient at θ everything else that matters:
    those of two machines differ by rounding.

    Raises:
        StoreError: If the recorded gradient cannot be read.
    """
    differing = differences(recorded.attributes["fingerprint"], frozen.fingerprint())
    if differing:
        return differing
    losses = {term["name"]: term["loss"] for term in recorded.attributes["terms"]}
    return frozen.evaluated.disagreement(Evaluated(losses, recorded.read("gradient")))


def read_inputs(recorded: HoldsInputs, source: ProblemSource) -> FrozenInputs:
    """The inputs as they are stored, of a problem that comes from there.

    Raises:
        StoreError: If an array cannot be read.
    """
    attributes = recorded.attributes
    return FrozenInputs(
        theta=recorded.read("theta"),
        state=recorded.read("state"),
        gradient=recorded.read("gradient"),
        layout=recorded.layout,
        terms=tuple(_read_term(recorded, term) for term in attributes["terms"]),
        coordinates=tuple(attributes["network_inputs"]),
        source=source,
        source_digest=source.digest,
        model_config=attributes["model_config"],
        imports=source.imports,
        rounding=Rounding(**attributes.get("rounding", {})),
        recorded=True,
    )


def _read_term(recorded: HoldsInputs, term: dict[str, Any]) -> FrozenTerm:
    return FrozenTerm(
        name=term["name"],
        kind=term["kind"],
        weight=term["weight"],
        loss=term["loss"],
        arrays={key: recorded.read(f"{term['name']}_{key}") for key in term["arrays"]},
        reads=recorded.attributes["fingerprint"].get(reads_label(term["name"]), ""),
    )


def altered_inputs(recorded: HoldsInputs, found: FrozenInputs) -> str:
    """In what stored inputs differ from the fingerprint beside them, in words, or nothing.

    Where the problem comes from is left out: that may have moved.
    """
    own = recorded.attributes["fingerprint"]
    prints = found.fingerprint()
    elsewhere = ("problem ", IMPORTS, READS)
    labels = [label for label in prints if not label.startswith(elsewhere)]
    if not recorded.has_checksums:
        # Earlier versions recorded less, and wrote down layers otherwise.
        labels = [label for label in labels if label in own and label != NAMES]
    return _in_words([label for label in labels if own.get(label) != prints[label]])
