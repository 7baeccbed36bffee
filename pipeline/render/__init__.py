"""What the commands print: text for people, plain data for scripts."""

from pipeline.render.analysis import info, spectrum
from pipeline.render.runs import certificate, plan, plan_data, status, status_data
from pipeline.render.table import side_by_side

__all__ = [
    "certificate",
    "info",
    "plan",
    "plan_data",
    "side_by_side",
    "spectrum",
    "status",
    "status_data",
]
