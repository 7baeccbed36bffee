"""What is said of plans, runs and their verification."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from hessian_tasks.spec import MATRICES
from pipeline.cli.render._table import table
from pipeline.units import format_bytes, format_seconds

if TYPE_CHECKING:
    from pipeline.run.plan import Plan
    from pipeline.run.verify import Certificate
    from pipeline.store.store import HessianStore

__all__ = ["certificate", "plan_data", "plan_rows", "state", "status", "status_data"]


def plan_rows(plan: Plan) -> list[tuple[str, str]]:
    """A plan, for people: names and values."""
    request, residuals = plan.request, plan.request.num_residuals
    each = request.num_arrays // len(request.matrices)
    return [
        ("parameters", f"{request.num_params:,}"),
        *((matrix.plural, f"{each}, {_dtype(plan)}") for matrix in request.matrices),
        *([("Jacobians", f"{residuals:,} residuals")] if residuals else []),
        ("stored", format_bytes(plan.padded_bytes)),
        ("tiles", f"{plan.tile} × {plan.tile}, {plan.num_block_rows} block rows"),
        (
            "threads",
            f"{plan.num_threads}, temporaries {format_bytes(plan.workspace_bytes)} each",
        ),
        (
            "memory",
            f"projected {format_bytes(plan.projected_bytes)}, of which reserved "
            f"{format_bytes(plan.reserved_bytes)}; allowed "
            f"{format_bytes(request.allowed_bytes)}",
        ),
        ("time", f"about {format_seconds(plan.projected_seconds)}"),
    ]


def _dtype(plan: Plan) -> str:
    return f"float{8 * plan.request.itemsize}"


def plan_data(plan: Plan) -> dict[str, Any]:
    """A plan, for scripts; bytes and seconds."""
    return {
        "num_params": plan.request.num_params,
        "matrices": [matrix.name for matrix in plan.request.matrices],
        "num_arrays": plan.request.num_arrays,
        "num_residuals": plan.request.num_residuals,
        "dtype": _dtype(plan),
        "tile": plan.tile,
        "num_block_rows": plan.num_block_rows,
        "num_threads": plan.num_threads,
        "stored_bytes": plan.stored_bytes,
        "allowed_bytes": plan.request.allowed_bytes,
        "reserved_bytes": plan.reserved_bytes,
        "workspace_bytes": plan.workspace_bytes,
        "projected_bytes": plan.projected_bytes,
        "projected_seconds": plan.projected_seconds,
    }


def status_data(store: HessianStore) -> dict[str, Any]:
    """Progress of a store, for scripts; from the records, without reading tiles."""
    records = store.records().values()
    rows = store.block_rows
    entries = sum(r.num_rows * (store.num_params - r.start) for r in rows)
    done = sum(r.row.num_rows * (store.num_params - r.row.start) for r in records)
    stored = {record.row.index for record in records}
    return {
        "matrices": [matrix.name for matrix in store.matrices],
        "num_params": store.num_params,
        "num_block_rows": len(rows),
        "num_stored": len(stored),
        "fraction": done / entries,
        "pending": [row.index for row in rows if row.index not in stored],
        "compute_seconds": sum(record.compute_seconds for record in records),
        "store_seconds": sum(record.store_seconds for record in records),
        "verified": store.verified,
        "certificate": store.attributes.get("certificate"),
        "self_check": store.attributes.get("self_check"),
    }


def status(store: HessianStore) -> str:
    """Progress of a store, for people."""
    data = status_data(store)
    return table(
        [
            ("store", str(store.location)),
            ("holds", " and ".join(matrix.title for matrix in store.matrices)),
            ("block rows", f"{data['num_stored']} of {data['num_block_rows']} stored"),
            ("entries", f"{data['fraction']:.1%} computed"),
            (
                "thread time",
                f"{format_seconds(data['compute_seconds'])} computing, "
                f"{format_seconds(data['store_seconds'])} storing",
            ),
            ("state", state(store)),
        ]
    )


def state(store: HessianStore) -> str:
    """Whether a store is to be resumed, verified, or known to be wrong."""
    if store.self_check is not None and not store.self_check.passed:
        return "the run's own check FAILED"
    if len(store.records()) < store.num_block_rows:
        return f"resume with: {store.resume_command}"
    return "not verified" if store.verified is None else _verdict(store.verified)


def _verdict(passed: bool) -> str:
    return "verified" if passed else "verification FAILED"


def certificate(certificate: Certificate) -> str:
    """A certificate, for people."""
    defect = certificate.symmetry_defect
    rows = [
        ("verdict", _verdict(certificate.passed)),
        ("missing block rows", str(certificate.num_missing)),
        ("damaged objects", ", ".join(certificate.damaged) or "none"),
        ("wrong sums", ", ".join(f"block row {i}" for i in certificate.misstated)),
        *(
            (f"error of {MATRICES[name].symbol} v", _errors(errors, certificate.tolerance))
            for name, errors in certificate.matrix_errors.items()
        ),
        ("error of J v", _errors(certificate.jacobian_errors, certificate.tolerance)),
        ("symmetry defect", "" if defect is None else f"{defect:.1e}"),
    ]
    if certificate.num_missing or certificate.damaged or certificate.misstated:
        rows.append(("repair", "run the same hessian run command again"))
    return table([row for row in rows if row[1]])


def _errors(errors: list[float], tolerance: float) -> str:
    listed = ", ".join(f"{error:.1e}" for error in errors)
    return f"{listed} (allowed {tolerance:.1e})" if errors else ""
