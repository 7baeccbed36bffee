"""Every run checks itself: stored rows against products by automatic differentiation.

A band B of the stored matrix, its block rows R and its columns from some C on, is multiplied from
both sides with random vectors,

    xᵀ B  against  H x  from C on,  x zero outside of R,
    B y   against  H y  in R,       y zero before C,

so that every column and every row of it counts. H x and H y come from nested tapes on the rebuilt
problem, for each loss term. They share no reading of the residuals, stand-in or fixed point with
the layered engine, and are computed before the first block row, so that checking is reading.

There are two bands. The first block row is compared as soon as it is stored. At the end a small
matrix is read as a whole; of a larger one the last block row, whose tiles all the others have
written, and others drawn at random. :mod:`pipeline.verify` is the thorough way.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from hessian_tasks.autodiff import compile_product
from hessian_tasks.jets import reverse_derivative
from hessian_tasks.linearised import compile_gauss_newton_product
from hessian_tasks.models import parameter_layout
from hessian_tasks.parameters import Variable
from hessian_tasks.problem import LossTerm, Problem, Term
from hessian_tasks.products import ShardProducts, cut_points
from hessian_tasks.spec import HESSIAN, BlockRow, Matrix
from pipeline.errors import SelfCheckError
from pipeline.events import BlockRowStored, Event
from pipeline.metadata import SelfCheck
from pipeline.store import HessianStore

__all__ = ["Guard", "References"]

Array: TypeAlias = npt.NDArray[Any]
Product: TypeAlias = Callable[[Array], Array]

# A term of more points is multiplied in parts, which take longer to compile and less memory.
MAX_POINTS = 5000
# What is read at the end, but at least two block rows.
READ_BYTES = 256 * 2**20
# A variable's entries are wrong if they are off by this share of them, and by more than rounding
# makes: so many eps of the whole. Some 30 eps were seen in the built-in problems.
SHARE, ROUNDING = 0.01, 300.0


class References:
    """Products of every term's matrix with vectors, by nested reverse passes.

    Attributes:
        seconds: What compiling and multiplying have taken.

    Example:
        >>> from hessian_tasks.problems.poisson import problem
        >>> from hessian_tasks.spec import HESSIAN
        >>> references = References(problem(width=4, depth=1), HESSIAN)
        >>> {term: product.shape for term, product in references(np.ones((2, 17))).items()}
        {'pde': (2, 17), 'dirichlet': (2, 17), None: (2, 17)}
    """

    def __init__(self, problem: Problem, matrix: Matrix) -> None:
        """Compile the products.

        Args:
            problem: The problem, its model resolved to a Keras model.
            matrix: Which matrix.

        Raises:
            ProblemError: If a term fails.
        """
        self.seconds = 0.0
        started = time.perf_counter()
        self._products = {t.name: _compile(problem, matrix, t) for t in problem.terms}
        self.seconds = time.perf_counter() - started
        # What is compiled at the first use is.
        self(np.zeros((1, parameter_layout(problem.model).num_params)))

    def __call__(self, vectors: Array) -> dict[str | None, Array]:
        """The products by term ``[K, P]``, and those of the total under None.

        Args:
            vectors: One a row, ``[K, P]``.
        """
        started = time.perf_counter()
        found: dict[str | None, Array] = {
            term: product(vectors).astype(np.float64) for term, product in self._products.items()
        }
        total: Array = np.sum(list(found.values()), axis=0)
        self.seconds += time.perf_counter() - started
        return {**found, None: total}


def _compile(problem: Problem, matrix: Matrix, term: Term) -> Product:
    if isinstance(term, LossTerm) or term.num_points <= MAX_POINTS:
        compiled = compile_product if matrix == HESSIAN else compile_gauss_newton_product
        return compiled(problem, term.name)
    shards = cut_points(problem, term=term.name)
    products = ShardProducts(problem, matrix, reverse_derivative)
    return lambda vectors: np.sum([products(shard, vectors.T).T for shard in shards], axis=0)


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
        self, store: HessianStore, references: References, pending: Sequence[BlockRow]
    ) -> None:
        """Draw the vectors and multiply them.

        Args:
            store: The store.
            references: Give the products.
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
        products = references(np.stack([v for band in bands for v in (band.left, band.right)]))
        self._end, *self._first = [
            (band, {term: products[term][2 * i : 2 * i + 2] for term in store.arrays})
            for i, band in enumerate(bands)
        ]
        self._seconds = references.seconds
        self._error = 0.0

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

    def _check(self, band: _Band, products: Mapping[str | None, Array]) -> None:
        started = time.perf_counter()
        wrong: list[tuple[bool, int, str]] = []
        for term, name in self._store.arrays.items():
            # A matrix of zeros is compared with what the loss is otherwise.
            size = np.linalg.norm(products[term][1]) or self._store.gradient_norm
            found, expected = band.multiply(self._store, name), band.restrict(products[term])
            for values, reference in zip(found, expected, strict=True):
                defect = _compare(self._store, values, reference, float(size))
                self._error = float(np.maximum(self._error, defect.error))
                if defect.wrong:
                    sentence = _describe(self._store, band, term, defect)
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

    def _record(self, band: _Band, failure: str) -> SelfCheck:
        found = SelfCheck(
            passed=not failure,
            failure=failure,
            block_rows=[row.index for row in band.rows],
            seed=self._seed,
            error=self._error if np.isfinite(self._error) else None,
            tolerance=_tolerance(self._store),
            seconds=self._seconds,
        )
        self._store.set_self_check(found)
        return found


@dataclass(frozen=True)
class _Defect:
    """How far a product is from its reference.

    Attributes:
        error: Of the whole, relative.
        wrong: Whether that, or the error of some variable's entries, is too much.
        variable: The variable whose entries are furthest off, for what they may be.
        share: Their relative error.
        spread: Number of variables that are off by more than they may be.
        entry: The entry of θ that is furthest off.
    """

    error: float
    wrong: bool
    variable: Variable
    share: float
    spread: int
    entry: int


def _choose(store: HessianStore, rng: np.random.Generator, again: Sequence[int]) -> list[BlockRow]:
    """Block rows to read at the end, in order."""
    rows = store.block_rows
    bytes_each = len(store.arrays) * store.num_params * store.tile * store.dtype.itemsize
    number = max(2, READ_BYTES // bytes_each)
    drawn = rng.permutation(len(rows) - 1)[: number - 1]
    chosen = {len(rows) - 1, *map(int, drawn), *(i for i in again if i < len(rows))}
    return [rows[index] for index in sorted(chosen)]


def _tolerance(store: HessianStore) -> float:
    # That of a verification.
    return float(np.sqrt(np.finfo(store.dtype).eps))


def _compare(store: HessianStore, values: Array, reference: Array, size: float) -> _Defect:
    """Compare a product with its reference as a whole, and variable by variable.

    Args:
        store: The store.
        values: The product of what is stored ``[P]``.
        reference: What it should be ``[P]``.
        size: Norm of a product of the whole matrix.
    """
    tiny = float(np.finfo(np.float64).tiny)
    floor = ROUNDING * float(np.finfo(store.dtype).eps) * size + tiny
    defect = values - reference

    def norms(part: slice) -> tuple[float, float]:
        return float(np.linalg.norm(defect[part])), float(np.linalg.norm(reference[part]))

    variables = store.layout.variables
    parts = [norms(slice(v.offset, v.stop)) for v in variables]
    # NaN is the largest.
    excess = [off / (SHARE * whole + floor) for off, whole in parts]
    worst = int(np.argmax(excess))
    off, whole = norms(slice(None))
    within = off <= _tolerance(store) * whole + floor and excess[worst] <= 1
    share = parts[worst][0] / (parts[worst][1] or size or 1.0)
    error = off / (whole or size or 1.0)
    # None that is, but all together: that says least.
    spread = sum(not e <= 1 for e in excess) or len(excess)
    entry = int(np.argmax(np.abs(defect)))
    return _Defect(error, not within, variables[worst], share, spread, entry)


def _describe(store: HessianStore, band: _Band, term: str | None, defect: _Defect) -> str:
    row = band.rows[0] if len(band.rows) == 1 else store.block_rows[defect.entry // store.tile]
    variable = "/".join(filter(None, [defect.variable.layer, defect.variable.name]))
    return (
        f"{str(row).capitalize()} of the {store.matrix.title} of "
        f"{'the total loss' if term is None else f'term {term!r}'} is wrong: against products by "
        f"automatic differentiation what belongs to {variable} has a relative error of "
        f"{defect.share:.2g}, and the whole one of {defect.error:.2g} "
        f"(allowed {_tolerance(store):.2g})."
    )
