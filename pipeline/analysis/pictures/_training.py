"""Curvature along training: eigenvalues, trace and gradient against steps, the loss beside them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pipeline.analysis.pictures._style import (
    BLUE,
    COLOURS,
    GREY,
    LINES,
    ORANGE,
    name_powers,
    stacked,
    styled,
)

__all__ = [
    "Course",
    "curvature_course_picture",
    "gradient_course_picture",
    "trace_course_picture",
]

Array = npt.NDArray[np.float64]

MARKERS = ("o", "s", "D", "v")
MAX_TERMS = 5


@dataclass(frozen=True)
class Course:
    """Steps, and who trained up to each.

    Attributes:
        steps: ``[n]``, ascending.
        phases: ``[n]``.
    """

    steps: npt.NDArray[np.int64]
    phases: Sequence[str]

    def mark(self, axes: Axes) -> None:
        """Draw a line where one phase ends and another goes on."""
        for step, phase, following in zip(self.steps, self.phases, self.phases[1:], strict=False):
            # Nobody trains up to the first step.
            if phase != following and step != self.steps[0]:
                axes.axvline(step, color=GREY, ls=":", lw=1)
        axes.grid(alpha=0.3)


def curvature_course_picture(
    course: Course, eigenvalues: Array, errors: Array, losses: Mapping[str, Array]
) -> Figure:
    """The eigenvalues at both ends with bounds on their errors, and the losses below them.

    Args:
        course: The n steps.
        eigenvalues: Ascending, ``[n, K]``.
        errors: Their bounds ``[n, K]``.
        losses: The loss, and its terms if there are several, each ``[n]``.
    """
    half = (eigenvalues.shape[1] + 1) // 2
    ends = [
        (eigenvalues[:, ::-1][:, :half], errors[:, ::-1], BLUE, "largest"),
        (eigenvalues[:, :-half], errors, ORANGE, "smallest"),
    ]
    with styled():
        figure, (upper, lower) = stacked(2, height=2.9)
        for values, bounds, colour, name in ends:
            for k, (series, bound) in enumerate(zip(values.T, bounds.T, strict=False)):
                upper.errorbar(
                    course.steps, series, bound, color=colour, ls=LINES[k % len(LINES)], lw=1.4,
                    marker=MARKERS[k % len(MARKERS)], ms=3, capsize=2,
                    label=None if k else f"{values.shape[1]} {name}",
                )  # fmt: skip
        _signed_logarithmic(upper, eigenvalues, errors)
        upper.set(ylabel="eigenvalue λ", title="extreme eigenvalues, and the loss")
        for number, (name, series) in enumerate(list(losses.items())[: MAX_TERMS + 1]):
            colour, line = COLOURS[number], LINES[number % len(LINES)]
            lower.plot(course.steps, series, color=colour, ls=line, marker="o", ms=3, label=name)
        _logarithmic(lower, np.array(list(losses.values())))
        lower.set(ylabel="loss", xlabel="step")
        _finish(course, (upper, lower))
    return figure


def trace_course_picture(course: Course, trace: Array, errors: Array) -> Figure:
    """The trace, as estimated.

    Args:
        course: The n steps.
        trace: ``[n]``.
        errors: Twice its standard errors ``[n]``.
    """
    with styled():
        figure, (axes,) = stacked(1, height=3.2)
        axes.errorbar(course.steps, trace, errors, color=BLUE, marker="o", ms=3, capsize=2)
        axes.set(ylabel="trace", xlabel="step", title="trace of the Hessian")
        axes.ticklabel_format(axis="y", style="sci", scilimits=(-3, 4), useMathText=True)
        _finish(course, (axes,))
    return figure


def gradient_course_picture(course: Course, norms: Array, shares: Mapping[str, Array]) -> Figure:
    """The norm of the gradient, and below it what is between 0 and 1.

    Args:
        course: The n steps.
        norms: ``[n]``.
        shares: By name, each ``[n]``, NaN where there is none.
    """
    with styled():
        figure, (upper, lower) = stacked(2)
        upper.plot(course.steps, norms, color=BLUE, marker="o", ms=3)
        _logarithmic(upper, norms)
        upper.set(ylabel="‖∇L‖", title="gradient, and leading eigenvectors")
        for number, (name, series) in enumerate(shares.items()):
            colour, line = COLOURS[number], LINES[number]
            lower.plot(course.steps, series, color=colour, ls=line, marker="o", ms=3, label=name)
        lower.set(ylabel="share", xlabel="step", ylim=(-0.03, 1.03))
        _finish(course, (upper, lower))
    return figure


def _signed_logarithmic(axes: Axes, values: Array, errors: Array) -> None:
    size = np.abs(values)
    largest = float(size.max()) or 1.0
    # Two decades at least, of which the linear part is one.
    floor = max(float(errors.max()), min(float(size.min()), largest / 100)) or largest / 100
    axes.set_yscale("symlog", linthresh=floor, linscale=0.5)
    name_powers(axes.yaxis, floor, 2 * largest)
    axes.axhline(0, color=GREY, lw=0.8)


def _logarithmic(axes: Axes, values: Array) -> None:
    if (values > 0).all():
        axes.set_yscale("log")


def _finish(course: Course, panels: Sequence[Axes]) -> None:
    for axes in panels:
        course.mark(axes)
        if axes.get_legend_handles_labels()[1]:
            axes.legend(fontsize=9)
