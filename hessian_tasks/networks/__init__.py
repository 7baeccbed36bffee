"""The networks of a problem, and the parameters beside them: weights, inputs, and what they are.

Imports Keras and TensorFlow, where a module does, and of this package how a problem is declared.
"""

__all__: list[str] = []
