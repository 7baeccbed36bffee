"""How a problem reaches a worker: by its name, or, if it is an object of this process, as bytes."""

from __future__ import annotations

import pickle
from dataclasses import dataclass, replace

import cloudpickle

from hessian_tasks.errors import ProblemError, plain
from hessian_tasks.source import ProblemSource
from pipeline.errors import ConfigError
from pipeline.units import format_bytes

__all__ = ["SentSource", "send_source"]

# They travel with every task.
MAX_BYTES = 4 * 2**20
FILE = "Put the problem into a file that the workers see, and give path/to/problem.py:name."


@dataclass(frozen=True)
class SentSource:
    """Where a problem comes from, as it is sent; the scheduler, which reads tasks, imports nothing.

    Attributes:
        source: Without the object.
        pickled: The object, if there is no other source.
    """

    source: ProblemSource
    pickled: bytes = b""

    def receive(self) -> ProblemSource:
        """The source on a worker, which has to find the same loss and gradient by it.

        Raises:
            ProblemError: If the object cannot be made again here.
        """
        if not self.pickled:
            return self.source
        try:
            return replace(self.source, live=pickle.loads(self.pickled))
        # It runs what the object's classes say.
        except Exception as error:
            raise ProblemError(
                "The problem object cannot be made again on a worker "
                f"({type(error).__name__}: {plain(error)}). {FILE}"
            ) from error


def send_source(source: ProblemSource) -> SentSource:
    """Take the object of a source, with the functions that are defined beside it, as bytes.

    Raises:
        ConfigError: If it cannot be sent, or is too large to be.
    """
    if source.live is None:
        return SentSource(source)
    try:
        pickled = cloudpickle.dumps(source.live)
    except Exception as error:
        raise ConfigError(
            f"The problem object cannot be sent to workers ({type(error).__name__}: "
            f"{plain(error)}). {FILE}"
        ) from error
    if len(pickled) > MAX_BYTES:
        raise ConfigError(
            f"The problem object takes {format_bytes(len(pickled))}, and at most "
            f"{format_bytes(MAX_BYTES)} travel with every block row. {FILE}"
        )
    return SentSource(replace(source, live=None), pickled)
