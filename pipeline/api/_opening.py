"""Opening a store: its arrays with labels, and the problem that it was made from."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from hessian_tasks.problem import Problem
from hessian_tasks.source import ProblemSource
from pipeline.api._given import source_of
from pipeline.errors import StoreError
from pipeline.store.opened import HoldsInputs
from pipeline.store.places import Place
from pipeline.store.store import HessianStore

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["open_hessian", "open_store", "rebuild_problem"]


def open_store(store: Place) -> xr.Dataset:
    """Open a store lazily, with labels.

    Args:
        store: Path or URL of the store, such as ``s3://bucket/path/h.zarr``.

    Returns:
        ``hessian`` ``[row, col]`` and, if stored, ``hessian_<term>``, as Dask arrays;
        ``theta`` and ``gradient`` ``[row]``; the points. Coordinates ``row_layer``,
        ``row_variable`` and ``row_index`` name the parameter of each row, ``col_layer`` and so on
        that of each column, and select them, alone or together. Entries that are not computed yet
        are NaN. Of a Gauss-Newton matrix, alone or beside the Hessian, the arrays are ``ggn``,
        ``ggn_<term>``, and of residuals ``jacobian_<term>`` ``[<term>_residual, col]``.

    Raises:
        StoreError: If there is no readable store.

    Example:
        >>> import tempfile
        >>> from pipeline import compute_hessian, load_problem
        >>> with tempfile.TemporaryDirectory() as directory:
        ...     small = load_problem("regression", width=4, depth=2, num_samples=10)
        ...     _ = compute_hessian(small, f"{directory}/h.zarr")
        ...     opened = open_store(f"{directory}/h.zarr")
        ...     block = opened.hessian.sel(
        ...         row_layer="hidden_2", row_variable="kernel", col_layer="output"
        ...     )
        >>> dict(block.sizes)
        {'row': 16, 'col': 5}
    """
    # xarray brings pandas, a second which verifying a store need not wait for.
    import xarray as xr

    from pipeline.analysis.labels import labelled

    opened = HessianStore(store)
    try:
        return labelled(xr.open_zarr(opened.objects, consolidated=False, zarr_format=3))
    except StoreError:
        raise
    # Axes that contradict each other, and damaged labels, surface as whatever xarray makes of them.
    except Exception as error:
        raise StoreError(
            f"{opened.location} cannot be opened as a dataset ({type(error).__name__}: {error})."
        ) from error


# What most stores are opened for.
open_hessian = open_store


def rebuild_problem(
    store: HoldsInputs | Place, problem: Problem | ProblemSource | str | Path | None = None
) -> Problem:
    """The problem of a store, or of estimates, at its θ; imports TensorFlow.

    Args:
        store: The store, or where it is; or open estimates.
        problem: The problem or its file, if it was a live object or has moved; or a file, function
            and options that only the store names so far.

    Raises:
        ReproductionError: If it is not the one that the store was made from.
        ProblemError: If its source cannot be read or built, or the user has not named it before.

    Example:
        >>> import tempfile
        >>> from pipeline import compute_hessian, load_problem
        >>> with tempfile.TemporaryDirectory() as directory:
        ...     small = load_problem("regression", width=2, depth=1, num_samples=5)
        ...     _ = compute_hessian(small, f"{directory}/h.zarr")
        ...     rebuild_problem(f"{directory}/h.zarr", small).terms
        (LossTerm('fit', data=['x', 'y'], weight=1.0),)
    """
    from hessian_tasks.rebuild import rebuild
    from pipeline.run.inputs import stored_inputs

    opened = store if isinstance(store, HoldsInputs) else HessianStore(store)
    return rebuild(stored_inputs(opened, None if problem is None else source_of(problem)))
