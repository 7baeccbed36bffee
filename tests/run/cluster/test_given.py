"""Workers of a client that the user has: what they compute, what they keep, and what is refused."""

from __future__ import annotations

import asyncio
import pickle
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from distributed import Client, LocalCluster
from threadpoolctl import threadpool_info

from hessian_tasks.autodiff import compile_product
from hessian_tasks.errors import ProblemError
from hessian_tasks.problem import LossTerm, Problem
from hessian_tasks.problems import regression
from hessian_tasks.problems.networks import mlp
from hessian_tasks.source import ProblemSource
from pipeline.api import compute_hessian, matrix_free_operator, rebuild_problem, verify_hessian
from pipeline.errors import ClusterError, ConfigError, DoesNotFitError
from pipeline.run.cluster import _job, products, sending
from pipeline.run.cluster._schedule import Schedule, run_block_rows
from pipeline.run.cluster.given import given_workers
from pipeline.run.cluster.products import products_on
from pipeline.run.cluster.sending import SentSource, carried, send_source
from pipeline.run.options import RunOptions
from pipeline.store.store import HessianStore
from tests.helpers.runs import WAIT, WORKER_MEMORY, objects, wait_for
from tests.run.cluster.clusters import rows
from tests.run.cluster.faults import Counted

OPTIONS = RunOptions(tile=16, per_term=True)


def local_cluster(**options: Any) -> LocalCluster:
    given = {"n_workers": 2, "threads_per_worker": 1, "memory_limit": WORKER_MEMORY}
    return LocalCluster(**{**given, "dashboard_address": "127.0.0.1:0", **options})


def start_tensorflow() -> float:
    """As a task of the user's would, before there is a run."""
    import tensorflow as tf

    return float(tf.reduce_sum(tf.ones(3)))


def blas_threads() -> list[int]:
    return [pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"]


def jobs() -> int:
    return len(_job._ready) + len(products._ready)


@pytest.fixture(scope="module")
def client() -> Iterator[Client]:
    """Of two workers, of which TensorFlow was started on one by a task."""
    with local_cluster() as cluster, Client(cluster, set_as_default=False) as client:
        client.wait_for_workers(2, timeout=WAIT)
        first = next(iter(client.nthreads()))
        assert client.submit(start_tensorflow, workers=[first]).result() == 3.0
        yield client


def cheap() -> Problem:
    """A problem of 37 parameters that compiles fast."""
    return regression.problem(width=12, depth=1, num_samples=20, dtype="float64")


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The objects of a run of that in this process."""
    path = tmp_path_factory.mktemp("here") / "h.zarr"
    compute_hessian(cheap(), path)
    return objects(path)


def test_a_client_computes_the_same_bytes_and_is_left_as_it_was(
    client: Client, tiny_problem: Callable[..., Problem], tmp_path: Path
) -> None:
    problem, mine = tiny_problem(width=12), client.submit(sum, [1, 2])
    threads_before = client.run(blas_threads)
    compute_hessian(problem, tmp_path / "here.zarr", options=OPTIONS)
    compute_hessian(problem, tmp_path / "there.zarr", options=OPTIONS, client=client)
    assert objects(tmp_path / "there.zarr") == objects(tmp_path / "here.zarr")
    assert mine.result() == 3
    assert client.status == "running"
    assert set(client.futures) == {mine.key}
    assert set(client.run(jobs).values()) == {0}
    assert client.run(blas_threads) == threads_before


def test_a_store_is_verified_by_a_client(
    client: Client, tiny_problem: Callable[..., Problem], tmp_path: Path
) -> None:
    problem, path = tiny_problem(), tmp_path / "both.zarr"
    options = RunOptions(with_ggn=True, per_term=True)
    compute_hessian(problem, path, options=options, client=client)
    found = verify_hessian(path, problem, client=client)
    assert found.passed
    assert set(found.matrix_errors) == {"hessian", "ggn"}
    assert len(found.product_errors) == len(found.jacobian_errors) == 3
    assert found.to_json() == HessianStore(path).attributes["certificate"]
    assert set(client.run(jobs).values()) == {0}


@pytest.mark.slow
def test_products_that_verify_are_those_of_this_process(
    client: Client, tiny_problem: Callable[..., Problem], tmp_path: Path
) -> None:
    problem, path = tiny_problem(), tmp_path / "h.zarr"
    compute_hessian(problem, path, options=OPTIONS)
    store, vectors = HessianStore(path), np.random.default_rng(0).standard_normal((2, 25))
    rebuilt = rebuild_problem(store, problem)
    source = ProblemSource("live object", live=problem)
    with given_workers(client) as workers, products_on(workers, store, source) as (found, images):
        assert images is None
        assert set(found) == {"hessian", "hessian_pde", "hessian_dirichlet"}
        for term, name in store.arrays.items():
            product, expected = found[name], compile_product(rebuilt, term)(vectors)
            # Rounding of float64, where threads of TensorFlow add in another order.
            np.testing.assert_allclose(product(vectors), expected, rtol=1e-11, atol=1e-11)


def test_an_operator_multiplies_by_a_cluster(client: Client) -> None:
    problem = cheap()
    here = matrix_free_operator(problem) @ np.eye(37)
    there = matrix_free_operator(problem, client=client.cluster) @ np.eye(37)
    # Rounding of float64, where shards are added in another order.
    np.testing.assert_allclose(there, here, rtol=1e-11, atol=1e-11)
    assert client.status == "running"


class Gateway:
    """A cluster as dask-gateway's, whose scheduler nobody reaches but by the clients it makes."""

    def __init__(self, address: str) -> None:
        self.address, self.status = address, "running"
        self.made: list[Client] = []

    def get_client(self, set_as_default: bool = True) -> Client:
        self.made.append(Client(self.address, set_as_default=set_as_default))
        return self.made[-1]


def test_a_cluster_that_only_makes_clients(
    client: Client, tmp_path: Path, here: dict[str, bytes]
) -> None:
    gateway = Gateway(client.scheduler.address)
    compute_hessian(cheap(), tmp_path / "there.zarr", client=gateway)
    assert objects(tmp_path / "there.zarr") == here
    (made,) = gateway.made
    assert made.status == "closed"
    assert default_client() is None
    gateway.status = "closed"
    with pytest.raises(ClusterError, match="cluster is closed"), given_workers(gateway):
        pass
    assert gateway.made == [made]


def default_client() -> Client | None:
    try:
        return Client.current()
    except ValueError:
        return None


def large_problem(num_bytes: int) -> Problem:
    """A problem whose loss reads data of its own, of so many bytes."""
    data = np.random.default_rng(0).standard_normal(num_bytes // 8)
    model = mlp(1, width=4, depth=1, seed=1, dtype="float64")
    points = np.linspace(-1.0, 1.0, 5)[:, None]
    return Problem(
        model,
        [LossTerm("far", lambda u: tf.reduce_mean(tf.square(u(points) - tf.reduce_mean(data))))],
    )


def carriers(dask_worker: Any) -> list[str]:
    """Names of what a worker has been sent."""
    return [name for name in dask_worker.plugins if name.startswith("hessian-problem-")]


def test_a_large_problem_object_is_sent_once(client: Client, tmp_path: Path) -> None:
    problem = large_problem(8 * 2**20)
    sent = send_source(ProblemSource("live object", live=problem))
    assert 8 * 2**20 < len(sent.pickled) < 9 * 2**20
    with carried(client, sent) as there:
        # What each task takes along.
        assert len(pickle.dumps(there)) < 2**10
        assert set(map(len, client.run(carriers).values())) == {1}
    options = RunOptions(tile=3)
    compute_hessian(problem, tmp_path / "here.zarr", options=options)
    compute_hessian(problem, tmp_path / "there.zarr", options=options, client=client)
    assert objects(tmp_path / "there.zarr") == objects(tmp_path / "here.zarr")
    assert verify_hessian(tmp_path / "there.zarr", problem, client=client).passed
    assert set(map(len, client.run(carriers).values())) == {0}


def test_a_worker_that_comes_later_has_the_large_problem_too() -> None:
    sent = send_source(ProblemSource("live object", live=large_problem(2 * 2**20)))
    with (
        local_cluster(n_workers=1, processes=False) as cluster,
        Client(cluster, set_as_default=False) as client,
        carried(client, sent) as there,
    ):
        (first,) = client.nthreads()
        cluster.scale(2)
        client.wait_for_workers(2, timeout=WAIT)
        (second,) = set(client.nthreads()) - {first}
        received = client.submit(receives, there, workers=[second], pure=False)
        assert received.result() == ("far",)
        # As after the scheduler was replaced by another one.
        client.unregister_worker_plugin(there.plugin)
        lost = client.submit(receives, there, pure=False)
        with pytest.raises(ClusterError, match="lost with the scheduler"):
            lost.result()


def receives(sent: SentSource) -> tuple[str, ...]:
    problem = sent.receive().live
    assert problem is not None
    return tuple(term.name for term in problem.terms)


def test_an_asynchronous_client_serves_from_another_thread(
    client: Client, tmp_path: Path, here: dict[str, bytes]
) -> None:
    address, problem = client.scheduler.address, cheap()

    async def compute() -> None:
        async with Client(address, asynchronous=True, set_as_default=False) as other:
            with pytest.raises(ClusterError, match=r"client is asynchronous.*to_thread"):
                compute_hessian(problem, tmp_path / "never.zarr", client=other)
            path = tmp_path / "there.zarr"
            await asyncio.to_thread(compute_hessian, problem, path, client=other)

    asyncio.run(compute())
    assert objects(tmp_path / "there.zarr") == here


def test_workers_that_are_threads_of_this_process(tmp_path: Path, here: dict[str, bytes]) -> None:
    problem, before = cheap(), blas_threads()
    with local_cluster(processes=False) as cluster:
        compute_hessian(problem, tmp_path / "there.zarr", client=cluster)
        assert cluster.status.name == "running"
    assert objects(tmp_path / "there.zarr") == here
    assert blas_threads() == before


def test_what_cannot_be_used_is_refused(client: Client) -> None:
    def refused(given: Any, message: str) -> None:
        with pytest.raises(ClusterError, match=message), given_workers(given):
            pass

    refused("tcp://127.0.0.1:1", "client is 'tcp://127.0.0.1:1'; expected a distributed.Client")
    closed = Client(client.scheduler.address, set_as_default=False)
    closed.close()
    refused(closed, "client is closed. Make one")
    with local_cluster(n_workers=0) as empty:
        refused(empty, "no workers. Ask for some")
    refused(empty, "cluster is closed")


def test_the_client_of_an_event_loop_that_has_ended_is_refused(client: Client) -> None:
    address = client.scheduler.address

    async def leave() -> Client:
        return await Client(address, asynchronous=True, set_as_default=False)

    loop = asyncio.new_event_loop()
    left = loop.run_until_complete(leave())
    with pytest.raises(ClusterError, match="event loop has ended"), given_workers(left):
        pass
    loop.run_until_complete(left.close())
    loop.close()


def test_the_plan_keeps_to_the_limits_of_the_workers(client: Client, tmp_path: Path) -> None:
    with given_workers(client) as workers:
        before = workers.memory
        assert before is not None
        kept = client.scatter(bytes(2**20), broadcast=True)
        # The scheduler hears of it with the next heartbeat.
        wait_for(lambda: workers.memory is not None and workers.memory <= before - 2**20)
        del kept
    with (
        local_cluster(n_workers=1, processes=False, memory_limit="100MiB") as small,
        pytest.raises(DoesNotFitError),
    ):
        compute_hessian(cheap(), tmp_path / "h.zarr", client=small)
    assert not (tmp_path / "h.zarr").exists()


def test_workers_of_others_are_not_restarted(client: Client, tmp_path: Path) -> None:
    names = set(client.nthreads())
    done: list[Any] = []
    task = Counted(tmp_path / "begun", {}, seconds=2.0)
    limits = {"limit": 1e-3, "may_restart": False}
    schedule = Schedule("mine", 1, WAIT, done.append, threading.Event(), **limits)  # type: ignore[arg-type]
    run_block_rows(client, task, rows(2), schedule)
    assert sorted(done) == [0, 1]
    assert task.begun() == {0: 1, 1: 1}
    assert set(client.nthreads()) == names


def test_what_cannot_be_sent_is_refused(
    tiny_problem: Callable[..., Problem], monkeypatch: pytest.MonkeyPatch
) -> None:
    lock, network = threading.Lock(), tiny_problem().model

    def loss(model: Any) -> Any:
        with lock:
            return tf.reduce_sum(model.trainable_weights[0] ** 2)

    locked = Problem(network, [LossTerm("locked", loss)])
    with pytest.raises(ConfigError, match=r"cannot be sent to workers \(TypeError.*into a file"):
        send_source(ProblemSource("live object", live=locked))
    monkeypatch.setattr(sending, "MAX_BYTES", 1000)
    with pytest.raises(ConfigError, match=r"problem object takes .* reads its data there"):
        send_source(ProblemSource("live object", live=tiny_problem()))
    with pytest.raises(ProblemError, match="cannot be made again on a worker"):
        SentSource(ProblemSource("live object"), b"no pickle").receive()
