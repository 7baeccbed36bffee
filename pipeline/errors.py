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
    └── StoppedError
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
    "StoppedError",
    "StoreError",
    "StoreMismatchError",
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


class StoppedError(HessianError):
    """The run was asked to stop; what is stored stays, and the run can resume."""
