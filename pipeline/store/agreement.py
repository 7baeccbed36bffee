"""Whether two runs are of the same inputs, by what each has recorded of them."""

from __future__ import annotations

from collections.abc import Mapping

from hessian_tasks.frozen import NAMES, SHAPES, Evaluated, FrozenInputs
from pipeline.store.opened import HoldsInputs

__all__ = ["differences", "differing_inputs"]

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
