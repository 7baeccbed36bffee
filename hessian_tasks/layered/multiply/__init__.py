"""The products that the entries of an expansion are made of, in NumPy.

- :mod:`~hessian_tasks.layered.multiply.tangents` says how tangents follow from each other, and
  :mod:`~hessian_tasks.layered.multiply._buffered` computes them in the buffers of a
  :mod:`~hessian_tasks.layered.multiply.workspace`, or leaves them as
  :mod:`~hessian_tasks.layered.multiply._factored`;
- :mod:`~hessian_tasks.layered.multiply.pairs` finds which of them are needed,
  :mod:`~hessian_tasks.layered.multiply.contract` says which products make up the entries,
  :mod:`~hessian_tasks.layered.multiply._probe` and
  :mod:`~hessian_tasks.layered.multiply.products` do them;
- :mod:`~hessian_tasks.layered.multiply.cuts` cuts block rows at kernels.

Imports NumPy and expansions, no TensorFlow.
"""

__all__: list[str] = []
