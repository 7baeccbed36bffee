"""Analysis without the matrix: the operator whose products are computed anew each time.

- :mod:`~pipeline.estimates._products`: sums over shards of points on threads of this process;
- :mod:`~pipeline.estimates._distributed`: the same on Dask workers;
- :mod:`~pipeline.estimates.journal`: products that outlive an interruption;
- :mod:`~pipeline.estimates.operator`: either as a HessianOperator, with its error measured by
  :mod:`~pipeline.estimates._errors`;
- :mod:`~pipeline.estimates.estimates`: what is asked of it;
- :mod:`~pipeline.estimates.fitting`: what of it fits into memory;
- :mod:`~pipeline.estimates.kept`: the answers as a Zarr group, and
  :mod:`~pipeline.estimates._answers`: what its metadata may say;
- :mod:`~pipeline.estimates.watching`: the same along training, kept by
  :mod:`~pipeline.estimates.watched`, and :mod:`~pipeline.estimates.callback`: in Keras' own;
- :mod:`~pipeline.estimates.outlook`: whether a network needs it.
"""

__all__: list[str] = []
