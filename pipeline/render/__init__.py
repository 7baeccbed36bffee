"""What the commands print: text for people, plain data for scripts."""

from pipeline.render.analysis import info, spectrum
from pipeline.render.runs import certificate, plan, plan_data, status, status_data

__all__ = ["certificate", "info", "plan", "plan_data", "spectrum", "status", "status_data"]
