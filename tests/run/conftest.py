"""Runs: planned, on threads and devices, stopped, killed, and checked by themselves."""
