"""Ways to differentiate a gradient: which one fills the rows of a Hessian fastest?

Compared on the Poisson problem, each for the same rows of the first layer, in one process
with the order interleaved: reverse over reverse and forward over reverse, one row after the
other in a graph loop or vectorised over rows, with and without XLA.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

ZERO = "zero"  # tf.UnconnectedGradients.ZERO


def _total(problem: Any) -> Any:
    import tensorflow as tf

    from hessian_tasks.loss import term_loss

    return tf.add_n([term_loss(problem, term) for term in problem.terms])


def reverse_over_reverse(problem: Any, variables: list[Any], loop: Callable[..., Any]) -> Any:
    import tensorflow as tf

    from hessian_tasks.loss import flatten, gradient

    def rows(indices: Any) -> Any:
        with tf.GradientTape(persistent=True) as tape:
            grad = gradient(lambda: _total(problem), variables)
        size = tf.size(grad)

        def row(index: Any) -> Any:
            one_hot = tf.one_hot(index, size, dtype=grad.dtype)
            pulled = tape.gradient(
                grad, variables, output_gradients=one_hot, unconnected_gradients=ZERO
            )
            return flatten(pulled)

        return loop(row, indices, grad.dtype)

    return rows


def forward_over_reverse(problem: Any, variables: list[Any], loop: Callable[..., Any]) -> Any:
    import tensorflow as tf

    from hessian_tasks.loss import flatten

    sizes = [int(tf.size(v)) for v in variables]

    def rows(indices: Any) -> Any:
        def row(index: Any) -> Any:
            one_hot = tf.one_hot(index, sum(sizes), dtype=variables[0].dtype)
            pairs = zip(tf.split(one_hot, sizes), variables, strict=True)
            tangents = [tf.reshape(part, v.shape) for part, v in pairs]
            with tf.autodiff.ForwardAccumulator(variables, tangents) as accumulator:
                with tf.GradientTape() as tape:
                    loss = _total(problem)
                grads = tape.gradient(loss, variables, unconnected_gradients=ZERO)
            return flatten(accumulator.jvp(grads, unconnected_gradients=ZERO))

        return loop(row, indices, variables[0].dtype)

    return rows


def graph_loop(row: Callable[[Any], Any], indices: Any, dtype: Any) -> Any:
    import tensorflow as tf

    return tf.map_fn(row, indices, fn_output_signature=dtype)


def vectorised(row: Callable[[Any], Any], indices: Any, dtype: Any) -> Any:
    import tensorflow as tf

    return tf.vectorized_map(row, indices, fallback_to_while_loop=False)


WAYS = {
    "reverse over reverse, loop": (reverse_over_reverse, graph_loop),
    "reverse over reverse, vectorised": (reverse_over_reverse, vectorised),
    "forward over reverse, loop": (forward_over_reverse, graph_loop),
    "forward over reverse, vectorised": (forward_over_reverse, vectorised),
}


def _engine_suffix(problem: Any, num_rows: int) -> float:
    """Seconds a row of the engine, averaged over all rows of the matrix."""
    from hessian_tasks.autodiff import AutodiffEngine
    from hessian_tasks.spec import BlockRow

    engine = AutodiffEngine(problem)
    seconds = 0.0
    for variable in engine.layout.variables:
        stop = min(variable.stop, variable.offset + num_rows)
        row = BlockRow(0, variable.offset, stop)
        engine.block_row(row)
        begun = time.perf_counter()
        engine.block_row(row)
        seconds += (time.perf_counter() - begun) / row.num_rows * variable.size
    return seconds


def seconds_of_call(function: Any, indices: Any, num_threads: int) -> float:
    """Seconds a call when ``num_threads`` threads each make one."""
    begun = time.perf_counter()
    with ThreadPoolExecutor(num_threads) as pool:
        list(pool.map(lambda _: function(indices).numpy(), range(num_threads)))
    return (time.perf_counter() - begun) / num_threads


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--width", type=int, default=50)
    parser.add_argument("--rows", type=int, default=32)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--intra", type=int, default=1, help="threads of one operation")
    parser.add_argument("--threads", type=int, default=1, help="calls at once")
    arguments = parser.parse_args()
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
    import numpy as np
    import tensorflow as tf

    tf.config.threading.set_intra_op_parallelism_threads(arguments.intra)
    tf.config.threading.set_inter_op_parallelism_threads(os.cpu_count())

    from hessian_tasks.networks.models import trainable_variables
    from hessian_tasks.problems.poisson import problem as poisson

    problem = poisson(width=arguments.width)
    variables = trainable_variables(problem.model)
    num_params = sum(int(tf.size(v)) for v in variables)
    indices = tf.range(arguments.rows)
    compiled, first, times = {}, {}, {}
    reference = None
    for name, (make, loop) in WAYS.items():
        for xla in (False, True):
            label = f"{name}, {'XLA' if xla else 'graph'}"
            function = tf.function(make(problem, variables, loop), autograph=False, jit_compile=xla)
            begun = time.perf_counter()
            try:
                rows = function(indices).numpy()
            except Exception as error:
                print(f"{label:<45} fails: {type(error).__name__}")
                continue
            first[label] = time.perf_counter() - begun
            reference = rows if reference is None else reference
            difference = np.abs(rows - reference).max() / np.abs(reference).max()
            assert difference < 1e-5, (label, difference)
            compiled[label], times[label] = function, []
    for _ in range(arguments.repeats):
        for label, function in compiled.items():
            times[label].append(seconds_of_call(function, indices, arguments.threads))
    print(f"P = {num_params}, {arguments.rows} rows of the first layer; whole matrix extrapolated")
    for label, seconds in times.items():
        median = statistics.median(seconds)
        print(
            f"{label:<45} first call {first[label]:5.1f} s, {median / arguments.rows * 1e3:6.2f} "
            f"ms/row ({min(seconds) / arguments.rows * 1e3:.2f} best), "
            f"{median / arguments.rows * num_params:6.1f} s"
        )
    print(f"{'the engine, all layers':<45} {_engine_suffix(problem, arguments.rows):38.1f} s")


if __name__ == "__main__":
    main()
