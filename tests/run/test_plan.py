"""Plans: rows are partitioned, every tile has one writer, and memory is kept."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from pipeline.errors import DoesNotFitError, PlanError
from pipeline.run.plan import Cost, Request, make_plan, project_bytes
from pipeline.store.tiling import MAX_BLOCK_ROWS, split_rows
from pipeline.units import format_bytes, format_seconds

UNITS = {"B": 1, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "TiB": 2**40}


@st.composite
def requests(draw: st.DrawFn) -> Request:
    num_params = draw(st.integers(1, 200_000))
    return Request(
        num_params=num_params,
        itemsize=draw(st.sampled_from([4, 8])),
        num_arrays=draw(st.integers(1, 6)),
        num_threads=draw(st.integers(1, 64)),
        allowed_bytes=draw(st.integers(0, 2**40)),
        tile=draw(st.none() | st.integers(1, num_params)),
    )


costs = st.builds(
    Cost,
    reserved_bytes=st.integers(0, 2**36),
    shared_bytes=st.integers(0, 2**36),
    workspace_bytes=st.integers(0, 2**36),
    seconds_per_row=st.floats(0, 1e3),
)


@given(num_params=st.integers(1, 5000), tile=st.integers(1, 5000))
def test_block_rows_partition_the_rows(num_params: int, tile: int) -> None:
    rows = split_rows(num_params, tile)
    assert [i for row in rows for i in range(row.start, row.stop)] == list(range(num_params))
    assert [row.index for row in rows] == list(range(len(rows)))
    assert all(row.start == row.index * tile for row in rows)
    assert all(row.num_rows == tile for row in rows[:-1])
    assert 1 <= rows[-1].num_rows <= tile


@given(num_params=st.integers(1, 120), tile=st.integers(1, 120))
def test_every_entry_is_written_once_and_tiles_are_whole(num_params: int, tile: int) -> None:
    writes = np.zeros((num_params, num_params), int)
    writers = np.full((num_params, num_params), -1)
    for row in split_rows(num_params, tile):
        own = np.s_[row.start : row.stop, row.start :]
        transposed = np.s_[row.stop :, row.start : row.stop]
        for region in (own, transposed):
            writes[region] += 1
            writers[region] = row.index
    assert (writes == 1).all()
    for a in range(0, num_params, tile):
        for b in range(0, num_params, tile):
            assert len(np.unique(writers[a : a + tile, b : b + tile])) == 1


@given(request=requests(), cost=costs)
def test_plan_fits_into_memory_or_is_refused_with_its_numbers(request: Request, cost: Cost) -> None:
    fewest = -(-request.num_params // MAX_BLOCK_ROWS)
    if request.tile is not None and request.tile < fewest:
        with pytest.raises(PlanError, match=rf"Expected at least {fewest}\."):
            make_plan(request, cost)
        return
    smallest = request.tile or min(max(64, fewest), request.num_params)
    least = project_bytes(request, cost, smallest, 1)
    if least > request.allowed_bytes:
        with pytest.raises(PlanError, match="does not fit into memory") as refused:
            make_plan(request, cost)
        for number in (least, cost.reserved_bytes, request.allowed_bytes):
            assert format_bytes(number) in str(refused.value)
        # A tile is not to blame for what the process takes without it.
        alone = cost.reserved_bytes >= request.allowed_bytes
        assert ("the problem alone" in str(refused.value)) == alone
        smaller = request.tile is not None and not alone
        assert ("smaller --tile" in str(refused.value)) == smaller
        # What is advised is enough.
        assert isinstance(refused.value, DoesNotFitError)
        assert refused.value.needed_bytes == least
        (advised,) = re.findall(r"--memory (\d+)MiB", str(refused.value))
        enough = replace(request, allowed_bytes=int(advised) * 2**20)
        assert make_plan(enough, cost).projected_bytes <= enough.allowed_bytes
        return
    plan = make_plan(request, cost)
    assert plan.projected_bytes <= request.allowed_bytes
    assert plan.projected_bytes == project_bytes(request, cost, plan.tile, plan.num_threads)
    assert 1 <= plan.tile <= request.num_params
    assert request.tile in (None, plan.tile)
    assert 1 <= plan.num_threads <= request.num_threads
    assert plan.reserved_bytes == cost.reserved_bytes
    assert plan.stored_bytes == request.num_arrays * request.itemsize * request.num_params**2


@given(request=requests(), cost=costs)
def test_block_rows_of_a_plan_count_as_announced(request: Request, cost: Cost) -> None:
    assume(request.tile is None or request.num_params / request.tile < 5000)
    try:
        plan = make_plan(request, cost)
    except PlanError:
        return
    assert len(plan.block_rows) == plan.num_block_rows
    sizes = [row.num_rows * (request.num_params - row.start) for row in plan.block_rows]
    assert sizes == sorted(sizes, reverse=True)


@given(request=requests(), cost=costs, more=st.integers(1, 2**38))
def test_more_memory_never_gives_fewer_threads(request: Request, cost: Cost, more: int) -> None:
    richer = Request(**{**vars(request), "allowed_bytes": request.allowed_bytes + more})
    try:
        plan = make_plan(request, cost)
    except PlanError:
        return
    assert make_plan(richer, cost).num_threads >= plan.num_threads


@pytest.mark.parametrize("tile", [-3, 0, 11])
def test_refuses_a_tile_outside_the_array(tile: int) -> None:
    request = Request(10, 4, 1, num_threads=1, allowed_bytes=2**40, tile=tile)
    with pytest.raises(PlanError, match=rf"The tile side is {tile}; .*between 1 .* 10\."):
        make_plan(request, Cost(0, 0, 0, 0.0))


@pytest.mark.parametrize(
    ("allowed", "taken"),
    [
        (300, "of which TensorFlow and the problem alone take 400 MiB; allowed 300 MiB. "),
        (
            500,
            "with one thread and tiles of side 64, of which 400 MiB are reserved by the process; "
            "allowed 500 MiB. ",
        ),
    ],
)
def test_refusal_reads_as_a_sentence(allowed: int, taken: str) -> None:
    request = Request(1000, 8, 1, num_threads=4, allowed_bytes=allowed * 2**20)
    expected = (
        f"The run does not fit into memory: projected 551 MiB{',' * taken.startswith('of')} {taken}"
        "Allow more: --memory 551MiB"
    )
    with pytest.raises(PlanError, match=f"^{re.escape(expected)}$"):
        make_plan(request, Cost(400 * 2**20, 0, 100 * 2**20, 0.01))


@example(num_bytes=1_023_590)
@given(num_bytes=st.integers(0, 999 * 2**40))
def test_bytes_are_written_to_three_digits(num_bytes: int) -> None:
    text = format_bytes(num_bytes)
    assert re.fullmatch(r"\d{1,4}(\.\d+)? (B|KiB|MiB|GiB|TiB)", text), text
    number, unit = text.split()
    assert float(number) * UNITS[unit] == pytest.approx(num_bytes, rel=0.005)


@example(seconds=59.97)
@example(seconds=3599.9)
@example(seconds=7199.9)
@given(seconds=st.floats(1e-3, 1e7))
def test_durations_are_written_in_digits(seconds: float) -> None:
    text = format_seconds(seconds)
    pattern = r"(?:(\d+) h )?(?:(\d+) min)?(?: ?(\d+(?:\.\d+)?) s)?"
    match = re.fullmatch(pattern, text)
    assert match, text
    hours, minutes, rest = (float(part or 0) for part in match.groups())
    assert minutes < 60
    assert rest < 60
    # Minutes and hours drop less than one of the next smaller unit.
    lost = 60 if hours else 1 if minutes else 0.05 * seconds
    assert 3600 * hours + 60 * minutes + rest == pytest.approx(seconds, abs=lost)
