"""The headline of a report: the numbers people ask for first, each with how sure it is."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pipeline.analysis.spectrum import Spectrum
from pipeline.analysis.summary import Summary

if TYPE_CHECKING:
    from pipeline.estimates.kept import KeptEstimates

__all__ = ["estimated_headline", "headline", "state_warnings"]

Fact = tuple[str, str, str]


def headline(summary: Summary) -> list[Fact]:
    """Name, value and bound of each number of a store."""
    found = summary.spectrum
    floor = f"{found.noise_floor:.2g}"
    bounds = {
        "loss": "",
        "parameters P": f"stored in {summary.dtype}",
        "trace": f"± {summary.trace_error:.2g}",
        "Frobenius norm": f"± {floor}",
        "noise floor": _origin(summary),
    }
    return _facts(summary.loss, summary.gradient_norm, summary.num_params, found, bounds)


def estimated_headline(kept: KeptEstimates, found: Spectrum) -> list[Fact]:
    """Name, value and bound of each number of kept estimates."""
    answers = kept.answers
    bounds = {
        "loss": "" if kept.term is None else ", both of all terms",
        "parameters P": f"products in {kept.metadata['theta'].data_type}",
        "trace": _two_errors(answers.trace),
        "Frobenius norm": _two_errors(answers.frobenius_norm),
        "noise floor": (
            f"products are off by {answers.relative_error:.1e} of the norm, as random vectors and "
            "another path say: eigenvalues of smaller size cannot be told from zero"
        ),
    }
    loss = float(kept.attributes["loss"])
    return _facts(loss, kept.gradient_norm, kept.num_params, found, bounds)


def _two_errors(estimate: Any) -> str:
    return f"± {2 * estimate.standard_error:.2g}, two standard errors"


def _facts(
    loss: float, gradient_norm: float, num_params: int, found: Spectrum, bounds: dict[str, str]
) -> list[Fact]:
    low, high = found.errors[0], found.errors[-1]
    doubt = ", so it may be zero" if abs(float(found.eigenvalues[0])) <= low else ""
    facts = [
        ("loss", f"{loss:.6g}", f"gradient norm {gradient_norm:.3g}{bounds['loss']}"),
        ("parameters P", f"{num_params:,}", bounds["parameters P"]),
        ("largest eigenvalue", f"{found.eigenvalues[-1]:.6g}", f"± {high:.2g}"),
        ("smallest eigenvalue", f"{found.eigenvalues[0]:.4g}", f"± {low:.2g}{doubt}"),
        *_counts(found),
        ("trace", f"{found.trace:.6g}", bounds["trace"]),
        ("Frobenius norm", f"{found.frobenius_norm:.6g}", bounds["Frobenius norm"]),
        ("noise floor", f"{found.noise_floor:.2g}", bounds["noise floor"]),
    ]
    return facts


def _counts(found: Spectrum) -> list[Fact]:
    floor = f"{found.noise_floor:.2g}"
    if found.inertia is None:
        known = f"by the {len(found.eigenvalues)} extreme eigenvalues that are known"
        return [("condition number", found.conditioning, known)]
    positive, within, negative = found.inertia
    rank = found.effective_rank
    return [
        (
            "condition number",
            found.conditioning,
            f"{within:,} eigenvalues cannot be told from zero" if within else "of all eigenvalues",
        ),
        ("negative eigenvalues", f"{negative:,}", f"below -{floor}"),
        ("positive eigenvalues", f"{positive:,}", f"above {floor}; {within:,} within the noise"),
        (
            "effective rank",
            "0" if rank is None else f"{rank:.3g}",
            f"(Σ|λ|)² / Σλ² of the eigenvalues above {floor}",
        ),
    ]


def _origin(summary: Summary) -> str:
    if summary.verified:
        return "from the certificate: eigenvalues of smaller size cannot be told from zero"
    return f"from the precision of {summary.dtype} alone, as the store is not verified"


def state_warnings(summary: Summary) -> list[str]:
    """What has to be said before the numbers."""
    if summary.verified is None:
        return [
            "This store is not verified: nothing says yet that the array is the matrix of the "
            "recorded loss. Verify it with: hessian verify"
        ]
    if not summary.verified:
        return [
            "Verification of this store FAILED. Its numbers cannot be trusted; the section on the "
            "certificate says what is wrong."
        ]
    return []
