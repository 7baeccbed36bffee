"""What the commands print: text for people, plain data for scripts."""

from pipeline.render.analysis import density, info, spectrum, statistics
from pipeline.render.runs import certificate, plan, plan_data, status, status_data
from pipeline.render.table import columns
from pipeline.render.terms import gradients, preconditioned, steps, terms

__all__ = [
    "certificate",
    "columns",
    "density",
    "gradients",
    "info",
    "plan",
    "plan_data",
    "preconditioned",
    "spectrum",
    "statistics",
    "status",
    "status_data",
    "steps",
    "terms",
]
