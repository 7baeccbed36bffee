"""Analysis without the matrix: the operator whose products are computed anew each time.

- :mod:`~pipeline.matrix_free.products`: sums over shards of points on threads of this process;
- :mod:`~pipeline.matrix_free.distributed`: the same on Dask workers;
- :mod:`~pipeline.matrix_free.operator`: either as a HessianOperator, with its error measured.
"""

__all__: list[str] = []
