"""Analysis without the matrix: the operator whose products are computed anew each time.

- :mod:`~pipeline.matrix_free.products`: sums over shards of points on threads of this process;
- :mod:`~pipeline.matrix_free.distributed`: the same on Dask workers;
- :mod:`~pipeline.matrix_free.journal`: products that outlive an interruption;
- :mod:`~pipeline.matrix_free.operator`: either as a HessianOperator, with its error measured;
- :mod:`~pipeline.matrix_free.estimates`: what is asked of it;
- :mod:`~pipeline.matrix_free.kept`: the answers as a Zarr group, and
  :mod:`~pipeline.matrix_free.answers`: what its metadata may say;
- :mod:`~pipeline.matrix_free.outlook`: whether a network needs it.
"""

__all__: list[str] = []
