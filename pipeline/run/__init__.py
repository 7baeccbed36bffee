"""Runs: a plan, an engine, block rows on threads or workers, and the checks of what they give.

Imports stores and settings; knows nothing of analysis.
"""

__all__: list[str] = []
