"""Exact Hessians of training losses, in block rows, into a chunked Zarr array."""

from typing import TYPE_CHECKING, Any

from hessian_tasks import BlockRow, LossTerm, Problem, ResidualTerm
from pipeline.errors import HessianError

if TYPE_CHECKING:
    from pipeline.api import (
        compute_hessian,
        matrix_free_operator,
        open_hessian,
        open_store,
        verify_hessian,
    )
    from pipeline.gauss_newton import neural_tangent_kernel, residual_curvature
    from pipeline.run import RunOptions

__all__ = [
    "BlockRow",
    "HessianError",
    "LossTerm",
    "Problem",
    "ResidualTerm",
    "RunOptions",
    "compute_hessian",
    "matrix_free_operator",
    "neural_tangent_kernel",
    "open_hessian",
    "open_store",
    "residual_curvature",
    "verify_hessian",
]

# These need xarray, Zarr or TensorFlow, which take seconds to import; a command line
# that only plans or fails should not wait for them.
_LAZY = {
    "RunOptions": "pipeline.run",
    "compute_hessian": "pipeline.api",
    "matrix_free_operator": "pipeline.api",
    "neural_tangent_kernel": "pipeline.gauss_newton",
    "open_hessian": "pipeline.api",
    "open_store": "pipeline.api",
    "residual_curvature": "pipeline.gauss_newton",
    "verify_hessian": "pipeline.api",
}


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module 'pipeline' has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(_LAZY[name]), name)
