"""Optimisers: what each step is, and how far they come."""
