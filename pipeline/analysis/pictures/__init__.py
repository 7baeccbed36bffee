"""Pictures of what is known of a matrix; one module for each kind.

Each function returns a :class:`matplotlib.figure.Figure`, and
:func:`~pipeline.analysis.pictures._style.save` writes it.
"""

from pipeline.analysis.pictures._approximations import approximations_picture
from pipeline.analysis.pictures._bands import band_picture
from pipeline.analysis.pictures._fields import residual_picture, solution_picture
from pipeline.analysis.pictures._layers import layer_block_picture, participation_picture
from pipeline.analysis.pictures._matrix import matrix_picture
from pipeline.analysis.pictures._slices import line_picture, plane_picture
from pipeline.analysis.pictures._spectrum import (
    density_picture,
    eigenvalue_picture,
    estimated_density_picture,
    overlaid_picture,
)
from pipeline.analysis.pictures._style import encode, plain, save
from pipeline.analysis.pictures._terms import curvature_picture, overlap_picture
from pipeline.analysis.pictures._training import (
    Course,
    curvature_course_picture,
    gradient_course_picture,
    trace_course_picture,
)

__all__ = [
    "Course",
    "approximations_picture",
    "band_picture",
    "curvature_course_picture",
    "curvature_picture",
    "density_picture",
    "eigenvalue_picture",
    "encode",
    "estimated_density_picture",
    "gradient_course_picture",
    "layer_block_picture",
    "line_picture",
    "matrix_picture",
    "overlaid_picture",
    "overlap_picture",
    "participation_picture",
    "plain",
    "plane_picture",
    "residual_picture",
    "save",
    "solution_picture",
    "trace_course_picture",
]
