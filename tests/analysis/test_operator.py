"""Products of a stored matrix, from its tiles, against the dense matrix."""

from pathlib import Path

import numpy as np
import pytest
from distributed import Client, LocalCluster
from scipy.sparse.linalg import eigsh

from hessian_tasks.parameters import ParameterLayout
from pipeline.analysis.operator import HessianOperator, noise_floor, open_operator
from pipeline.errors import ClusterError, StoreError
from pipeline.store.store import HessianStore
from tests.helpers import matrices

SIZE, TILE = 50, 16  # the last tiles are 2 wide


@pytest.fixture(scope="module")
def matrix() -> matrices.Array:
    return matrices.matrix_of_spectrum(np.linspace(-3.0, 7.0, SIZE))


@pytest.fixture(scope="module")
def store(matrix: matrices.Array, tmp_path_factory: pytest.TempPathFactory) -> HessianStore:
    path = tmp_path_factory.mktemp("operator") / "h.zarr"
    return matrices.store_matrix(path, matrix, TILE, {"a": 0.25 * matrix, "b": 0.75 * matrix})


@pytest.mark.parametrize(("term", "factor"), [(None, 1.0), ("a", 0.25), ("b", 0.75)])
def test_products_are_those_of_the_matrix(
    store: HessianStore, matrix: matrices.Array, term: str | None, factor: float
) -> None:
    operator = open_operator(store, term)
    vectors = np.random.default_rng(1).standard_normal((SIZE, 3))
    # Sums of 50 products, all in float64.
    np.testing.assert_allclose(operator @ vectors, factor * matrix @ vectors, atol=1e-14 * 100)
    np.testing.assert_allclose(operator @ vectors[:, 0], (operator @ vectors)[:, 0], atol=1e-14)
    np.testing.assert_array_equal(operator.T @ vectors, operator @ vectors)
    np.testing.assert_array_equal(operator.rmatvec(vectors[:, 0]), operator @ vectors[:, 0])
    assert operator.num_products == 3 + 1 + 3 + 3 + 3 + 1 + 1
    np.testing.assert_allclose(operator.norm, factor * np.linalg.norm(matrix), rtol=1e-14)


def test_scipy_takes_it(store: HessianStore) -> None:
    values = eigsh(open_operator(store), k=2, which="BE", return_eigenvectors=False)
    np.testing.assert_allclose(np.sort(values), [-3.0, 7.0], rtol=1e-12)


def test_an_asymmetric_diagonal_tile_is_symmetrised(tmp_path: Path) -> None:
    matrix = np.random.default_rng(2).standard_normal((20, 20))
    store = matrices.store_matrix(tmp_path / "h.zarr", matrix, 20)
    product = open_operator(store) @ np.eye(20)
    np.testing.assert_allclose(product, (matrix + matrix.T) / 2, atol=1e-15)


def test_float32_is_summed_in_float64(tmp_path: Path) -> None:
    matrix = matrices.matrix_of_spectrum(np.geomspace(1e-3, 1e3, 40)).astype(np.float32)
    store = matrices.store_matrix(tmp_path / "h.zarr", matrix, 16)
    operator = open_operator(store)
    vector = np.random.default_rng(3).standard_normal(40)
    np.testing.assert_allclose(operator @ vector, matrix.astype(float) @ vector, rtol=1e-11)
    assert operator.relative_error == np.finfo(np.float32).eps


def test_a_cluster_gives_the_same(store: HessianStore, matrix: matrices.Array) -> None:
    vectors = np.random.default_rng(1).standard_normal((SIZE, 3))
    with (
        LocalCluster(
            n_workers=1, threads_per_worker=2, processes=False, dashboard_address="127.0.0.1:0"
        ) as cluster,
        Client(cluster, set_as_default=False) as client,
    ):
        product = open_operator(store, client=client) @ vectors
        np.testing.assert_allclose(product, matrix @ vectors, atol=1e-12)
        cluster.scale(0)
        while client.nthreads():
            pass
        with pytest.raises(ClusterError, match="no workers"):
            open_operator(store, client=client) @ vectors


def test_damage_is_named(tmp_path: Path) -> None:
    store = matrices.store_matrix(tmp_path / "h.zarr", np.eye(40), 16)
    tile = Path(str(store.location)) / "hessian" / "c" / "1" / "2"
    tile.write_bytes(tile.read_bytes()[:-3])
    with pytest.raises(StoreError, match=r"Object hessian/c/1/2 of .*h.zarr is damaged"):
        open_operator(store) @ np.ones(40)


def test_noise_floor_needs_the_norm() -> None:
    layout = ParameterLayout.of([("a/kernel", (4,))])
    assert HessianOperator(lambda v: v, layout, relative_error=0.1).noise_floor is None
    known = HessianOperator(lambda v: v, layout, relative_error=0.1, norm=2.0)
    assert known.noise_floor == noise_floor(4, 0.1, 2.0)
