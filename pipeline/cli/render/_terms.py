"""What is said of the parts of a Hessian, and of steps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from pipeline.cli.render._table import columns

if TYPE_CHECKING:
    from pipeline.analysis.approximations import Approximations
    from pipeline.analysis.layers import Participation
    from pipeline.analysis.parts import Part
    from pipeline.analysis.spectrum import Spectrum
    from pipeline.analysis.steps import TriedStep
    from pipeline.analysis.terms import TermAnalysis

__all__ = ["approximations", "gradients", "preconditioned", "steps", "terms"]

Array = npt.NDArray[Any]


def terms(analysis: TermAnalysis) -> str:
    """Shares and spectra of the parts, their overlaps, and curvatures along the top directions."""
    labels = [part.label for part in analysis.parts]
    number = len(analysis.dominant[0].eigenvalues)
    return "\n\n".join(
        [
            columns(_summary(analysis, labels)),
            f"overlap of the {number} dominant eigenvectors, mean squared cosine\n"
            + columns(_square(labels, analysis.overlaps)),
            "inner products, as cosines\n" + columns(_square(labels, analysis.cosines)),
            "curvatures along the dominant eigenvectors of H\n"
            + columns(_directions(analysis, labels)),
            "their weight by layer, and number of parameters that carry them\n"
            + columns(_layers(analysis.layers)),
        ]
    )


def _summary(analysis: TermAnalysis, labels: list[str]) -> list[list[str]]:
    head = ["", "trace", "share", "norm", "share", *_EXTREMES]
    numbers = zip(
        analysis.traces, analysis.trace_shares, analysis.norms, analysis.norm_shares, strict=True
    )
    rows = [head]
    for label, (trace, trace_share, norm, norm_share), found in zip(
        labels, numbers, analysis.spectra, strict=True
    ):
        shares = [f"{trace:.4g}", f"{trace_share:.2%}", f"{norm:.4g}", f"{norm_share:.2%}"]
        rows.append([label, *shares, *_extremes(found)])
    return rows


def _layers(found: Participation) -> list[list[str]]:
    rows = [["", *found.layers, "carried by"]]
    for rank, (weights, ratio) in enumerate(zip(found.weights, found.ratios, strict=True), 1):
        rows.append([str(rank), *(f"{weight:.1%}" for weight in weights), f"{ratio:.0f}"])
    return [*rows, ["all parameters", *(f"{size:.1%}" for size in found.sizes), ""]]


_EXTREMES = ["largest", "smallest", "noise", "+", "-", "κ"]


def _extremes(found: Spectrum) -> list[str]:
    above, _, below = found.inertia or ("", "", "")
    condition = found.conditioning.replace("at least", "≥")
    values = [f"{found.eigenvalues[-1]:.4g}", f"{found.eigenvalues[0]:.4g}"]
    return [*values, f"{found.noise_floor:.1e}", str(above), str(below), condition]


def _square(labels: Sequence[str], values: Array) -> list[list[str]]:
    rows = [[label, *(f"{v:.3f}" for v in row)] for label, row in zip(labels, values, strict=True)]
    return [["", *labels], *rows]


def _directions(analysis: TermAnalysis, labels: list[str]) -> list[list[str]]:
    rows = [["", *labels, ""]]
    for rank, (row, conflict) in enumerate(
        zip(analysis.curvatures, analysis.conflicts, strict=True), start=1
    ):
        marked = "terms of both signs" if conflict else ""
        rows.append([str(rank), *(f"{value:.4g}" for value in row), marked])
    return rows


def preconditioned(parts: Sequence[Part], spectra: Sequence[Spectrum]) -> str:
    """Spectra as L-BFGS sees them."""
    rows = [[part.label, *_extremes(found)] for part, found in zip(parts, spectra, strict=True)]
    return "preconditioned by L-BFGS\n" + columns([["", *_EXTREMES], *rows])


def gradients(found: Mapping[str, Array]) -> str:
    """Lengths of the terms' gradients and the cosines between them."""
    from pipeline.analysis.subspaces import cosines

    vectors = np.stack(list(found.values()))
    products = vectors @ vectors.T
    rows = _square(list(found), cosines(products))
    lengths = ["norm", *(f"{np.sqrt(square):.3g}" for square in np.diag(products))]
    return "gradients of the terms, and their cosines\n" + columns(
        [[*row, length] for row, length in zip(rows, lengths, strict=True)]
    )


def steps(tried: Sequence[TriedStep]) -> str:
    """Steps, one a line."""
    head = ["", "damping", "length", "dimension", "predicted", "actual", "ratio", "loss after"]
    rows = [
        [
            step.method.replace("_", "-"),
            f"{step.damping:.2e}",
            f"{step.length:.3g}",
            f"{step.effective_dimension:.1f}",
            f"{step.predicted:.3e}",
            f"{step.loss - step.loss_after:.3e}",
            f"{step.ratio:.3g}",
            f"{step.loss_after:.3e}",
        ]
        for step in tried
    ]
    return f"loss {tried[0].loss:.6g}; decrease of it, predicted and actual, by step\n" + columns(
        [head, *rows]
    )


def approximations(found: Approximations) -> str:
    """Approximations against the stored matrix."""
    head = ["", "numbers", "error", "spectrum", "decrease", "cosine"]
    rows = [
        [
            one.name,
            f"{one.numbers:,}",
            f"{one.error:.2%}",
            f"{one.spectrum:.2%}",
            "not positive definite" if one.decrease is None else f"{one.decrease:.1%}",
            "" if one.cosine is None else f"{one.cosine:.3f}",
        ]
        for one in found.found
    ]
    share = f"{found.outside:.1%} of its squared Frobenius norm is outside of the layers' blocks"
    own = f"its own error is some {found.relative_error:.1e} of its norm"
    return (
        f"{found.title}: {share}; {own}\n\n{columns([head, *rows])}\n\n"
        f"steps with damping {found.damping:.4g}: share of the largest decrease, and cosine to the "
        "best step"
    )
