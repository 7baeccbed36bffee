"""What a user may set: ``cluster.yaml``, environment and options, and where runs compute."""

__all__: list[str] = []
