"""What the commands print: text for people, plain data for scripts."""

from pipeline.render.analysis import density, info, spectrum, statistics
from pipeline.render.matrix_free import estimates, outlook, outlook_data
from pipeline.render.runs import certificate, status, status_data
from pipeline.render.table import side_by_side

__all__ = [
    "certificate",
    "density",
    "estimates",
    "info",
    "outlook",
    "outlook_data",
    "side_by_side",
    "spectrum",
    "statistics",
    "status",
    "status_data",
]
