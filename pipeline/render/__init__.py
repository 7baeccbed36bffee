"""What the commands print: text for people, plain data for scripts."""

from pipeline.render.analysis import info, spectrum
from pipeline.render.runs import certificate, plan, plan_data, status, status_data
from pipeline.render.terms import gradients, preconditioned, steps, terms

__all__ = [
    "certificate",
    "gradients",
    "info",
    "plan",
    "plan_data",
    "preconditioned",
    "spectrum",
    "status",
    "status_data",
    "steps",
    "terms",
]
