"""The Python interface, for notebooks and scripts."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

import xarray as xr

from hessian_tasks.problem import Problem
from hessian_tasks.source import LIVE, ProblemSource
from hessian_tasks.spec import EngineName, matrix_of
from pipeline.analysis.labels import labelled
from pipeline.errors import StoreError
from pipeline.run.events import Callback
from pipeline.store.opened import HoldsInputs
from pipeline.store.places import Place
from pipeline.store.store import HessianStore

if TYPE_CHECKING:
    from pipeline.analysis.operator import HessianOperator
    from pipeline.run.cluster.given import AnyClient
    from pipeline.run.cluster.workers import Workers
    from pipeline.run.options import RunOptions
    from pipeline.run.verify import Certificate

__all__ = [
    "compute_hessian",
    "compute_layer_blocks",
    "matrix_free_operator",
    "open_hessian",
    "open_store",
    "rebuild_problem",
    "verify_hessian",
]


def compute_hessian(
    problem: Problem | str | Path,
    store: Place,
    *,
    weights: str | Path | None = None,
    take_network: bool = False,
    options: RunOptions | None = None,
    callbacks: Sequence[Callback] = (),
    client: AnyClient | None = None,
) -> xr.Dataset:
    """Compute the exact Hessian of a problem's loss into a Zarr store.

    What an earlier, interrupted call has stored is not computed again. Threads do the
    work, in this process, or the workers of a ``client``, with the same bytes; Ctrl-C stops it,
    and the same call resumes.

    Args:
        problem: A :class:`Problem`, the name of a built-in problem, or a ``.py`` file.
        store: Path or URL of the store; made if it does not exist.
        weights: Trained weights, a file that ``hessian train`` or another library wrote (see
            docs/howto/weights.md), which are read into the problem's network; a
            model that was passed itself holds them afterwards.
        take_network: Take the network of the ``.keras`` file in place of the problem's.
        options: Threads, memory, tile side, matrices of single loss terms, and the engine:
            with ``RunOptions(engine="ggn")`` this is the Gauss-Newton matrix, with
            ``RunOptions(with_ggn=True)`` both are computed, into one store.
        callbacks: Functions that are told of every event of the run, such as a
            :class:`~pipeline.run.progress.ProgressBar`.
        client: Whose workers compute: a :class:`distributed.Client`, a cluster such as
            ``LocalCluster`` or ``SLURMCluster``, or what :func:`connect` gives. They have to see
            the store under the same path, and keep their threads, limits and other tasks; the
            client stays open. A problem that is an object of this process is sent to them.

    Returns:
        The store's arrays, as :func:`open_store` gives them.

    Raises:
        ClusterError: If the client is closed, asynchronous or without workers, or these do not fit.
        HessianError: Of another kind that tells the cause; what was stored stays.

    Example:
        >>> import tempfile
        >>> from hessian_tasks import load_problem
        >>> with tempfile.TemporaryDirectory() as directory:
        ...     small = load_problem("regression", width=4, depth=2, num_samples=10)
        ...     dict(compute_hessian(small, f"{directory}/h.zarr").hessian.sizes)
        {'row': 33, 'col': 33}
    """
    from pipeline.run.execute import execute
    from pipeline.run.inputs import freeze_source
    from pipeline.run.options import RunOptions

    frozen = freeze_source(source_of(problem), weights, take_network=take_network)
    stop = threading.Event()
    try:
        with _workers(client, stop) as workers:
            execute(store, frozen, options or RunOptions(), callbacks, stop, workers)
    except KeyboardInterrupt:
        stop.set()
        raise
    return open_store(store)


def compute_layer_blocks(
    problem: Problem | str | Path,
    store: Place,
    *,
    weights: str | Path | None = None,
    take_network: bool = False,
    options: RunOptions | None = None,
    callbacks: Sequence[Callback] = (),
    client: AnyClient | None = None,
) -> dict[str, xr.Dataset]:
    """Compute only the diagonal blocks of the layers of the Hessian, a store each.

    Block l is ∂²L/∂θ_l∂θ_l ``[P_l, P_l]``, of the weights θ_l of one layer, all others held fixed:
    the rows and columns of these in the whole matrix, of which Σ P_l² entries are computed instead
    of (Σ P_l)². Each store is one like any other, by itself, in the directory ``store``. What
    earlier calls have stored is not computed again, and before anything is computed it is seen that
    all blocks fit.

    Args:
        problem: As :func:`compute_hessian` takes it, and the following. With ``only`` it says of
            which layers.
        store: The directory, or prefix of an URL, of the stores, ``<layer>.zarr``.
        weights: Likewise.
        take_network: Likewise.
        options: Likewise.
        callbacks: Likewise; they are told of the runs of all layers, one after the other.
        client: Likewise.

    Returns:
        The stores by layer, in the order of θ, as :func:`open_store` gives them.

    Raises:
        DoesNotFitError: If a block does not fit, or all together do not; nothing is computed then.
        HessianError: Of another kind that tells the cause; what was stored stays.

    Example:
        >>> import tempfile
        >>> from hessian_tasks import load_problem
        >>> small = load_problem("regression", width=4, depth=2, num_samples=10)
        >>> with tempfile.TemporaryDirectory() as directory:
        ...     found = compute_layer_blocks(small, f"{directory}/blocks")
        >>> {layer: block.hessian.shape for layer, block in found.items()}
        {'hidden_1': (8, 8), 'hidden_2': (20, 20), 'output': (5, 5)}
    """
    from pipeline.run.by_layer import freeze_blocks, missing_blocks
    from pipeline.run.execute import execute
    from pipeline.run.options import RunOptions

    source, options = source_of(problem), options or RunOptions()
    blocks = freeze_blocks(source, store, weights, take_network=take_network)
    missing = missing_blocks(blocks, options)
    stop = threading.Event()
    try:
        with _workers(client if missing else None, stop) as workers:
            for block in missing:
                fitted = block.fit(options)
                execute(block.location, block.frozen, fitted, callbacks, stop, workers)
    except KeyboardInterrupt:
        stop.set()
        raise
    return {block.layer: open_store(block.location) for block in blocks}


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
        >>> from hessian_tasks import load_problem
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
        >>> from hessian_tasks import load_problem
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


def verify_hessian(
    store: Place,
    problem: Problem | ProblemSource | str | Path | None = None,
    num_vectors: int = 3,
    *,
    client: AnyClient | None = None,
) -> Certificate:
    """Verify a store and record the certificate in it.

    Args:
        store: Path or URL of the store, such as ``s3://bucket/path/h.zarr``.
        problem: The problem, if the store was made from a live object or its file has moved; a
            source, if its function needs options.
        num_vectors: Number of random vectors to multiply with.
        client: Whose workers multiply, as in :func:`compute_hessian`; the store is read here.

    Returns:
        The certificate; look at its ``passed``.

    Raises:
        ReproductionError: If the problem is not the one that the store was made from.
        StoreError: If the store cannot be read or the certificate not be written.

    Example:
        >>> import tempfile
        >>> from hessian_tasks import load_problem
        >>> small = load_problem("regression", width=2, depth=1, num_samples=5)
        >>> with tempfile.TemporaryDirectory() as directory:
        ...     _ = compute_hessian(small, f"{directory}/h.zarr")
        ...     found = verify_hessian(f"{directory}/h.zarr", small)
        >>> found.passed, len(found.product_errors)
        (True, 3)
    """
    opened = HessianStore(store)
    records = opened.records()
    with _workers(client) as workers:
        if workers is None:
            certificate = _certify_here(opened, problem, num_vectors)
        else:
            certificate = _certify_there(opened, problem, num_vectors, workers)
    with opened.location.locked():
        now = HessianStore(opened.location, warn=False)
        if now.template != opened.template or now.records() != records:
            raise StoreError(
                f"{opened.location} was changed while it was verified, and is left as it is. "
                "Verify it again."
            )
        now.set_certificate(certificate.to_json())
    return certificate


def _certify_here(
    store: HessianStore, problem: Problem | ProblemSource | str | Path | None, num_vectors: int
) -> Certificate:
    from pipeline.run.products import jacobian_products, matrix_products
    from pipeline.run.verify import certify

    rebuilt = rebuild_problem(store, problem)
    products, images = matrix_products(store, rebuilt), jacobian_products(store, rebuilt)
    return certify(store, products, num_vectors, images)


def _certify_there(
    store: HessianStore,
    problem: Problem | ProblemSource | str | Path | None,
    num_vectors: int,
    workers: Workers,
) -> Certificate:
    from pipeline.run.cluster.products import products_on
    from pipeline.run.inputs import stored_inputs
    from pipeline.run.verify import certify

    frozen = stored_inputs(store, None if problem is None else source_of(problem))
    with products_on(workers, store, frozen.source) as (products, images):
        return certify(store, products, num_vectors, images)


def matrix_free_operator(
    problem: Problem | str | Path,
    *,
    weights: str | Path | None = None,
    take_network: bool = False,
    engine: EngineName = "auto",
    term: str | None = None,
    client: AnyClient | None = None,
) -> HessianOperator:
    """The Hessian of a problem's loss as its products with vectors, without computing the matrix.

    A product costs about as much as a few gradients, and memory some vectors. The result is a
    :class:`scipy.sparse.linalg.LinearOperator` that knows its error.

    Args:
        problem: A :class:`Problem`, the name of a built-in problem, or a ``.py`` file.
        weights: Trained weights, a file that ``hessian train`` or another library wrote (see
            docs/howto/weights.md), which are read into the problem's network; a
            model that was passed itself holds them afterwards.
        take_network: Take the network of the ``.keras`` file in place of the problem's.
        engine: With ``"ggn"`` it is the Gauss-Newton matrix.
        term: A loss term's matrix instead of the total's.
        client: Whose workers compute, as in :func:`compute_hessian`, instead of threads of this
            process; they need not see a store, and the client has to stay open.

    Raises:
        HessianError: Of a kind that tells the cause.

    Example:
        >>> import numpy as np
        >>> from pipeline import estimate_trace, load_problem
        >>> small = load_problem("regression", width=4, depth=1, num_samples=10, dtype="float64")
        >>> operator = matrix_free_operator(small)
        >>> found = estimate_trace(operator, num_products=26)  # twice as many as it has rows: exact
        >>> bool(abs(found.value - (operator @ np.eye(13)).trace()) < 1e-9)
        True
    """
    from pipeline.estimates.operator import operator_of
    from pipeline.run.inputs import freeze_source

    frozen = freeze_source(source_of(problem), weights, take_network=take_network)
    with ExitStack() as open_while_needed:
        workers = open_while_needed.enter_context(_workers(client))
        operator = operator_of(frozen, matrix=matrix_of(engine), term=term, workers=workers)
        # A client that was made for a cluster is closed with the last product.
        weakref.finalize(operator, open_while_needed.pop_all().close)
    return operator


def _workers(
    client: AnyClient | None, stop: threading.Event | None = None
) -> AbstractContextManager[Workers | None]:
    if client is None:
        return nullcontext()
    # Dask's distributed part takes half a second to import.
    from pipeline.run.cluster.given import given_workers

    return given_workers(client, stop)


def source_of(problem: Problem | ProblemSource | str | Path) -> ProblemSource:
    """Where a problem comes from, in whatever form it was given."""
    if isinstance(problem, ProblemSource):
        return problem
    if isinstance(problem, Problem):
        return ProblemSource(LIVE, live=problem)
    return ProblemSource(str(problem))
