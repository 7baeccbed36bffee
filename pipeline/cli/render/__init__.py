"""What the commands print: text for people, plain data for scripts."""

from pipeline.cli.render._analysis import density, info, info_data, spectrum, statistics, subject
from pipeline.cli.render._blocks import (
    planned_blocks,
    planned_blocks_data,
    stores,
    stores_data,
)
from pipeline.cli.render._inverse import influence, solution, uncertainty
from pipeline.cli.render._loss import loss, loss_data
from pipeline.cli.render._matrix_free import estimates, outlook, outlook_data
from pipeline.cli.render._runs import certificate, status, status_data
from pipeline.cli.render._table import columns, table
from pipeline.cli.render._terms import approximations, gradients, preconditioned, steps, terms

__all__ = [
    "approximations",
    "certificate",
    "columns",
    "density",
    "estimates",
    "gradients",
    "influence",
    "info",
    "info_data",
    "loss",
    "loss_data",
    "outlook",
    "outlook_data",
    "planned_blocks",
    "planned_blocks_data",
    "preconditioned",
    "solution",
    "spectrum",
    "statistics",
    "status",
    "status_data",
    "steps",
    "stores",
    "stores_data",
    "subject",
    "table",
    "terms",
    "uncertainty",
]
