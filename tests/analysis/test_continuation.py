"""Which eigenvectors continue which: matrices of known spectra, turned by known angles."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import scipy.linalg
from hypothesis import given
from hypothesis import strategies as st

from pipeline.analysis.continuation import CONTINUES, Continued, KnownPairs, continuations

Array = Any

SIZE = 8
# What LAPACK's eigenvectors leave of a cosine: some ulp, over gaps of at least 1 in matrices of
# norm 10.
ROUNDING = 1e-12


def basis(seed: int = 0, size: int = SIZE) -> Array:
    return np.linalg.qr(np.random.default_rng(seed).standard_normal((size, size)))[0]


def known(values: Any, vectors: Array, error: float = 1e-12) -> KnownPairs:
    """The eigenpairs of the matrix that has these, as LAPACK gives them."""
    matrix = vectors * np.asarray(values, float) @ vectors.T
    found, columns = np.linalg.eigh((matrix + matrix.T) / 2)
    return KnownPairs(found, np.full(len(found), error), columns)


def turned(vectors: Array, first: int, second: int, degrees: float) -> Array:
    """With two of the columns turned in their plane."""
    angle = np.radians(degrees)
    rotation = np.eye(len(vectors))
    rotation[np.ix_([first, second], [first, second])] = [
        [np.cos(angle), -np.sin(angle)],
        [np.sin(angle), np.cos(angle)],
    ]
    return vectors @ rotation


def partners(found: list[Continued]) -> dict[int | None, int | None]:
    return {pair.before: pair.after for pair in found if pair.before is not None}


@pytest.mark.parametrize("degrees", [0, 10, 40])
def test_overlaps_of_a_turned_pair_are_its_squared_cosine(degrees: float) -> None:
    values = np.arange(1.0, SIZE + 1)
    found = continuations(known(values, basis()), known(values, turned(basis(), 2, 5, degrees)))
    assert partners(found) == {i: i for i in range(SIZE)}
    expected = {i: np.cos(np.radians(degrees)) ** 2 if i in (2, 5) else 1.0 for i in range(SIZE)}
    assert {c.before: c.overlap for c in found} == pytest.approx(expected, abs=ROUNDING)


def test_crossed_eigenvalues_are_followed_by_their_vectors() -> None:
    after = np.array([1.0, 2.0, 6.5, 4.0, 5.0, 3.5, 7.0, 0.5])
    found = continuations(known(np.arange(1.0, SIZE + 1), basis()), known(after, basis()))
    ranks = np.argsort(np.argsort(after))
    assert partners(found) == dict(enumerate(ranks.tolist()))
    assert min(pair.overlap for pair in found) == pytest.approx(1.0, abs=ROUNDING)
    assert [pair.before for pair in found] == list(range(SIZE))[::-1]


def test_a_rotation_inside_equal_eigenvalues_is_no_change() -> None:
    values = [1.0, 2.0, 5.0, 5.0, 5.0, 6.0, 7.0, 8.0]
    before = known(values, basis())
    # Any basis of the space is as good as another, and here it is one turned at random.
    vectors = before.vectors.copy()
    vectors[:, 2:5] = vectors[:, 2:5] @ basis(1, 3)
    alone = (before.vectors[:, 2:5] * vectors[:, 2:5]).sum(axis=0) ** 2
    assert alone.min() < CONTINUES
    found = continuations(before, KnownPairs(before.values, before.errors, vectors))
    assert {(c.before, c.after) for c in found} == {(i, i) for i in range(SIZE)}
    assert [c.overlap for c in found] == pytest.approx(np.ones(SIZE), abs=ROUNDING)
    assert [c.dimensions for c in found if c.before in (2, 3, 4)] == [(3, 3)] * 3


def test_a_pair_that_splits_goes_on_in_both() -> None:
    before = known([1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 7.0], basis())
    found = continuations(
        before, known([1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 9.0], turned(basis(), 6, 7, 45))
    )
    assert [(c.after, c.dimensions) for c in found[:2]] == [(7, (2, 1)), (6, (2, 1))]
    assert [c.overlap for c in found] == pytest.approx(np.ones(SIZE), abs=ROUNDING)


def test_spaces_that_share_one_direction_have_one_partner() -> None:
    """Before {a, b} are equal, after {a, c}: a goes on in that space, b alone, and c is new."""
    values = np.array([5.0, 5.0, 1.0])
    a, b, c = basis()[:, :3].T
    one = KnownPairs(values[:2], np.full(2, 1e-12), np.array([a, b]).T)
    other = KnownPairs(np.array([1.0, 5.0, 5.0]), np.full(3, 1e-12), np.array([b, a, c]).T)
    found = continuations(one, other)
    assert sorted(c.dimensions for c in found) == [(0, 2), (2, 1), (2, 2)]
    going_on = [pair for pair in found if pair.before is not None]
    assert [pair.overlap for pair in going_on] == pytest.approx([1.0, 1.0], abs=ROUNDING)
    assert {pair.after is None for pair in going_on} == {False}
    new = next(pair for pair in found if pair.before is None)
    assert new.after in (1, 2)


def test_vectors_that_are_not_there_are_gone_and_new() -> None:
    whole = basis()
    one = KnownPairs(np.array([1.0, 2.0]), np.zeros(2), whole[:, [0, 1]])
    other = KnownPairs(np.array([2.0, 3.0]), np.zeros(2), turned(whole, 1, 2, 65)[:, [1, 3]])
    found = continuations(one, other)
    assert [(c.before, c.after, c.dimensions) for c in found] == [
        (1, None, (1, 0)), (0, None, (1, 0)), (None, 1, (0, 1)), (None, 0, (0, 1))
    ]  # fmt: skip
    least = np.cos(np.radians(65)) ** 2
    assert [c.overlap for c in found] == pytest.approx([least, 0, 0, least], abs=ROUNDING)


def test_what_cannot_be_told_from_zero_is_not_followed() -> None:
    pairs = KnownPairs(np.array([-1.0, 1e-9, 1.0]), np.full(3, 1e-8), np.eye(3))
    assert pairs.resolved().values.tolist() == [-1.0, 1.0]
    nothing = KnownPairs(np.zeros(3), np.full(3, 1e-8), np.eye(3)).resolved()
    assert continuations(nothing, nothing) == []
    assert [c.before for c in continuations(pairs.resolved(), nothing)] == [1, 0]


@given(st.integers(0, 10_000), st.integers(1, 6), st.integers(1, 6))
def test_every_vector_is_named_once(seed: int, num_first: int, num_second: int) -> None:
    rng = np.random.default_rng(seed)
    sides = [
        KnownPairs(
            np.sort(rng.integers(0, 4, number).astype(float)),
            np.full(number, 1e-3),
            scipy.linalg.orth(rng.standard_normal((SIZE, number))),
        )
        for number in (num_first, num_second)
    ]
    found = continuations(*sides)
    assert sorted(c.before for c in found if c.before is not None) == list(range(num_first))
    assert sorted(c.after for c in found if c.after is not None) == list(range(num_second))
    assert all(0 <= c.overlap <= 1 + ROUNDING for c in found)
