"""Every error that a user can cause, as one tree.

::

    HessianError                    (hessian_tasks.errors)
    ├── ProblemError, ModelError, ReproductionError
    ├── ConfigError                 also a ValueError
    ├── PlanError                   also a ValueError
    │   └── DoesNotFitError
    ├── StoreError                  also an OSError
    │   └── StoreMismatchError
    ├── ClusterError
    ├── BlockRowError
    ├── SelfCheckError
    └── StoppedError

:class:`StoreWarning` is what opening a store may have to say, :class:`ProblemWarning` and
:class:`WeightsWarning` what a problem and a file of weights may.
"""

from hessian_tasks.errors import (
    HessianError,
    ModelError,
    ProblemError,
    ProblemWarning,
    ReproductionError,
    WeightsWarning,
)

__all__ = [
    "BlockRowError",
    "ClusterError",
    "ConfigError",
    "DoesNotFitError",
    "HessianError",
    "ModelError",
    "PlanError",
    "ProblemError",
    "ProblemWarning",
    "ReproductionError",
    "SelfCheckError",
    "StoppedError",
    "StoreError",
    "StoreMismatchError",
    "StoreWarning",
    "WeightsWarning",
]


class ConfigError(HessianError, ValueError):
    """A setting is unknown or has no valid value; also a :class:`ValueError`.

    Example:
        >>> from pipeline import load_settings
        >>> load_settings(assignments=["tiles=64"])
        Traceback (most recent call last):
            ...
        pipeline.errors.ConfigError: --set tiles: unknown key 'tiles'; the keys are problem, \
options, weights, take_network, only, blocks, store, profile, threads, memory, tile, engine, \
with_ggn, per_term, profiles.
    """


class PlanError(HessianError, ValueError):
    """What was asked for cannot be planned: memory is short, or the engine does not apply.

    Also a :class:`ValueError`.

    Example:
        >>> import tempfile
        >>> from pipeline import PlanError, RunOptions, compute_hessian
        >>> with tempfile.TemporaryDirectory() as directory:
        ...     try:
        ...         compute_hessian("regression", f"{directory}/h.zarr", options=RunOptions(tile=0))
        ...     except PlanError as error:
        ...         print(error)
        The tile side is 0; expected between 1 and the number of parameters, 5251.
    """


class DoesNotFitError(PlanError):
    """Memory or disk is too small for what was asked for.

    Attributes:
        needed_bytes: Memory that would do, where that is known.

    Example:
        >>> import tempfile
        >>> from pipeline import DoesNotFitError, RunOptions, compute_hessian
        >>> options = RunOptions(allowed_bytes=2**20)
        >>> with tempfile.TemporaryDirectory() as directory:
        ...     try:
        ...         compute_hessian("regression", f"{directory}/h.zarr", options=options)
        ...     except DoesNotFitError:
        ...         print("give it more memory")
        give it more memory
    """

    def __init__(self, message: str, *, needed_bytes: int | None = None) -> None:
        """As other errors, with the memory that would do."""
        super().__init__(message)
        self.needed_bytes = needed_bytes


class StoreError(HessianError, OSError):
    """The store is missing, unreadable, not writable or damaged; also an :class:`OSError`.

    Example:
        >>> from pipeline import open_store
        >>> open_store("nowhere.zarr")
        Traceback (most recent call last):
            ...
        pipeline.errors.StoreError: There is no Hessian store at nowhere.zarr. Start one with: \
hessian run
    """


class StoreMismatchError(StoreError):
    """The store was made from other inputs than this run's, or holds another matrix.

    Example:
        >>> import tempfile
        >>> from pipeline import StoreMismatchError, compute_hessian, load_problem
        >>> small = {"width": 2, "depth": 1, "num_samples": 5}
        >>> with tempfile.TemporaryDirectory() as directory:
        ...     _ = compute_hessian(load_problem("regression", **small), f"{directory}/h.zarr")
        ...     other = load_problem("regression", **small, seed=1)
        ...     try:
        ...         compute_hessian(other, f"{directory}/h.zarr")
        ...     except StoreMismatchError:
        ...         print("another problem has that store")
        another problem has that store
    """


class ClusterError(HessianError):
    """The scheduler or the workers are missing, lost, or not fit for the run.

    Example:
        >>> from pipeline import ClusterError, connect, load_settings
        >>> given = "profiles.there={kind: address, address: tcp://127.0.0.1:9, wait: 0.2}"
        >>> try:
        ...     with connect(load_settings(assignments=[given]).profiles["there"]) as workers:
        ...         pass
        ... except ClusterError:
        ...     print("no scheduler")
        no scheduler
    """


class BlockRowError(HessianError):
    """A block row could not be computed; the message names it, and what to look for.

    Example:
        >>> import tempfile
        >>> import tensorflow as tf
        >>> from pipeline import BlockRowError, LossTerm, Problem, compute_hessian, mlp
        >>> term = LossTerm("kink", lambda model, a: tf.abs(a) ** 1.5)  # no second derivative at 0
        >>> problem = Problem(mlp(1, width=1, depth=1), [term], parameters={"a": 0.0})
        >>> with tempfile.TemporaryDirectory() as directory:
        ...     try:
        ...         compute_hessian(problem, f"{directory}/h.zarr")
        ...     except BlockRowError as error:
        ...         print(str(error).partition(" of")[0])
        Block row 0 (rows 0 to 4)
    """


class SelfCheckError(HessianError):
    """What a run has stored is not the matrix of its loss: the store is marked, and not to be used.

    Example:
        >>> import tempfile
        >>> from pipeline import SelfCheckError, compute_hessian, load_problem
        >>> problem = load_problem("regression", width=2, depth=1, num_samples=5)
        >>> with tempfile.TemporaryDirectory() as directory:
        ...     try:
        ...         hessian = compute_hessian(problem, f"{directory}/h.zarr")
        ...     except SelfCheckError as error:
        ...         print(error)
        ...     else:
        ...         print("rows of it are those that automatic differentiation gives")
        rows of it are those that automatic differentiation gives
    """


class StoppedError(HessianError):
    """The run was asked to stop; what is stored stays, and the run can resume.

    Example:
        >>> import tempfile
        >>> from pipeline import StoppedError, compute_hessian, load_problem
        >>> problem = load_problem("regression", width=2, depth=1, num_samples=5)
        >>> def stop_at_once(event):
        ...     raise StoppedError("no time today")
        >>> with tempfile.TemporaryDirectory() as directory:
        ...     try:
        ...         compute_hessian(problem, f"{directory}/h.zarr", callbacks=[stop_at_once])
        ...     except StoppedError as error:
        ...         print(error)
        no time today
    """


class StoreWarning(UserWarning):
    """What a store holds is known to be wrong, or nothing keeps two runs from writing into it.

    Example:
        >>> import tempfile, warnings
        >>> from pipeline import StoreWarning, compute_hessian, load_problem
        >>> problem = load_problem("regression", width=2, depth=1, num_samples=5)
        >>> with tempfile.TemporaryDirectory() as directory, warnings.catch_warnings():
        ...     warnings.simplefilter("error", StoreWarning)  # an error, where it must not happen
        ...     int(compute_hessian(problem, f"{directory}/h.zarr").theta.size)
        7
    """
