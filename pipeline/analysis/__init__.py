"""Questions to a finished store: its spectrum, and pictures of it."""

__all__: list[str] = []
