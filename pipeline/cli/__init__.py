"""The command ``hessian``: parse, call the library, print, exit code.

- :mod:`~pipeline.cli._runs`: what computes, or says how far computing is;
- :mod:`~pipeline.cli._stores`: what is asked of a store;
- :mod:`~pipeline.cli._parts`: what is asked of the parts of a Hessian and of its steps;
- :mod:`~pipeline.cli._reports`: pages on a store, and on several;
- :mod:`~pipeline.cli._parameters`: the arguments and flags that commands share.

TensorFlow and Zarr are imported inside the commands that need them, so that help, and
mistakes in flags and files, take no seconds.
"""

from __future__ import annotations

import os
import sys

try:
    # Importing them adds their commands, in the order in which help lists them.
    # isort: off
    from pipeline.cli import _runs, _stores, _parts, _inverse, _reports  # noqa: F401

    # isort: on
    from pipeline.cli._app import (
        EXIT_ERROR,
        EXIT_STOPPED,
        EXIT_USAGE,
        app,
        escaped_logs,
        print_warnings,
        say,
    )
    from pipeline.errors import ConfigError, HessianError, StoppedError
except KeyboardInterrupt:  # it takes a second, in which people change their minds
    sys.stderr.write("hessian: stopped by Ctrl-C before anything was begun\n")
    sys.exit(3)

__all__ = ["main"]


def main() -> None:
    """Run the command line; what a user can cause becomes one message and an exit code."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    try:
        with print_warnings(), escaped_logs():
            app()
    except HessianError as error:
        say(f"hessian: {error}", err=True)
        codes: dict[type[HessianError], int] = {StoppedError: EXIT_STOPPED, ConfigError: EXIT_USAGE}
        sys.exit(codes.get(type(error), EXIT_ERROR))
