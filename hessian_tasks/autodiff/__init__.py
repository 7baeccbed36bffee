"""Derivatives of the loss by automatic differentiation, for any network and any loss.

- :mod:`~hessian_tasks.autodiff.engine` has block rows of the Hessian, the ``autodiff`` engine, and
  Hessian-vector products;
- :mod:`~hessian_tasks.autodiff.linearised` and :mod:`~hessian_tasks.autodiff.generalised` have
  Gauss-Newton-vector products, and :mod:`~hessian_tasks.autodiff.matrices` block rows of these;
- :mod:`~hessian_tasks.autodiff.products` has products for shards of the points;
- :mod:`~hessian_tasks.autodiff.directions` has the loss along directions.

Imports TensorFlow, and of this package how a loss is evaluated and read.
"""

from hessian_tasks.autodiff.engine import (
    AutodiffEngine,
    compile_product,
    hessian_vector_product,
)

__all__ = ["AutodiffEngine", "compile_product", "hessian_vector_product"]
