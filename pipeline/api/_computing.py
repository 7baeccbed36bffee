"""Computing a Hessian, its blocks, or its products with vectors."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from hessian_tasks.problem import Problem
from hessian_tasks.spec import EngineName, matrix_of
from pipeline.api._given import source_of, workers_of
from pipeline.api._opening import open_store
from pipeline.run.events import Callback
from pipeline.store.places import Place

if TYPE_CHECKING:
    import xarray as xr

    from pipeline.analysis.operator import HessianOperator
    from pipeline.run.cluster.given import AnyClient
    from pipeline.run.options import RunOptions

__all__ = ["compute_hessian", "compute_layer_blocks", "matrix_free_operator"]


def compute_hessian(
    problem: Problem | str | Path,
    store: Place,
    *,
    weights: str | Path | None = None,
    take_network: bool = False,
    options: RunOptions | None = None,
    callbacks: Sequence[Callback] | None = None,
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
        callbacks: Functions that are told of every event of the run. By default a
            :class:`~pipeline.run.progress.ProgressBar` in a notebook, and nobody elsewhere;
            ``callbacks=()`` shows nothing.
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
    from pipeline.run.progress import who_listens

    frozen = freeze_source(source_of(problem), weights, take_network=take_network)
    stop = threading.Event()
    try:
        with workers_of(client, stop) as workers:
            listeners = who_listens(callbacks)
            execute(store, frozen, options or RunOptions(), listeners, stop, workers)
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
    callbacks: Sequence[Callback] | None = None,
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
    from pipeline.run.progress import who_listens

    source, options = source_of(problem), options or RunOptions()
    blocks = freeze_blocks(source, store, weights, take_network=take_network)
    missing = missing_blocks(blocks, options)
    stop = threading.Event()
    try:
        with workers_of(client if missing else None, stop) as workers:
            for block in missing:
                fitted = block.fit(options)
                listeners = who_listens(callbacks)
                execute(block.location, block.frozen, fitted, listeners, stop, workers)
    except KeyboardInterrupt:
        stop.set()
        raise
    return {block.layer: open_store(block.location) for block in blocks}


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
        workers = open_while_needed.enter_context(workers_of(client))
        operator = operator_of(frozen, matrix=matrix_of(engine), term=term, workers=workers)
        # A client that was made for a cluster is closed with the last product.
        weakref.finalize(operator, open_while_needed.pop_all().close)
    return operator
