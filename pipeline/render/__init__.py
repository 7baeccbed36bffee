"""What the commands print: text for people, plain data for scripts."""

from pipeline.render.analysis import density, info, spectrum, statistics
from pipeline.render.matrix_free import estimates, outlook, outlook_data
from pipeline.render.runs import certificate, status, status_data
from pipeline.render.table import columns
from pipeline.render.terms import gradients, preconditioned, steps, terms

__all__ = [
    "certificate",
    "columns",
    "density",
    "estimates",
    "gradients",
    "info",
    "outlook",
    "outlook_data",
    "preconditioned",
    "spectrum",
    "statistics",
    "status",
    "status_data",
    "steps",
    "terms",
]
