"""What the commands print: text for people, plain data for scripts."""

from pipeline.render.analysis import density, info, spectrum, statistics
from pipeline.render.runs import certificate, plan, plan_data, status, status_data
from pipeline.render.table import side_by_side

__all__ = [
    "certificate",
    "density",
    "info",
    "plan",
    "plan_data",
    "side_by_side",
    "spectrum",
    "statistics",
    "status",
    "status_data",
]
