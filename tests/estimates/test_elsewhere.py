"""GPUs and a shared store: which of them bounds a run, against the two times alone."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.estimates.elsewhere import Elsewhere


@given(st.integers(1, 10**7), st.sampled_from([4, 8]), st.integers(1, 10**7), st.integers(1, 1000))
def test_the_slower_of_the_two_bounds(size: int, itemsize: int, streams: int, count: int) -> None:
    found = Elsewhere(size, itemsize, size**2 * itemsize, streams)
    # Twice as many streams, or points, compute twice as long, and write as much.
    double = Elsewhere(size, itemsize, size**2 * itemsize, 2 * streams)
    assert double.gpu_seconds == pytest.approx(2 * found.gpu_seconds)
    assert double.store_seconds == found.store_seconds
    seconds = found.seconds(count)
    assert seconds >= found.store_seconds
    assert seconds * count >= found.gpu_seconds * (1 - 1e-12)
    assert (
        seconds
        == {
            "store": found.store_seconds,
            "computing": found.gpu_seconds / count,
        }[found.bound(count)]
    )
    assert found.seconds(count + 1) <= seconds
