"""Planning: from numbers of parameters and bytes to block rows. Pure arithmetic.

The Hessian ``[P, P]`` is stored in square tiles of side c. Block row i covers rows
``[i c, (i+1) c)`` and is computed from column ``i c`` on; its task writes its own tiles
and, transposed, those below the diagonal, so that every tile has one writer.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from hessian_tasks.spec import HESSIAN, BlockRow, Matrix
from pipeline.errors import DoesNotFitError, PlanError
from pipeline.store.tiling import MAX_BLOCK_ROWS, MAX_TILE_BYTES, Tiling, split_rows
from pipeline.units import format_bytes, memory_option

__all__ = ["COPIES", "MIN_TILE_SIDE", "WANTED_BLOCK_ROWS", "Cost", "Plan", "Request", "make_plan"]

MIN_TILE_SIDE = 64
# Enough block rows that progress, resume and load balance have something to work with.
WANTED_BLOCK_ROWS = 16
# A block row and the buffers of those who write its tiles and their transposes, at most one for
# each, are in memory together when written; a row batch is, as the rows of a loop, as one tensor
# and as an array.
COPIES = 3
# What the store's event loop and codecs take when they are first used, and fragmentation: 14 MiB
# above the rest were seen.
STORE_BYTES = 48 * 2**20
# More rows at once do not make a row cheaper, since they are computed in a loop; this many
# are a fraction of a second, which is how fast a run can stop.
MAX_ROW_BATCH = 64


@dataclass(frozen=True)
class Request:
    """What is to be computed, and with what.

    Attributes:
        num_params: P.
        itemsize: Bytes of one entry, 4 or 8.
        num_arrays: Arrays to compute: one of each matrix, and one a loss term if wanted.
        num_threads: Block rows computed at once.
        allowed_bytes: Budget for the resident memory of the process.
        tile: Side of a tile, or None to choose.
        num_block_rows: How many block rows would be good, if memory does not ask for more.
        tile_multiple: Of what the tile side should be a multiple; for small ones a larger
            multiple is chosen.
        num_residuals: Rows of all Jacobians that are stored beside, with a Gauss-Newton matrix.
        matrices: Which matrices.
    """

    num_params: int
    itemsize: int
    num_arrays: int
    num_threads: int
    allowed_bytes: int
    tile: int | None = None
    num_block_rows: int = WANTED_BLOCK_ROWS
    tile_multiple: int = 1
    num_residuals: int = 0
    matrices: tuple[Matrix, ...] = (HESSIAN,)


@dataclass(frozen=True)
class Cost:
    """What a trial of a few rows cost in this process.

    Attributes:
        reserved_bytes: Resident memory before the first row is computed.
        shared_bytes: What all threads share: the compiled graphs of all layers and terms, and what
            one block row leaves for the next.
        workspace_bytes: What one thread needs on top while it computes, apart
            from the rows themselves.
        seconds_per_row: Time of one whole row, with all cores.
        seconds_per_block_row: Time of a block row that does not depend on its number of
            rows, with all cores.
    """

    reserved_bytes: int
    shared_bytes: int
    workspace_bytes: int
    seconds_per_row: float
    seconds_per_block_row: float = 0.0


@dataclass(frozen=True)
class Plan:
    """How the Hessian is cut and what that will cost.

    Attributes:
        request: What was asked for.
        tile: Side c of a tile.
        num_threads: Block rows computed at once; fewer than asked for if memory is short.
        reserved_bytes: Resident memory before the first block row.
        workspace_bytes: Temporaries of one thread, as a trial measured them.
        projected_bytes: Upper bound of the resident memory during the run.
        projected_seconds: Estimate of the time to compute.
    """

    request: Request
    tile: int
    num_threads: int
    reserved_bytes: int
    workspace_bytes: int
    projected_bytes: int
    projected_seconds: float

    @property
    def tiling(self) -> Tiling:
        """How the store's matrices are cut."""
        return Tiling(self.tile, per_term=self.request.num_arrays > len(self.request.matrices))

    @property
    def block_rows(self) -> list[BlockRow]:
        """The block rows, the largest first."""
        return split_rows(self.request.num_params, self.tile)

    @property
    def num_block_rows(self) -> int:
        """Number of block rows, also of tiles along a side."""
        return math.ceil(self.request.num_params / self.tile)

    @property
    def stored_bytes(self) -> int:
        """Bytes of the arrays' entries in the store."""
        request = self.request
        num_rows = request.num_arrays * request.num_params + request.num_residuals
        return num_rows * request.num_params * request.itemsize

    @property
    def padded_bytes(self) -> int:
        """Bytes of the tiles that hold them: the last ones are whole, too."""
        request, side = self.request, self.num_block_rows * self.tile
        return (request.num_arrays * side + request.num_residuals) * side * request.itemsize


def make_plan(request: Request, cost: Cost) -> Plan:
    """Choose tile side and number of threads so that the run fits into memory.

    Args:
        request: What is to be computed, and with what.
        cost: What a trial of a few rows cost.

    Raises:
        DoesNotFitError: If not even one thread with the smallest tile fits.
        PlanError: If a given tile side is not in ``[1, P]``, or makes too many block rows.

    Example:
        >>> request = Request(5301, 4, 1, num_threads=2, allowed_bytes=2**30)
        >>> plan = make_plan(request, Cost(400 * 2**20, 50 * 2**20, 100 * 2**20, 0.01))
        >>> plan.tile, plan.num_block_rows, plan.num_threads
        (384, 14, 2)
    """
    if request.tile is not None and not 1 <= request.tile <= request.num_params:
        raise PlanError(
            f"The tile side is {request.tile}; expected between 1 and the number of "
            f"parameters, {request.num_params}."
        )
    least = math.ceil(request.num_params / MAX_BLOCK_ROWS)
    if request.tile is not None and request.tile < least:
        raise PlanError(
            f"Tiles of side {request.tile} would make {request.num_params / request.tile:,.0f} "
            f"block rows, and as many files squared. Expected at least {least}."
        )
    smallest = request.tile or min(max(MIN_TILE_SIDE, least), request.num_params)
    for num_threads in range(request.num_threads, 0, -1):
        tile = request.tile or _preferred_tile(request)
        while True:
            projected = project_bytes(request, cost, tile, num_threads)
            if projected <= request.allowed_bytes:
                return Plan(
                    request=request,
                    tile=tile,
                    num_threads=num_threads,
                    reserved_bytes=cost.reserved_bytes,
                    workspace_bytes=cost.workspace_bytes,
                    projected_bytes=projected,
                    projected_seconds=project_seconds(request, cost, tile),
                )
            if tile <= smallest:
                break
            tile = max(smallest, tile // 2)
    raise _refusal(request, cost.reserved_bytes, projected, tile)


def _refusal(request: Request, reserved: int, projected: int, tile: int) -> DoesNotFitError:
    enough = memory_option(projected)
    allowed = format_bytes(request.allowed_bytes)
    if reserved >= request.allowed_bytes:
        return DoesNotFitError(
            f"The run does not fit into memory: projected {format_bytes(projected)}, of which "
            f"TensorFlow and the problem alone take {format_bytes(reserved)}; allowed {allowed}. "
            f"Allow more: {enough}",
            needed_bytes=projected,
        )
    smaller = ", or use a smaller --tile" if request.tile else ""
    return DoesNotFitError(
        f"The run does not fit into memory: projected {format_bytes(projected)} with one thread "
        f"and tiles of side {tile}, of which {format_bytes(reserved)} are reserved by the process; "
        f"allowed {allowed}. Allow more{smaller}: {enough}",
        needed_bytes=projected,
    )


def project_bytes(request: Request, cost: Cost, tile: int, num_threads: int) -> int:
    """Upper bound of resident memory: reserved + shared + threads x (workspace + block rows)."""
    row_bytes = request.num_params * request.itemsize
    # Per-term block rows are kept until the total, their sum, is complete.
    num_rows = (COPIES + request.num_arrays - 1) * tile + COPIES * min(MAX_ROW_BATCH, tile)
    # A block row's columns of all Jacobians are kept until it is stored.
    jacobian_bytes = COPIES * request.num_residuals * tile * request.itemsize
    per_thread = cost.workspace_bytes + num_rows * row_bytes + jacobian_bytes
    return cost.reserved_bytes + cost.shared_bytes + STORE_BYTES + num_threads * per_thread


def project_seconds(request: Request, cost: Cost, tile: int) -> float:
    """Estimate of the time to compute: a row costs in proportion to its columns.

    Later rows belong to later layers and leave out those before, so that they need
    fewer columns and a smaller graph. The terms of a loss take together as long as their sum.
    """
    rows = split_rows(request.num_params, tile)
    entries = sum(row.num_rows * (request.num_params - row.start) for row in rows)
    seconds = cost.seconds_per_row * entries / request.num_params
    return seconds + cost.seconds_per_block_row * len(rows)


def _preferred_tile(request: Request) -> int:
    largest = math.isqrt(MAX_TILE_BYTES // request.itemsize)
    wanted = math.ceil(request.num_params / request.num_block_rows)
    multiple = request.tile_multiple * max(1, MIN_TILE_SIDE // request.tile_multiple)
    multiple = min(multiple, largest)
    rounded = math.ceil(wanted / multiple) * multiple
    tile = min(rounded, largest // multiple * multiple, request.num_params)
    # What the last tiles lack is stored as padding; with as many block rows it can be less.
    even = math.ceil(request.num_params / math.ceil(request.num_params / tile))
    return min(math.ceil(even / multiple) * multiple, tile)
