"""The layered engine, in NumPy and by XLA, against automatic differentiation."""
