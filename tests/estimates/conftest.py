"""Answers from products alone, on threads and workers, and their journal."""
