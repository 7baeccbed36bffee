"""Memory of the rows of a convolutional network's Hessian, with images in batches and all at once.

Each way runs in a process of its own. A row of every layer is computed by autodiff, from the last
layer to the first, and the resident memory noted: each layer has a graph of its own.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from typing import Any


def make_problem(num_images: int, depth: int, batched: bool) -> Any:
    import keras
    import numpy as np
    import tensorflow as tf

    from hessian_tasks import LossTerm, Problem

    keras.utils.set_random_seed(0)
    layers = [keras.layers.Conv2D(8, 3, activation="tanh") for _ in range(depth)]
    layers[0].strides = (2, 2)
    head = [keras.layers.GlobalAveragePooling2D(), keras.layers.Dense(10)]
    model = keras.Sequential([keras.Input((32, 32, 3)), *layers, *head])

    def loss(model: Any, x: Any, y: Any) -> Any:
        return tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(y, model(x)))

    rng = np.random.default_rng(0)
    images = rng.random((num_images, 32, 32, 3), np.float32)
    data = {"x": images, "y": rng.integers(0, 10, num_images)}
    return Problem(model, [LossTerm("fit", loss, data=data, batched=batched)])


def measure(num_images: int, depth: int, batched: bool) -> dict[str, Any]:
    """Compute the rows in this process."""
    from hessian_tasks.process import configure_tensorflow, peak_bytes, reset_peak, resident_bytes

    configure_tensorflow()
    from hessian_tasks import BlockRow
    from hessian_tasks.autodiff import AutodiffEngine

    idle = resident_bytes()
    problem = make_problem(num_images, depth, batched)
    with_data = resident_bytes()
    begun = time.perf_counter()
    engine = AutodiffEngine(problem)
    reset_peak()
    after = []
    starts = {v.layer: v.offset for v in reversed(engine.layout.variables)}
    for start in starts.values():
        engine.block_row(BlockRow(0, start, start + 1))
        after.append(resident_bytes())
    return {
        "data": with_data - idle,
        "after": [resident - with_data for resident in after],
        "peak": peak_bytes() - with_data,
        "seconds": time.perf_counter() - begun,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=4096)
    parser.add_argument("--depth", type=int, default=6)
    parser.add_argument("--one", choices=["batched", "whole"], help="the way of this process")
    arguments = parser.parse_args()
    if arguments.one:
        found = measure(arguments.images, arguments.depth, arguments.one == "batched")
        print(json.dumps(found))
        return
    print("MiB above the process with its data; graphs are those of one layer after the other")
    for way in ("whole", "batched"):
        command = [sys.executable, __file__, "--one", way, "--images", str(arguments.images)]
        command += ["--depth", str(arguments.depth)]
        output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        r = json.loads(output.splitlines()[-1])
        graphs = " ".join(f"{resident / 2**20:5.0f}" for resident in r["after"])
        print(
            f"{way:>8}  data {r['data'] / 2**20:3.0f}  after each graph {graphs}  "
            f"peak {r['peak'] / 2**20:5.0f}  {r['seconds']:5.1f} s",
            flush=True,
        )


if __name__ == "__main__":
    main()
