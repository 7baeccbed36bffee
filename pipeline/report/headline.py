"""The headline of a report: the numbers people ask for first, each with how sure it is."""

from __future__ import annotations

from pipeline.analysis.summary import Summary

__all__ = ["headline", "state_warnings"]

Fact = tuple[str, str, str]


def headline(summary: Summary) -> list[Fact]:
    """Name, value and bound of each number."""
    found = summary.spectrum
    floor = f"{found.noise_floor:.2g}"
    facts = [
        ("loss", f"{summary.loss:.6g}", f"gradient norm {summary.gradient_norm:.3g}"),
        ("parameters P", f"{summary.num_params:,}", f"stored in {summary.dtype}"),
        ("largest eigenvalue", f"{found.eigenvalues[-1]:.6g}", f"± {floor}"),
        ("smallest eigenvalue", f"{found.eigenvalues[0]:.4g}", f"± {floor}{_doubt(summary)}"),
        *_counts(summary),
        ("trace", f"{found.trace:.6g}", f"± {summary.trace_error:.2g}"),
        ("Frobenius norm", f"{found.frobenius_norm:.6g}", f"± {floor}"),
        ("noise floor", floor, _origin(summary)),
    ]
    return facts


def _doubt(summary: Summary) -> str:
    within = abs(float(summary.spectrum.eigenvalues[0])) <= summary.spectrum.noise_floor
    return ", so it may be zero" if within else ""


def _counts(summary: Summary) -> list[Fact]:
    found = summary.spectrum
    floor = f"{found.noise_floor:.2g}"
    if found.inertia is None:
        known = f"by the {len(found.eigenvalues)} extreme eigenvalues that are known"
        return [("condition number", f"at least {found.least_condition_number:.3g}", known)]
    positive, within, negative = found.inertia
    condition, rank = found.condition_number, found.effective_rank
    return [
        (
            "condition number",
            "not defined" if condition is None else f"{condition:.3g}",
            f"of the eigenvalues above {floor}; the whole matrix's is at least that",
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
