"""Questions to a stored matrix that need the loss itself, or a second matrix.

Imports analysis, stores and, to evaluate a loss, TensorFlow.
"""

__all__: list[str] = []
