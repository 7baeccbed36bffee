"""What the commands print: text for people, plain data for scripts."""

from pipeline.render.analysis import density, info, spectrum, statistics
from pipeline.render.matrix_free import estimates, outlook, outlook_data
from pipeline.render.runs import certificate, status, status_data

__all__ = [
    "certificate",
    "density",
    "estimates",
    "info",
    "outlook",
    "outlook_data",
    "spectrum",
    "statistics",
    "status",
    "status_data",
]
