"""The Python interface, for notebooks and scripts."""

from pipeline.api._computing import compute_hessian, compute_layer_blocks, matrix_free_operator
from pipeline.api._opening import open_hessian, open_store, rebuild_problem
from pipeline.api._verifying import verify_hessian

__all__ = [
    "compute_hessian",
    "compute_layer_blocks",
    "matrix_free_operator",
    "open_hessian",
    "open_store",
    "rebuild_problem",
    "verify_hessian",
]
