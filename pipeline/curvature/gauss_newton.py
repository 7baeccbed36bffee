"""Questions to a store of the Gauss-Newton matrix: its tangent kernel, and what is left of H."""

from __future__ import annotations

import dask.array as da
import numpy as np
import xarray as xr

from hessian_tasks.spec import GAUSS_NEWTON, HESSIAN
from pipeline.analysis.parts import expect_matrix, open_pair
from pipeline.api import open_store
from pipeline.errors import StoreMismatchError
from pipeline.store.places import Place
from pipeline.store.store import HessianStore

__all__ = ["neural_tangent_kernel", "residual_curvature"]


def neural_tangent_kernel(store: HessianStore | Place) -> xr.DataArray:
    """The neural tangent kernel ``K = J Jᵀ`` of the residuals of all terms, lazily.

    J = ∂r/∂θ has one row for each term, point and component, and is not scaled: neither by the
    terms' weights nor by 1/N. Under gradient flow on ``½ ‖r‖²`` the residuals obey
    ``dr/dt = -K r`` (A. Jacot, F. Gabriel, C. Hongler, 2018; for PINNs, with a block for each pair
    of terms, S. Wang, X. Yu, P. Perdikaris, 2022). For the loss of a problem ``dr/dt = -K D r``,
    where D holds each term's ``2 w / (N C)``, the attribute ``factor`` of its array.

    Args:
        store: A store that ``--engine ggn`` or ``--with-ggn`` has made, or where it is.

    Returns:
        Dask array ``[residual, other]``; the coordinates ``term``, ``point`` and ``component`` name
        the residual of a row, ``other_term`` and so on that of a column. NaN as long as block
        rows are missing.

    Raises:
        StoreMismatchError: If the store holds a Hessian alone, or no term has residuals.
        StoreError: If there is no readable store.

    Example:
        >>> import tempfile
        >>> from pipeline import RunOptions, compute_hessian, load_problem
        >>> with tempfile.TemporaryDirectory() as directory:
        ...     small = load_problem("poisson", width=4, depth=1, num_interior=6, num_boundary=2)
        ...     _ = compute_hessian(small, f"{directory}/g.zarr", options=RunOptions(engine="ggn"))
        ...     kernel = neural_tangent_kernel(f"{directory}/g.zarr")
        ...     dict(kernel.sizes), kernel.term.to_numpy()[[0, -1]].tolist()
        ({'residual': 8, 'other': 8}, ['pde', 'dirichlet'])
    """
    opened = expect_matrix(store, GAUSS_NEWTON)
    if not opened.jacobians:
        raise StoreMismatchError(
            f"{opened.location} holds no Jacobians: none of its terms is a ResidualTerm. Declare "
            "what is to have a tangent kernel as one."
        )
    dataset = open_store(opened.location)
    jacobians = [dataset[name] for name in opened.jacobians.values()]
    rows = da.concatenate([jacobian.data for jacobian in jacobians])
    counts = [len(jacobian) for jacobian in jacobians]
    components = np.repeat([j.attrs["num_components"] for j in jacobians], counts)
    index = np.concatenate([np.arange(count) for count in counts])
    labels = {
        "term": np.repeat(list(opened.jacobians), counts),
        "point": index // components,
        "component": index % components,
    }
    coordinates = {name: ("residual", values) for name, values in labels.items()}
    coordinates |= {f"other_{name}": ("other", values) for name, values in labels.items()}
    return xr.DataArray(
        rows @ rows.T, coordinates, ("residual", "other"), name="neural_tangent_kernel"
    )


def residual_curvature(
    hessian_store: HessianStore | Place, ggn_store: HessianStore | Place | None = None
) -> xr.DataArray:
    """What the Gauss-Newton matrix leaves out, ``H - G = Σ 2 w / (N C) Σ r ∂²r/∂θ²``, lazily.

    Of terms that are no residuals it leaves out ``Σ ℓ_u ∂²u/∂θ²``, with ℓ the loss of the networks'
    jets u.

    Args:
        hessian_store: A store of the Hessian, or where it is.
        ggn_store: One of the Gauss-Newton matrix, of the same inputs; by default the same, if it
            holds both.

    Returns:
        Dask array ``[row, col]`` with the coordinates of :func:`~pipeline.api.open_store`. NaN
        where either is missing.

    Raises:
        StoreMismatchError: If the stores were made from different inputs, naming what differs, or
            do not hold these matrices, or a term has no Gauss-Newton matrix.
        StoreError: If one cannot be read.

    Example:
        >>> import tempfile
        >>> from pipeline import RunOptions, compute_hessian, load_problem
        >>> with tempfile.TemporaryDirectory() as directory:
        ...     small = load_problem("regression", width=4, depth=1, num_samples=10)
        ...     options = RunOptions(with_ggn=True)
        ...     _ = compute_hessian(small, f"{directory}/both.zarr", options=options)
        ...     dict(residual_curvature(f"{directory}/both.zarr").sizes)
        {'row': 13, 'col': 13}
    """
    first, second = open_pair(hessian_store, ggn_store)
    total = open_store(first.location)[HESSIAN.name]
    return (total - open_store(second.location)[GAUSS_NEWTON.name]).rename("residual_curvature")
