"""The worker's process: GPUs, thread pools, arithmetic and memory.

Call :func:`configure_tensorflow` before the first TensorFlow operation.
"""

from __future__ import annotations

import ctypes
import importlib
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil

__all__ = [
    "available_cores",
    "configure_tensorflow",
    "gpu_names",
    "peak_bytes",
    "reset_peak",
    "resident_bytes",
    "running_seconds",
]

_STATUS = Path("/proc/self/status")
_CLEAR_REFS = Path("/proc/self/clear_refs")
# mallopt(3): below which size freed memory is kept, the largest that it takes, and how much of it.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_KEPT_BYTES, _KEPT_BLOCK_BYTES = 256 * 2**20, 32 * 2**20


def configure_tensorflow(num_threads: int | None = None, num_gpus: int | None = None) -> int:
    """Import TensorFlow, size its thread pools for ``num_threads`` cores, and choose its GPUs.

    A single operation of a small network is too short to be split, so operations run
    on one thread each (intra-op 1) and the cores are filled with different operations:
    TensorFlow runs several rows of a batch side by side (inter-op ``num_threads``), and
    Dask several block rows. Two intra-op threads were 1.8 times slower on
    two cores (``docs/concepts/engines.md``). TensorFloat-32 is switched off, because it keeps
    10 bits of mantissa.

    On processors block rows are then the same bytes in every process and thread, so that
    TensorFlow's own switch for determinism is left alone; on GPUs that has not been tried.

    Args:
        num_threads: Number of cores to fill; all that the process may run on by default.
        num_gpus: Number of GPUs to use, the first ones; by default all that the process sees.

    Returns:
        Number of block rows to compute at once: ``num_threads``, or 1 where TensorFlow had
        already been started with wider operations, as in a notebook.
    """
    num_threads = num_threads or available_cores()
    _keep_freed_memory()
    tf = _import_tensorflow()
    _leave_graphs_alone(tf)
    tf.config.experimental.enable_tensor_float_32_execution(False)
    try:
        gpus = _list_gpus(tf)[:num_gpus]
        if num_gpus is not None:
            tf.config.set_visible_devices(gpus, "GPU")
        for gpu in gpus:
            # Or the first process to start takes all of its memory.
            tf.config.experimental.set_memory_growth(gpu, True)
        tf.config.threading.set_intra_op_parallelism_threads(1)
        tf.config.threading.set_inter_op_parallelism_threads(num_threads)
    except RuntimeError:
        if tf.config.threading.get_intra_op_parallelism_threads() != 1:
            return 1
    return num_threads


def _keep_freed_memory() -> None:
    """Have temporaries use memory again that others have freed, where the C library is glibc.

    That is its default, but not on Dask's workers, which are started with another: there every
    temporary above 128 KiB is given back to the kernel at once and the next one cleared anew, which
    took 15 % of the time of block rows.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, _KEPT_BLOCK_BYTES)
        mallopt(_M_TRIM_THRESHOLD, _KEPT_BYTES)


def _leave_graphs_alone(tf: Any) -> None:
    """Switch off what TensorFlow's graph optimiser does to sums of large tensors, and to layers.

    It has the parts of sums added to a variable of the name of the sum, which calls of one graph
    from two threads share: they end with AlreadyExistsError. And it joins a product of matrices
    with a normalisation and elu to an operation that there is not in float64. There is no public
    way to the first of these options.
    """
    context = importlib.import_module("tensorflow.python.eager.context").context()
    config = tf.compat.v1.ConfigProto()
    if context._config is not None:
        config.CopyFrom(context._config)
    rewriting = config.graph_options.rewrite_options
    rewriting.memory_optimization = rewriting.NO_MEM_OPT
    rewriting.remapping = rewriting.OFF
    context._config = config
    # Those that this thread has made already are made anew.
    context.function_call_options = None


def gpu_names() -> list[str]:
    """TensorFlow's names of the GPUs that this process computes on."""
    return [str(gpu.name) for gpu in _import_tensorflow().config.list_logical_devices("GPU")]


def _import_tensorflow() -> Any:
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    with _quiet():
        return importlib.import_module("tensorflow")


def _list_gpus(tf: Any) -> list[Any]:
    with _quiet():
        return list(tf.config.list_physical_devices("GPU"))


@contextmanager
def _quiet() -> Iterator[None]:
    """Hold stderr back, and show it if something fails.

    When it is imported, and when it looks for GPUs, TensorFlow reports there, whatever its log
    level, that it finds none.
    """
    sys.stderr.flush()
    stderr = os.dup(2)
    with tempfile.TemporaryFile() as held:
        os.dup2(held.fileno(), 2)
        try:
            yield
        except Exception:
            held.seek(0)
            os.write(stderr, held.read())
            raise
        finally:
            os.dup2(stderr, 2)
            os.close(stderr)


def available_cores() -> int:
    """Cores that this process may run on."""
    # Linux has it; elsewhere stores are read, by all cores.
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def resident_bytes() -> int:
    """Resident memory of this process now, in bytes."""
    return int(psutil.Process().memory_info().rss)


def running_seconds() -> float:
    """Time since this process was started."""
    return time.time() - psutil.Process().create_time()


def reset_peak() -> None:
    """Start measuring :func:`peak_bytes` anew, where the kernel allows it."""
    try:
        _CLEAR_REFS.write_text("5")
    except OSError:
        # Some containers forbid it. The peak then is that of the whole process,
        # an upper bound.
        return


def peak_bytes() -> int:
    """Largest resident memory since :func:`reset_peak`, in bytes."""
    for line in _STATUS.read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    import resource  # not on Windows, where stores are read

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
