"""The Gauss-Newton matrix on every engine, its store, and its Jacobians."""
