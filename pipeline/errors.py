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

:class:`StoreWarning` is what opening a store may have to say.
"""

from hessian_tasks.errors import HessianError, ModelError, ProblemError, ReproductionError

__all__ = [
    "BlockRowError",
    "ClusterError",
    "ConfigError",
    "DoesNotFitError",
    "HessianError",
    "ModelError",
    "PlanError",
    "ProblemError",
    "ReproductionError",
    "SelfCheckError",
    "StoppedError",
    "StoreError",
    "StoreMismatchError",
    "StoreWarning",
]


class ConfigError(HessianError, ValueError):
    """A setting is unknown or has no valid value."""


class PlanError(HessianError, ValueError):
    """What was asked for cannot be planned: memory is short, or the engine does not apply."""


class DoesNotFitError(PlanError):
    """Memory or disk is too small for what was asked for."""


class StoreError(HessianError, OSError):
    """The store is missing, unreadable, not writable or damaged."""


class StoreMismatchError(StoreError):
    """The store was made from other inputs than this run's."""


class ClusterError(HessianError):
    """The scheduler or the workers are missing, lost, or not fit for the run."""


class BlockRowError(HessianError):
    """A block row could not be computed."""


class SelfCheckError(HessianError):
    """What a run has stored is not the matrix of its loss."""


class StoppedError(HessianError):
    """The run was asked to stop; what is stored stays, and the run can resume."""


class StoreWarning(UserWarning):
    """The store opens, but what it holds is known to be wrong."""
