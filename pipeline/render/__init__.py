"""What the commands print: text for people, plain data for scripts."""

from pipeline.render.analysis import density, info, spectrum, statistics
from pipeline.render.runs import certificate, plan, plan_data, status, status_data

__all__ = [
    "certificate",
    "density",
    "info",
    "plan",
    "plan_data",
    "spectrum",
    "statistics",
    "status",
    "status_data",
]
