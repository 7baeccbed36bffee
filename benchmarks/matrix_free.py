"""Products of the Hessian with vectors, without the matrix: the ways, and what they cost.

``ways`` compares, for one batch of points of the Poisson problem's equation and K vectors,
reverse over reverse with forward over reverse, each in a loop inside the graph and vectorised over
the vectors. ``cost`` times products of the whole loss by width of the network, number of
vectors and size of the batches, and reports the memory. Ways are compared by processor time, which
depends little on what else the machine does.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

Product = Callable[[Any], Any]
ZERO = "zero"  # tf.UnconnectedGradients.ZERO


def make_loss(problem: Any, points: Any) -> Callable[[], Any]:
    import tensorflow as tf

    from hessian_tasks.loss import term_values

    term = problem.terms[0]
    return lambda: tf.reduce_mean(tf.square(term_values(problem, term, arrays={"points": points})))


def reverse_over_reverse(problem: Any, points: Any) -> Product:
    import tensorflow as tf

    from hessian_tasks.autodiff.engine import pull_back
    from hessian_tasks.loss import gradient
    from hessian_tasks.networks.models import trainable_variables

    variables = trainable_variables(problem.model)
    with tf.GradientTape(persistent=True) as tape:
        grad = gradient(make_loss(problem, points), variables)
    return lambda vector: pull_back(tape, grad, variables, vector)


def forward_over_reverse(problem: Any, points: Any) -> Product:
    import tensorflow as tf

    from hessian_tasks.loss import flatten
    from hessian_tasks.networks.models import trainable_variables

    variables = trainable_variables(problem.model)
    sizes = [v.shape.num_elements() for v in variables]
    loss = make_loss(problem, points)

    def product(vector: Any) -> Any:
        pairs = zip(tf.split(vector, sizes), variables, strict=True)
        tangents = [tf.reshape(part, v.shape) for part, v in pairs]
        with tf.autodiff.ForwardAccumulator(variables, tangents) as accumulator:
            with tf.GradientTape() as tape:
                value = loss()
            grads = tape.gradient(value, variables, unconnected_gradients=ZERO)
        return flatten(accumulator.jvp(grads, unconnected_gradients=ZERO))

    return product


def in_loop(product: Product, vectors: Any) -> Any:
    import tensorflow as tf

    return tf.map_fn(product, vectors, fn_output_signature=vectors.dtype)


def vectorised(product: Product, vectors: Any) -> Any:
    import tensorflow as tf

    return tf.vectorized_map(product, vectors, fallback_to_while_loop=False)


def unrolled(product: Product, vectors: Any) -> Any:
    import tensorflow as tf

    return tf.stack([product(vector) for vector in tf.unstack(vectors)])


WAYS = {
    f"{over.__name__}, {many.__name__}".replace("_", " "): (over, many)
    for over in (reverse_over_reverse, forward_over_reverse)
    for many in (in_loop, unrolled, vectorised)
}


def compare_ways(arguments: argparse.Namespace) -> None:
    import numpy as np
    import tensorflow as tf

    from hessian_tasks.problems.poisson import problem as poisson

    problem = poisson(arguments.width, num_interior=arguments.batch)
    num_params = problem.model.count_params()
    points = tf.constant(problem.terms[0].points, tf.float32)
    rng = np.random.default_rng(0)
    vectors = tf.constant(rng.standard_normal((arguments.vectors, num_params)), tf.float32)
    compiled, times, reference = {}, {}, None
    print(f"P = {num_params}, {arguments.batch} points, {arguments.vectors} vectors")
    for name, (over, many) in WAYS.items():
        function = tf.function(
            lambda x, v, over=over, many=many: many(over(problem, x), v), autograph=False
        )
        begun = time.process_time()
        compiled[name] = function.get_concrete_function(points, vectors)
        found = compiled[name](points, vectors).numpy()
        times[name] = [time.process_time() - begun]
        reference = found if reference is None else reference
        assert np.linalg.norm(found - reference) < 1e-4 * np.linalg.norm(reference), name
    for _ in range(arguments.repeats):
        for name, function in compiled.items():
            begun = time.process_time()
            function(points, vectors)
            times[name].append(time.process_time() - begun)
    for name, (first, *others) in times.items():
        each = statistics.median(others) / arguments.vectors
        print(f"{name:<35} first call {first:5.1f} s, {each * 1e3:8.2f} ms a vector")


def measure_cost(arguments: argparse.Namespace) -> None:
    import numpy as np

    from hessian_tasks.autodiff.products import ShardProducts, cut_points
    from hessian_tasks.problems.poisson import problem as poisson
    from hessian_tasks.process import peak_bytes, reset_peak, resident_bytes
    from pipeline.estimates._products import threaded_product

    problem = poisson(arguments.width)
    products = ShardProducts(problem)
    idle = resident_bytes()
    reset_peak()
    shards = cut_points(problem, max_batch=arguments.batch, num_shards=2 * arguments.threads)
    product = threaded_product(products, shards, arguments.threads)
    shape = (products.num_params, arguments.vectors)
    vectors = np.random.default_rng(0).standard_normal(shape)
    seconds, spent = [], []
    for _ in range(1 + arguments.repeats):
        begun, used = time.perf_counter(), time.process_time()
        product(vectors)
        seconds.append(time.perf_counter() - begun)
        spent.append(time.process_time() - used)
    each, thread = (statistics.median(s[1:]) / arguments.vectors for s in (seconds, spent))
    above = (peak_bytes() - idle) / 2**20
    print(
        f"P = {products.num_params}, batch {shards[0].batch}, {arguments.vectors} vectors, "
        f"{arguments.threads} threads: first call {seconds[0]:.1f} s, {each * 1e3:.1f} ms a "
        f"vector, {thread * 1e3:.1f} ms of processor time, memory {above:.0f} MiB above idle"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=["ways", "cost"])
    parser.add_argument("--width", type=int, default=50)
    parser.add_argument("--vectors", type=int, default=8)
    parser.add_argument("--batch", type=int, default=250)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--intra", type=int, default=1, help="threads of one operation")
    arguments = parser.parse_args()
    from hessian_tasks.process import configure_tensorflow

    configure_tensorflow()
    import tensorflow as tf

    tf.config.threading.set_intra_op_parallelism_threads(arguments.intra)
    {"ways": compare_ways, "cost": measure_cost}[arguments.what](arguments)


if __name__ == "__main__":
    main()
