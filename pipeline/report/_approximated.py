"""The section of a report on how far the usual approximations are from the matrix."""

from __future__ import annotations

from typing import Any

from pipeline.analysis.approximations import Approximations, compare_approximations
from pipeline.analysis.pictures import approximations_picture
from pipeline.errors import PlanError
from pipeline.report._chosen import asked_by, too_large
from pipeline.report._page import Picture, Section, Table
from pipeline.store.places import Place
from pipeline.store.store import HessianStore

__all__ = ["approximations_section"]

TITLE = "Approximations"


def approximations_section(store: HessianStore, ggn: Place | None) -> Section:
    """Diagonals, blocks, Kronecker factors, low ranks and G against the matrix.

    Args:
        store: A complete store.
        ggn: A store of the Gauss-Newton matrix, if that is another.
    """
    command = asked_by("approximations", store)
    if reason := too_large(store):
        return Section(TITLE, left_out=f"{reason} {command}")
    try:
        found = compare_approximations(store, ggn)
    except PlanError as error:
        return Section(TITLE, left_out=f"{error} {command}")
    symbol, title = store.matrix.symbol, f"approximations of the {found.title}"
    text = [
        f"What stands for {symbol} in practice, against {symbol} itself: its error in the "
        "Frobenius norm, how far it moves an eigenvalue at most, and how much of the decrease that "
        f"the quadratic model allows its own step loses. Φ = {found.outside:.2%} of "
        f"‖{symbol}‖²_F lies outside of the layers' diagonal blocks: the squared error of "
        "“layers”, which no method that treats layers one by one can go below.",
        f"Steps are damped by {found.damping:.3g}. The stored matrix's own error is some "
        f"{found.relative_error:.1e} of its norm. With K-FAC and EKFAC: {command} --kfac",
    ]
    picture = Picture(
        "approximations",
        approximations_picture(found, title),
        "Further left is better; a step that loses more than 1 goes uphill in the model. A missing "
        "triangle is an approximation that, damped, is not positive definite: it gives no step.",
    )
    return Section(TITLE, text, [picture], [_table(found)])


def _table(found: Approximations) -> Table:
    columns: dict[str, Any] = {
        "approximation": [one.name for one in found.found],
        "numbers": [one.numbers for one in found.found],
        "error": [one.error for one in found.found],
        "error of the spectrum": [one.spectrum for one in found.found],
        "lost decrease": [one.lost for one in found.found],
        "cosine to the best step": [one.cosine for one in found.found],
    }
    caption = "The approximations, how many numbers each stores, and what it loses, as shares."
    return Table("approximations", caption, columns)
