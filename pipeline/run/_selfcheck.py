"""Every run checks itself: stored rows against products by automatic differentiation.

A band B of the stored matrix, its block rows R and its columns from some C on, is multiplied from
both sides with random vectors,

    xᵀ B  against  H x  from C on,  x zero outside of R,
    B y   against  H y  in R,       y zero before C,

so that every column and every row of it counts. H x and H y, :mod:`pipeline.run._references`, are
computed before the first block row, so that checking is reading.

There are two bands. The first block row is compared as soon as it is stored. At the end a small
matrix is read as a whole; of a larger one the last block row, whose tiles all the others have
written, and others drawn at random. :mod:`pipeline.run.verify` is the thorough way.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from hessian_tasks.parameters import Variable
from hessian_tasks.spec import BlockRow, Matrix
from pipeline.errors import SelfCheckError
from pipeline.run._references import Reference, References
from pipeline.run.events import BlockRowStored, Event
from pipeline.store.metadata import SelfCheck
from pipeline.store.store import HessianStore

__all__ = ["Guard"]

Array: TypeAlias = npt.NDArray[Any]

# What is read at the end, but at least two block rows.
READ_BYTES = 64 * 2**20
# A variable's entries are wrong if they are off by this share of them, and by more than rounding
# makes: so many eps of the whole, and so much of what the references are off by. At most 30 eps
# (trained: 600) were seen in the built-in problems but one, and twice the references' rounding.
SHARE, EPS, ROUNDING = 0.01, 300.0, 10.0


@dataclass(frozen=True)
class _Band:
    """Block rows of a matrix from a column on, and a vector for either side."""

    rows: tuple[BlockRow, ...]
    start: int
    left: Array
    right: Array

    @classmethod
    def draw(
        cls, rows: Sequence[BlockRow], start: int, store: HessianStore, rng: np.random.Generator
    ) -> _Band:
        drawn = rng.standard_normal((2, store.num_params)).astype(store.dtype)
        inside = np.zeros(store.num_params, bool)
        for row in rows:
            inside[row.start : row.stop] = True
        return cls(
            tuple(rows),
            start,
            left=np.where(inside, drawn[0], 0),
            right=np.where(np.arange(store.num_params) < start, 0, drawn[1]),
        )

    def multiply(self, store: HessianStore, name: str) -> Array:
        """``xᵀ B`` and ``B y`` of a stored array ``[2, P]``, a tile at a time, in float64."""
        found = np.zeros((2, store.num_params))
        spans = [row for row in store.block_rows if row.start >= self.start]

        def product(place: tuple[BlockRow, BlockRow]) -> tuple[Array, Array]:
            rows, columns = (slice(span.start, span.stop) for span in place)
            tile = store.read_part(rows, columns, name).astype(np.float64)
            return self.left[rows] @ tile, tile @ self.right[columns]

        places = [(row, span) for row in self.rows for span in spans]
        for (row, span), parts in zip(places, store.location.each(product, places), strict=True):
            found[0, span.start : span.stop] += parts[0]
            found[1, row.start : row.stop] += parts[1]
        return found

    def restrict(self, products: Array) -> Array:
        """What :meth:`multiply` has to give, of ``H x`` and ``H y`` ``[2, P]``."""
        expected = np.zeros(products.shape)
        expected[0, self.start :] = products[0, self.start :]
        for row in self.rows:
            expected[1, row.start : row.stop] = products[1, row.start : row.stop]
        return expected


class Guard:
    """A callback that checks the first block row, and at the end the result.

    A store that does not pass is marked, and says so whenever it is opened.
    """

    def __init__(
        self,
        store: HessianStore,
        references: Mapping[Matrix, References],
        pending: Sequence[BlockRow],
    ) -> None:
        """Draw the vectors and multiply them.

        Args:
            store: The store.
            references: Give the products with each matrix of the store.
            pending: The block rows that the run computes.
        """
        self._store = store
        failed = store.self_check
        fresh = int(np.random.SeedSequence().generate_state(1)[0])
        # What has failed once is looked at again.
        self._seed, again = (fresh, []) if failed is None else (failed.seed, failed.block_rows)
        rng = np.random.default_rng(self._seed)
        bands = [_Band.draw(_choose(store, rng, again), 0, store, rng)]
        bands += [_Band.draw([row], row.start, store, rng) for row in pending[:1]]
        vectors = np.stack([v for band in bands for v in (band.left, band.right)])
        products: dict[str, Reference] = {}
        for one in store.each():
            found = references[one.matrix](vectors)
            products |= {name: found[term] for term, name in one.arrays.items()}
        self._end, *self._first = [
            (band, {name: _part(product, 2 * i) for name, product in products.items()})
            for i, band in enumerate(bands)
        ]
        self._seconds = sum(one.seconds for one in references.values())
        self._worst = (0.0, _tolerance(store))

    def __call__(self, event: Event) -> None:
        """Check the first block row once it is stored.

        Raises:
            SelfCheckError: If it is wrong; the store is marked.
        """
        for band, products in self._first:
            if isinstance(event, BlockRowStored) and event.record.row in band.rows:
                self._check(band, products)

    def finish(self) -> SelfCheck:
        """Check the result, and record that it passes.

        Raises:
            SelfCheckError: If it is wrong; the store is marked.
        """
        band, products = self._end
        self._check(band, products)
        return self._record(band, "")

    def _check(self, band: _Band, products: Mapping[str, Reference]) -> None:
        started = time.perf_counter()
        wrong: list[tuple[bool, int, str]] = []
        for one in self._store.each():
            for term, name in one.arrays.items():
                for defect in self._defects(band, name, products[name]):
                    self._worst = max(self._worst, defect.error, key=lambda pair: pair[0] / pair[1])
                    if defect.wrong:
                        sentence = _describe(one, band, term, defect)
                        wrong.append((term is None, defect.spread, sentence))
        self._seconds += time.perf_counter() - started
        if wrong:
            # Terms say more than the total, and few variables more than many.
            failure = min(wrong, key=lambda found: found[:2])[-1]
            self._record(band, failure)
            raise SelfCheckError(
                f"{failure} {self._store.location} is marked: do not use it. Another --engine, "
                "into another --store, may get it right."
            )

    def _defects(self, band: _Band, name: str, product: Reference) -> Iterator[_Defect]:
        """How far what is stored of an array is off, multiplied from either side."""
        expected, rounding = band.restrict(product.products), band.restrict(product.rounding)
        # A matrix of zeros is compared with what the loss is otherwise.
        size = np.linalg.norm(product.products[1]) or self._store.gradient_norm
        floor = EPS * float(np.finfo(self._store.dtype).eps * size)
        found = band.multiply(self._store, name)
        for values, reference, off in zip(found, expected, rounding, strict=True):
            yield _compare(self._store, (values, reference, ROUNDING * off), floor)

    def _record(self, band: _Band, failure: str) -> SelfCheck:
        found = SelfCheck(
            passed=not failure,
            failure=failure,
            block_rows=[row.index for row in band.rows],
            seed=self._seed,
            error=self._worst[0] if np.isfinite(self._worst[0]) else None,
            tolerance=self._worst[1],
            seconds=self._seconds,
        )
        self._store.set_self_check(found)
        return found


@dataclass(frozen=True)
class _Defect:
    """How far a product is from its reference.

    Attributes:
        error: Relative error of the whole, and how large it may be.
        wrong: Whether that, or the error of some variable's entries, is too much.
        variable: The variable whose entries are furthest off, for what they may be.
        share: Their relative error.
        spread: Number of variables that are off by more than they may be.
        entry: The entry of θ that is furthest off.
    """

    error: tuple[float, float]
    wrong: bool
    variable: Variable
    share: float
    spread: int
    entry: int


def _choose(store: HessianStore, rng: np.random.Generator, again: Sequence[int]) -> list[BlockRow]:
    """Block rows to read at the end, in order."""
    rows = store.block_rows
    bytes_each = len(store.all_arrays) * store.num_params * store.tile * store.dtype.itemsize
    number = max(2, READ_BYTES // bytes_each)
    drawn = rng.permutation(len(rows) - 1)[: number - 1]
    chosen = {len(rows) - 1, *map(int, drawn), *(i for i in again if i < len(rows))}
    return [rows[index] for index in sorted(chosen)]


def _tolerance(store: HessianStore) -> float:
    # That of a verification.
    return float(np.sqrt(np.finfo(store.dtype).eps))


def _compare(store: HessianStore, vectors: tuple[Array, Array, Array], floor: float) -> _Defect:
    """Compare a product with its reference as a whole, and variable by variable.

    Args:
        store: The store.
        vectors: The product of what is stored, what it should be, and what rounding may make of
            that, ``[P]`` each.
        floor: What rounding may make of the whole or of any part.
    """
    values, reference, rounding = vectors
    tiny = float(np.finfo(np.float64).tiny)

    def norms(part: slice, share: float) -> tuple[float, float, float]:
        off = float(np.linalg.norm((values - reference)[part]))
        size = float(np.linalg.norm(reference[part]))
        return off, size, share * size + floor + tiny + float(np.linalg.norm(rounding[part]))

    variables = store.layout.variables
    parts = [norms(slice(v.offset, v.stop), SHARE) for v in variables]
    # NaN is the largest.
    excess = [off / allowed for off, _, allowed in parts]
    worst = int(np.argmax(excess))
    off, size, allowed = norms(slice(None), _tolerance(store))
    # None by itself, but all together: that says least.
    spread = sum(not e <= 1 for e in excess) or len(excess)
    return _Defect(
        error=(off / (size or allowed), allowed / (size or allowed)),
        wrong=not (off <= allowed and excess[worst] <= 1),
        variable=variables[worst],
        share=parts[worst][0] / (parts[worst][1] or parts[worst][2]),
        spread=spread,
        entry=int(np.argmax(np.abs(values - reference))),
    )


def _describe(store: HessianStore, band: _Band, term: str | None, defect: _Defect) -> str:
    row = band.rows[0] if len(band.rows) == 1 else store.block_rows[defect.entry // store.tile]
    variable = "/".join(filter(None, [defect.variable.layer, defect.variable.name]))
    return (
        f"{str(row).capitalize()} of the {store.matrix.title} of "
        f"{'the total loss' if term is None else f'term {term!r}'} is wrong: against products by "
        f"automatic differentiation what belongs to {variable} has a relative error of "
        f"{defect.share:.2g}, and the whole one of {defect.error[0]:.2g} "
        f"(allowed {defect.error[1]:.2g})."
    )


def _part(reference: Reference, first: int) -> Reference:
    """The products of one band's two vectors."""
    pair = slice(first, first + 2)
    return Reference(reference.products[pair], reference.rounding[pair])
