"""What is said of answers without the matrix, and of whether they are needed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pipeline.cli.render._analysis import density
from pipeline.cli.render._runs import plan_data, plan_rows
from pipeline.cli.render._table import table
from pipeline.estimates.elsewhere import LARGE_BYTES, STORE_RATE
from pipeline.units import format_bytes, format_seconds

if TYPE_CHECKING:
    from pipeline.analysis.estimators import Estimate
    from pipeline.estimates.elsewhere import Elsewhere
    from pipeline.estimates.estimates import Estimates
    from pipeline.estimates.outlook import Outlook

__all__ = ["estimates", "outlook", "outlook_data"]


def estimates(found: Estimates) -> str:
    """Answers with their errors, for people."""
    pairs = list(zip(found.pairs.values, found.eigenvalue_errors, strict=True))
    half = len(pairs) // 2
    rows = [
        ("parameters", f"{found.num_params:,}"),
        ("largest", "  ".join(_value(*pair) for pair in reversed(pairs[half:]))),
        ("smallest", "  ".join(_value(*pair) for pair in pairs[:half])),
        *_residuals(found),
        ("noise floor", f"{found.noise_floor:.2g} ({found.relative_error:.1e} of the norm)"),
        ("trace", _estimate(found.trace)),
        ("Frobenius norm", _estimate(found.frobenius_norm)),
        *_diagonal(found),
        ("products", _products(found)),
    ]
    data = found.density_data()
    return table(rows) + ("" if data is None else "\n" + density(data))


def _residuals(found: Estimates) -> list[tuple[str, str]]:
    pairs = found.pairs
    missed = int((~pairs.converged).sum())
    worst = f"at most {pairs.residuals.max():.2g} (allowed {pairs.tolerance:.2g})"
    return [("residuals", worst + (f", {missed} not converged" if missed else ""))]


def _diagonal(found: Estimates) -> list[tuple[str, str]]:
    if found.diagonal is None or found.layers is None:
        return []
    layers = found.layers
    how = f"{found.diagonal.title}, {found.diagonal.num_products} products"
    means = zip(layers.layers, layers.means, layers.standard_errors, layers.sizes, strict=True)
    return [
        ("diagonal", f"mean over each layer's parameters, their number (standard error; {how})"),
        *((f"  {name}", f"{mean:.6g} ± {error:.2g}, {n:,}") for name, mean, error, n in means),
    ]


def _products(found: Estimates) -> str:
    time = format_seconds(found.seconds)
    if not found.num_recorded:
        return f"{found.num_products} in {time}"
    computed = found.num_products - found.num_recorded
    return (
        f"{found.num_products}, of which {found.num_recorded} were there from an interrupted "
        f"process, and {computed} computed in {time}"
    )


def _value(value: float, error: float) -> str:
    return f"{value:.5g} ± {error:.1g}"


def _estimate(found: Estimate) -> str:
    return (
        f"{found.value:.6g} ± {found.standard_error:.2g} "
        f"(standard error; {found.title}, {found.num_products} products)"
    )


def outlook(found: Outlook) -> str:
    """Both ways and which one fits, for people."""
    free = found.matrix_free
    rows = [
        ("parameters", f"{found.num_params:,}"),
        ("stored", f"{format_bytes(found.stored_bytes)}: does not fit, {found.obstacle}"),
    ]
    if found.plan is not None:
        rows = plan_rows(found.plan)
        before = f"about {format_seconds(found.preparing_seconds)} before that"
        rows.append(("preparing", f"{before}: importing, reading, compiling, a trial, as here"))
    rows[0] = ("parameters", found.layout.count)
    if found.choice is not None:
        words = filter(None, [found.choice.name, found.choice.reason])
        rows[1:1] = [(f"  {name}", text) for name, text in found.choice.readings.items()]
        rows.insert(1, ("engine", ", ".join(words)))
    if found.elsewhere is not None and found.stored_bytes >= LARGE_BYTES:
        rows.append(("on GPUs", _elsewhere(found.elsewhere)))
    rows += [
        (
            "matrix-free",
            f"{format_seconds(free.seconds_per_product)} a product, memory about "
            f"{format_bytes(free.projected_bytes)}, of which reserved "
            f"{format_bytes(free.reserved_bytes)}; {free.num_products} products for extreme "
            f"eigenvalues, trace and norm take about {format_seconds(free.seconds)}",
        ),
        ("advice", f"{found.advice}: {found.reason}"),
    ]
    return table(rows)


def _elsewhere(found: Elsewhere) -> str:
    runs = [
        f"{format_seconds(found.seconds(n))} on {n}, bounded by "
        f"{'the store' if found.bound(n) == 'store' else 'computing'}"
        for n in (1, 8)
    ]
    computing = f"{found.gpu_seconds / 3600:.3g} GPU hours at {found.rate / 1e12:g} TFLOP/s"
    writing = f"{format_seconds(found.store_seconds)} to write at {STORE_RATE / 1e9:g} GB/s"
    return f"{computing} and {writing}, as is assumed: {'; '.join(runs)}"


def outlook_data(found: Outlook) -> dict[str, Any]:
    """Both ways and which one fits, for scripts; bytes and seconds."""
    free = found.matrix_free
    return {
        "num_params": found.num_params,
        "stored_bytes": found.stored_bytes,
        **(plan_data(found.plan) if found.plan is not None else {}),
        "stored_obstacle": found.obstacle,
        "on_gpus": None if found.elsewhere is None else found.elsewhere.to_json(),
        "preparing_seconds": found.preparing_seconds,
        "needed_bytes": found.needed_bytes,
        "matrix_free": {
            "seconds_per_product": free.seconds_per_product,
            "reserved_bytes": free.reserved_bytes,
            "projected_bytes": free.projected_bytes,
            "num_products": free.num_products,
            "projected_seconds": free.seconds,
        },
        "advice": found.advice,
        "reason": found.reason,
    }
