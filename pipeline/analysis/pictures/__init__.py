"""Pictures of what is known of a matrix; one module for each kind.

Each function returns a :class:`matplotlib.figure.Figure`, and
:func:`~pipeline.analysis.pictures.style.save` writes it.
"""

from pipeline.analysis.pictures.fields import residual_picture, solution_picture
from pipeline.analysis.pictures.layers import layer_block_picture, participation_picture
from pipeline.analysis.pictures.matrix import matrix_picture
from pipeline.analysis.pictures.slices import line_picture, plane_picture
from pipeline.analysis.pictures.spectrum import (
    density_picture,
    eigenvalue_picture,
    estimated_density_picture,
    overlaid_picture,
)
from pipeline.analysis.pictures.style import encode, plain, save

__all__ = [
    "density_picture",
    "eigenvalue_picture",
    "encode",
    "estimated_density_picture",
    "layer_block_picture",
    "line_picture",
    "matrix_picture",
    "overlaid_picture",
    "participation_picture",
    "plain",
    "plane_picture",
    "residual_picture",
    "save",
    "solution_picture",
]
