"""Exact Hessians of training losses, in block rows, into a chunked Zarr array."""

from typing import TYPE_CHECKING, Any

from hessian_tasks import BlockRow, LossTerm, Problem, ResidualTerm
from pipeline.errors import HessianError

if TYPE_CHECKING:
    from pipeline.analysis.density import spectral_density
    from pipeline.analysis.eigenpairs import extreme_eigenpairs
    from pipeline.analysis.export import export_matrix
    from pipeline.analysis.operator import HessianOperator, open_operator
    from pipeline.analysis.spectrum import spectrum
    from pipeline.analysis.statistics import matrix_statistics
    from pipeline.analysis.terms import analyse_terms
    from pipeline.api import (
        compute_hessian,
        matrix_free_operator,
        open_hessian,
        open_store,
        verify_hessian,
    )
    from pipeline.curvature.gauss_newton import neural_tangent_kernel, residual_curvature
    from pipeline.curvature.steps import term_gradients, try_steps
    from pipeline.run.options import RunOptions

__all__ = [
    "BlockRow",
    "HessianError",
    "HessianOperator",
    "LossTerm",
    "Problem",
    "ResidualTerm",
    "RunOptions",
    "analyse_terms",
    "compute_hessian",
    "export_matrix",
    "extreme_eigenpairs",
    "matrix_free_operator",
    "matrix_statistics",
    "neural_tangent_kernel",
    "open_hessian",
    "open_operator",
    "open_store",
    "residual_curvature",
    "spectral_density",
    "spectrum",
    "term_gradients",
    "try_steps",
    "verify_hessian",
]

# These need xarray, Zarr or TensorFlow, which take seconds to import; a command line
# that only plans or fails should not wait for them.
_LAZY = {
    "HessianOperator": "pipeline.analysis.operator",
    "RunOptions": "pipeline.run.options",
    "analyse_terms": "pipeline.analysis.terms",
    "compute_hessian": "pipeline.api",
    "export_matrix": "pipeline.analysis.export",
    "extreme_eigenpairs": "pipeline.analysis.eigenpairs",
    "matrix_statistics": "pipeline.analysis.statistics",
    "matrix_free_operator": "pipeline.api",
    "neural_tangent_kernel": "pipeline.curvature.gauss_newton",
    "open_hessian": "pipeline.api",
    "open_operator": "pipeline.analysis.operator",
    "open_store": "pipeline.api",
    "residual_curvature": "pipeline.curvature.gauss_newton",
    "term_gradients": "pipeline.curvature.steps",
    "try_steps": "pipeline.curvature.steps",
    "spectral_density": "pipeline.analysis.density",
    "spectrum": "pipeline.analysis.spectrum",
    "verify_hessian": "pipeline.api",
}


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module 'pipeline' has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(_LAZY[name]), name)
