"""Who takes part."""

from __future__ import annotations

from dataclasses import dataclass, field

__all__ = ["LIMITS", "PEERS", "Peer"]


@dataclass(frozen=True)
class Peer:
    """A peer: a function that makes its ways, and the processes it is tried in.

    Attributes:
        name: As shown.
        module: Module of this folder.
        function: ``function(case, batches)`` there.
        environments: Environment variables to try; each gets a process.
        single: Whether there is one way only, so that none has to be chosen.
        max_params: Largest P.
        reason: Why no larger.
    """

    name: str
    module: str
    function: str
    environments: tuple[dict[str, str], ...] = field(default=({},))
    single: bool = False
    max_params: int = 10**9
    reason: str = ""


# Long operations want to be split between threads, short ones to run side by side.
_TENSORFLOW = (
    {},
    {"TF_NUM_INTRAOP_THREADS": "1", "TF_NUM_INTEROP_THREADS": "2"},
)

PEERS = {
    "layered": Peer(
        "ours, layered", "ours", "layered", ({"OPENBLAS_NUM_THREADS": "1"},), single=True
    ),
    "autodiff": Peer("ours, autodiff", "ours", "autodiff", single=True),
    "tf-pfor": Peer(
        "TensorFlow tape.jacobian, pfor", "with_tensorflow", "jacobian_pfor", _TENSORFLOW
    ),
    "tf-loop": Peer(
        "TensorFlow tape.jacobian, loop", "with_tensorflow", "jacobian_loop", _TENSORFLOW
    ),
    "tf-hessians": Peer(
        "TensorFlow tf.hessians",
        "with_tensorflow",
        "hessians",
        _TENSORFLOW,
        max_params=6000,
        reason="computes all rows or none, so that it cannot be measured on some",
    ),
    "tf-eager": Peer("TensorFlow, eager tape a row", "with_tensorflow", "tape_per_row"),
    "jax-forward": Peer("JAX, forward over reverse", "with_jax", "forward_over_reverse"),
    "jax-reverse": Peer("JAX, reverse over reverse", "with_jax", "reverse_over_reverse"),
    "jax-streams": Peer("JAX, streams, linearized", "with_jax_streams", "rows"),
    "jax-layers": Peer(
        "JAX, streams, layer by layer",
        "with_jax_streams",
        "rows_of_layers",
        single=True,
        max_params=6000,
        reason="computes all rows or none, so that it cannot be measured on some",
    ),
    "jax-kronecker": Peer(
        "JAX, streams, Kronecker products",
        "with_jax_streams",
        "kronecker",
        single=True,
        max_params=25_000,
        reason="holds the matrix several times",
    ),
    "torch-forward": Peer("torch.func, forward over reverse", "with_torch", "forward_over_reverse"),
    "torch-reverse": Peer("torch.func, reverse over reverse", "with_torch", "reverse_over_reverse"),
    "curvlinops": Peer("curvlinops", "with_torch", "curvlinops"),
    "pyhessian": Peer("PyHessian", "with_torch", "pyhessian"),
}

LIMITS = {
    "numpy": Peer("NumPy matmul", "limits", "numpy_product"),
    "tensorflow": Peer("TensorFlow matmul", "limits", "tensorflow_product"),
}
