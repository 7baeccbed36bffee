"""The products of an expansion as TensorFlow graphs, which XLA compiles for a GPU.

Imports TensorFlow, expansions, and from the products in NumPy which of them there are.
"""

__all__: list[str] = []
