"""Exact Hessians of training losses, in block rows, into a chunked Zarr array.

What is public is in ``__all__``, here and in :mod:`hessian_tasks`, and nothing else is.
"""

from typing import TYPE_CHECKING, Any

from hessian_tasks import BlockRow, DensityTerm, LossTerm, Problem, ResidualTerm, load_problem
from pipeline.errors import (
    BlockRowError,
    ClusterError,
    ConfigError,
    DoesNotFitError,
    HessianError,
    ModelError,
    PlanError,
    ProblemError,
    ProblemWarning,
    ReproductionError,
    SelfCheckError,
    StoppedError,
    StoreError,
    StoreMismatchError,
    StoreWarning,
    WeightsWarning,
)

if TYPE_CHECKING:
    from hessian_tasks import mlp
    from pipeline.analysis.approximations import compare_approximations
    from pipeline.analysis.density import spectral_density
    from pipeline.analysis.eigenpairs import extreme_eigenpairs
    from pipeline.analysis.estimators import (
        estimate_diagonal,
        estimate_frobenius_norm,
        estimate_trace,
    )
    from pipeline.analysis.export import export_matrix
    from pipeline.analysis.inverse import HessianInverse, open_inverse
    from pipeline.analysis.operator import HessianOperator, open_operator
    from pipeline.analysis.parts import select_matrix
    from pipeline.analysis.preconditioned import preconditioned_spectra
    from pipeline.analysis.solve import solve
    from pipeline.analysis.spectrum import eigenvalues_between, spectrum
    from pipeline.analysis.statistics import matrix_statistics
    from pipeline.analysis.steps import effective_dimension
    from pipeline.analysis.terms import analyse_terms
    from pipeline.api import (
        compute_hessian,
        compute_layer_blocks,
        matrix_free_operator,
        open_hessian,
        open_store,
        rebuild_problem,
        verify_hessian,
    )
    from pipeline.curvature.gauss_newton import neural_tangent_kernel, residual_curvature
    from pipeline.curvature.influence import influence
    from pipeline.curvature.kfac import kronecker_factors
    from pipeline.curvature.landscape import (
        Directions,
        loss_slices,
        solution_changes,
        stored_curvatures,
    )
    from pipeline.curvature.steps import term_gradients, try_steps
    from pipeline.curvature.uncertainty import uncertainty
    from pipeline.estimates.callback import HessianCallback
    from pipeline.estimates.watched import open_watched
    from pipeline.run.cluster.connect import connect
    from pipeline.run.cluster.kubernetes import cluster_spec
    from pipeline.run.options import RunOptions
    from pipeline.run.progress import ProgressBar
    from pipeline.settings.config import load_settings
    from pipeline.training import train

__all__ = [
    "BlockRow",
    "BlockRowError",
    "ClusterError",
    "ConfigError",
    "DensityTerm",
    "Directions",
    "DoesNotFitError",
    "HessianCallback",
    "HessianError",
    "HessianInverse",
    "HessianOperator",
    "LossTerm",
    "ModelError",
    "PlanError",
    "Problem",
    "ProblemError",
    "ProblemWarning",
    "ProgressBar",
    "ReproductionError",
    "ResidualTerm",
    "RunOptions",
    "SelfCheckError",
    "StoppedError",
    "StoreError",
    "StoreMismatchError",
    "StoreWarning",
    "WeightsWarning",
    "analyse_terms",
    "cluster_spec",
    "compare_approximations",
    "compute_hessian",
    "compute_layer_blocks",
    "connect",
    "effective_dimension",
    "eigenvalues_between",
    "estimate_diagonal",
    "estimate_frobenius_norm",
    "estimate_trace",
    "export_matrix",
    "extreme_eigenpairs",
    "influence",
    "kronecker_factors",
    "load_problem",
    "load_settings",
    "loss_slices",
    "matrix_free_operator",
    "matrix_statistics",
    "mlp",
    "neural_tangent_kernel",
    "open_hessian",
    "open_inverse",
    "open_operator",
    "open_store",
    "open_watched",
    "preconditioned_spectra",
    "rebuild_problem",
    "residual_curvature",
    "select_matrix",
    "solution_changes",
    "solve",
    "spectral_density",
    "spectrum",
    "stored_curvatures",
    "term_gradients",
    "train",
    "try_steps",
    "uncertainty",
    "verify_hessian",
]

# These need xarray, Zarr or TensorFlow, which take seconds to import; a command line
# that only plans or fails should not wait for them.
_LAZY = {
    "Directions": "pipeline.curvature.landscape",
    "HessianInverse": "pipeline.analysis.inverse",
    "HessianCallback": "pipeline.estimates.callback",
    "HessianOperator": "pipeline.analysis.operator",
    "ProgressBar": "pipeline.run.progress",
    "RunOptions": "pipeline.run.options",
    "analyse_terms": "pipeline.analysis.terms",
    "cluster_spec": "pipeline.run.cluster.kubernetes",
    "compare_approximations": "pipeline.analysis.approximations",
    "compute_hessian": "pipeline.api",
    "compute_layer_blocks": "pipeline.api",
    "connect": "pipeline.run.cluster.connect",
    "effective_dimension": "pipeline.analysis.steps",
    "eigenvalues_between": "pipeline.analysis.spectrum",
    "estimate_diagonal": "pipeline.analysis.estimators",
    "estimate_frobenius_norm": "pipeline.analysis.estimators",
    "estimate_trace": "pipeline.analysis.estimators",
    "export_matrix": "pipeline.analysis.export",
    "extreme_eigenpairs": "pipeline.analysis.eigenpairs",
    "influence": "pipeline.curvature.influence",
    "kronecker_factors": "pipeline.curvature.kfac",
    "load_settings": "pipeline.settings.config",
    "loss_slices": "pipeline.curvature.landscape",
    "matrix_free_operator": "pipeline.api",
    "matrix_statistics": "pipeline.analysis.statistics",
    "mlp": "hessian_tasks",
    "neural_tangent_kernel": "pipeline.curvature.gauss_newton",
    "open_hessian": "pipeline.api",
    "open_inverse": "pipeline.analysis.inverse",
    "open_operator": "pipeline.analysis.operator",
    "open_store": "pipeline.api",
    "open_watched": "pipeline.estimates.watched",
    "preconditioned_spectra": "pipeline.analysis.preconditioned",
    "rebuild_problem": "pipeline.api",
    "residual_curvature": "pipeline.curvature.gauss_newton",
    "select_matrix": "pipeline.analysis.parts",
    "solution_changes": "pipeline.curvature.landscape",
    "solve": "pipeline.analysis.solve",
    "spectral_density": "pipeline.analysis.density",
    "spectrum": "pipeline.analysis.spectrum",
    "stored_curvatures": "pipeline.curvature.landscape",
    "term_gradients": "pipeline.curvature.steps",
    "train": "pipeline.training",
    "try_steps": "pipeline.curvature.steps",
    "uncertainty": "pipeline.curvature.uncertainty",
    "verify_hessian": "pipeline.api",
}


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module 'pipeline' has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(_LAZY[name]), name)
