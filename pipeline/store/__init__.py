"""Stores: what they hold, how that is written, vetted and read, and the places where they are.

Imports Zarr and what a problem's frozen inputs are; no TensorFlow.
"""

__all__: list[str] = []
