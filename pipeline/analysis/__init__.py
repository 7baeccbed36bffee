"""Questions to a stored matrix, or to products with one: statistics, spectrum, export, pictures."""

__all__: list[str] = []
