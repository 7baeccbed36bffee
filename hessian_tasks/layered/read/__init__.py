"""The network as a program of few kinds of operations, read from its TensorFlow graph.

- :mod:`~hessian_tasks.layered.read.program` says what a program is;
- :mod:`~hessian_tasks.layered.read.reader` reads one, with
  :mod:`~hessian_tasks.layered.read._contractions` for what passes through tensors of other ranks;
- :mod:`~hessian_tasks.layered.read._subgraph` makes functions of pieces of a graph, and
  :mod:`~hessian_tasks.layered.read._replay` holds their derivatives against the graph's.

Imports TensorFlow, and nothing else of the layered engine.
"""

__all__: list[str] = []
