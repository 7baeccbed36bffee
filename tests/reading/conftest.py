"""Losses read by what they depend on: as users write them, and drawn at random."""
