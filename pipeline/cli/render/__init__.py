"""What the commands print: text for people, plain data for scripts."""

from pipeline.cli.render.analysis import density, info, info_data, spectrum, statistics, subject
from pipeline.cli.render.matrix_free import estimates, outlook, outlook_data
from pipeline.cli.render.runs import certificate, status, status_data
from pipeline.cli.render.table import columns, table
from pipeline.cli.render.terms import gradients, preconditioned, steps, terms

__all__ = [
    "certificate",
    "columns",
    "density",
    "estimates",
    "gradients",
    "info",
    "info_data",
    "outlook",
    "outlook_data",
    "preconditioned",
    "spectrum",
    "statistics",
    "status",
    "status_data",
    "steps",
    "subject",
    "table",
    "terms",
]
