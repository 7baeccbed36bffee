"""A stored matrix as its tiles: opening it, reading a tile, and sharing the tiles out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

import numpy as np
import numpy.typing as npt
import zarr
from threadpoolctl import threadpool_limits

from hessian_tasks.process import available_cores
from hessian_tasks.spec import BlockRow
from pipeline.errors import ClusterError, StoreError
from pipeline.store.places import Place
from pipeline.store.shares import deal
from pipeline.store.store import HessianStore

if TYPE_CHECKING:
    from distributed import Client

__all__ = ["Tile", "TiledMatrix", "complete_matrix", "map_shares"]

Tile: TypeAlias = tuple[BlockRow, BlockRow]
"""Which rows, and which columns."""

Result = TypeVar("Result")


@dataclass(frozen=True)
class TiledMatrix:
    """A complete symmetric matrix ``[P, P]`` in square tiles; picklable.

    Attributes:
        store: The store that it is in.
        name: Name of its array.
    """

    store: HessianStore
    name: str

    @property
    def array(self) -> zarr.Array[Any]:
        """The stored array."""
        return self.store.hessian(self.name)

    @property
    def num_params(self) -> int:
        """P."""
        return self.store.num_params

    @property
    def block_rows(self) -> list[BlockRow]:
        """All block rows, each one tile high."""
        return self.store.block_rows

    def upper(self) -> list[Tile]:
        """The tiles on and right of the diagonal, block row by block row.

        Those left of it hold their transposes, so these are the whole matrix in half the bytes.
        """
        rows = self.block_rows
        return [(row, col) for row in rows for col in rows[row.index :]]

    def read(self, row: BlockRow, col: BlockRow) -> npt.NDArray[Any]:
        """The entries of a tile, or of several side by side, not to be changed.

        Raises:
            StoreError: If it is damaged.
        """
        rows, columns = slice(row.start, row.stop), slice(col.start, col.stop)
        return self.store.read_part(rows, columns, self.name)

    def check_finite(self, found: npt.NDArray[Any]) -> None:
        """Find out, by what was computed of all entries, whether tiles are missing after all.

        Raises:
            StoreError: If so; what iterates on NaN need not end.
        """
        if not np.isfinite(found).all():
            raise StoreError(
                f"{self.store.location}/{self.name} lacks entries, although records say that "
                "they are stored. Which those are is found by: hessian verify"
            )


def complete_matrix(
    store: HessianStore | Place, term: str | None = None
) -> tuple[HessianStore, TiledMatrix]:
    """The store and one of its matrices, all of whose block rows are there.

    Args:
        store: A store, or where it is.
        term: A loss term's matrix instead of the total's.

    Raises:
        StoreError: If block rows are missing, or there is no such array.
    """
    opened = store if isinstance(store, HessianStore) else HessianStore(store)
    missing = len(opened.block_rows) - len(opened.records())
    if missing:
        raise StoreError(
            f"{opened.location} lacks {missing} of {len(opened.block_rows)} block rows. Complete "
            f"it with: {opened.resume_command}"
        )
    if term not in opened.arrays:
        known = ", ".join(t for t in opened.arrays if t) or "none (use --per-term)"
        raise StoreError(
            f"{opened.location} has no {opened.matrix.title} of term {term!r}; it has {known}."
        )
    return opened, TiledMatrix(opened, opened.arrays[term])


def map_shares(
    function: Callable[..., Result],
    tiles: Sequence[Tile],
    client: Client | None = None,
    **arguments: Any,
) -> list[Result]:
    """Call ``function(share, **arguments)`` for shares of the tiles, one a thread.

    Every share has every n-th tile, in order, so that the same threads give the same sums,
    bit by bit.

    Args:
        function: Called with a sequence of tiles; on a cluster it has to be picklable.
        tiles: What is shared out.
        client: A Dask cluster whose threads do it; the threads of this process by default.
        **arguments: Further arguments; on a cluster each is sent to every worker once.

    Raises:
        ClusterError: If the cluster has no workers.
    """
    if client is not None:
        return _map_on_cluster(function, tiles, client, arguments)
    shares = deal(tiles, available_cores())
    # Each thread multiplies for itself.
    with threadpool_limits(1, "blas"), ThreadPoolExecutor(len(shares)) as pool:
        return list(pool.map(partial(function, **arguments), shares))


def _map_on_cluster(
    function: Callable[..., Result],
    tiles: Sequence[Tile],
    client: Client,
    arguments: dict[str, Any],
) -> list[Result]:
    num_threads = sum(client.nthreads().values())
    if not num_threads:
        raise ClusterError("The cluster has no workers. Start some, or leave the client out.")
    sent = {
        name: client.scatter(value, broadcast=True, hash=False) for name, value in arguments.items()
    }
    shares = deal(tiles, num_threads)
    futures = client.map(partial(_call_alone, function), shares, pure=False, **sent)
    return list(client.gather(futures))


def _call_alone(function: Callable[..., Result], share: Sequence[Tile], **arguments: Any) -> Result:
    with threadpool_limits(1, "blas"):
        return function(share, **arguments)
