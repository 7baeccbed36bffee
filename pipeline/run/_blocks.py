"""One task: compute a block row, store it, and record that it is stored."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias, runtime_checkable

import numpy as np
import numpy.typing as npt

from hessian_tasks.errors import HessianError
from hessian_tasks.process import peak_bytes
from hessian_tasks.spec import GAUSS_NEWTON, HESSIAN, BlockRow
from pipeline.errors import BlockRowError, StoppedError
from pipeline.store.records import BlockRecord, Statistics
from pipeline.store.store import HessianStore

__all__ = ["BlockTask"]


Blocks: TypeAlias = dict[str, npt.NDArray[Any]]
"""Parts of arrays, by name."""


class Engine(Protocol):
    """What every engine offers."""

    name: str

    def block_row(
        self, row: BlockRow, term: str | None = None, check: Callable[[], None] = ...
    ) -> npt.NDArray[Any]:
        """Rows of a matrix from the diagonal tile on, ``[rows, P - start]``."""
        ...


@runtime_checkable
class JacobianEngine(Engine, Protocol):
    """An engine whose matrices are made term by term, some of them from Jacobians of residuals."""

    terms: tuple[str, ...]

    def term_rows(
        self, row: BlockRow, term: str, check: Callable[[], None] = ...
    ) -> tuple[npt.NDArray[Any], npt.NDArray[Any] | None]:
        """A block row of one term's matrix, and the columns of its Jacobian ``[N C, rows]``.

        Terms that are no residuals have none.
        """
        ...


@contextmanager
def _naming(row: BlockRow) -> Iterator[None]:
    """Turn what the user's code or TensorFlow raises into an error that names the block row."""
    try:
        yield
    except HessianError:
        raise
    except Exception as error:
        raise BlockRowError(
            f"{str(row).capitalize()} failed: {type(error).__name__}: {error}"
        ) from error


@dataclass(frozen=True)
class BlockTask:
    """Computes and stores block rows.

    Running it twice for the same block row writes the same bytes twice, so that
    retries are harmless.

    Attributes:
        engines: Compute the rows, of the Hessian and of the Gauss-Newton matrix.
        store: Where they go.
        stop: Set to abandon block rows that are being computed and to start no more.
        on_stored: Called with the record of every stored block row.
    """

    engines: Sequence[Engine]
    store: HessianStore
    stop: threading.Event
    on_stored: Callable[[BlockRecord], None]

    def __call__(self, row: BlockRow) -> BlockRecord:
        """Compute and store one block row.

        Returns:
            Its record, which is stored too.

        Raises:
            StoppedError: If :attr:`stop` is set.
            BlockRowError: If the block row cannot be computed, or holds NaN.
            StoreError: If it cannot be written.
        """
        with _naming(row):
            self.check()
            started = time.perf_counter()
            blocks, columns = self._compute(row)
            computed = time.perf_counter()
            statistics = {name: self._examine(row, name, block) for name, block in blocks.items()}
            with self.store.location.writing():
                record = BlockRecord(
                    row=row,
                    checksums=self._write(row, blocks, columns),
                    statistics=statistics,
                    engine=self.engines[0].name,
                    compute_seconds=computed - started,
                    store_seconds=time.perf_counter() - computed,
                    peak_bytes=peak_bytes(),
                    template=self.store.template,
                )
                record.save(self.store.location)
            self.on_stored(record)
            return record

    def warm_up(self, rows: Sequence[BlockRow]) -> None:
        """Compute rows and drop them: what is compiled or kept is not in the time of the others.

        Raises:
            BlockRowError: If they cannot be computed.
        """
        for row in rows:
            with _naming(row):
                self._compute(row)

    def check(self) -> None:
        """Raise :class:`StoppedError` once the run is to stop."""
        if self.stop.is_set():
            raise StoppedError("The run was stopped.")

    def _compute(self, row: BlockRow) -> tuple[Blocks, Blocks]:
        found: Blocks = {}
        columns: Blocks = {}
        for engine in self.engines:
            if isinstance(engine, JacobianEngine):
                names = self.store.select(GAUSS_NEWTON).arrays
                blocks, columns = self._compute_products(engine, row, names)
            else:
                names = self.store.select(HESSIAN).arrays
                # The total is the sum of its terms where those are wanted, at once where not.
                terms: list[str | None] = [t for t in names if t is not None] or [None]
                blocks = {names[t]: engine.block_row(row, t, self.check) for t in terms}
            if names[None] not in blocks:
                blocks[names[None]] = np.sum(list(blocks.values()), axis=0)
            found |= blocks
        return found, columns

    def _compute_products(
        self, engine: JacobianEngine, row: BlockRow, names: Mapping[str | None, str]
    ) -> tuple[Blocks, Blocks]:
        blocks: Blocks = {}
        columns: Blocks = {}
        for term in engine.terms:
            product, part = engine.term_rows(row, term, self.check)
            if part is not None:
                columns[self.store.jacobians[term]] = part
            # Where terms are not wanted one by one, they add up to the total at once.
            target = names.get(term, names[None])
            if target in blocks:
                blocks[target] += product
            else:
                blocks[target] = product
        return blocks, columns

    def _examine(self, row: BlockRow, name: str, block: npt.NDArray[Any]) -> Statistics:
        """Statistics of a block, which has to be finite."""
        statistics = Statistics.of(block)
        if not math.isfinite(statistics.max_abs):
            bad = ~np.isfinite(block)
            i, j = np.argwhere(bad)[0]
            describe = self.store.layout.describe
            raise BlockRowError(
                f"{str(row).capitalize()} of {name} holds {int(bad.sum())} entries that are NaN or "
                f"infinite, first that of {describe(row.start + int(i))} and "
                f"{describe(row.start + int(j))}. Look for an operation in the loss with a "
                "singular derivative, first or second, such as sqrt or a norm at 0."
            )
        return statistics

    def _write(self, row: BlockRow, blocks: Blocks, columns: Blocks) -> dict[str, int]:
        checksums: dict[str, int] = {}
        for name, part in columns.items():
            checksums |= self.store.write_columns(row, name, part)
        for name, block in blocks.items():
            checksums |= self.store.write_block_row(row, name, block)
        return checksums
