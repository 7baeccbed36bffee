"""Packages that not all installations have."""

from __future__ import annotations

import importlib
from typing import Any

from pipeline.errors import ConfigError

__all__ = ["require"]


def require(module: str, extra: str = "clusters") -> Any:
    """Import a module of a package that not all installations have.

    Args:
        module: Its name.
        extra: Which extra of this package brings it.

    Raises:
        ConfigError: Saying how to install it.

    Example:
        >>> require("no_such_package", "kubernetes")
        Traceback (most recent call last):
        ...
        pipeline.errors.ConfigError: This profile needs no-such-package. Install it with: \
pip install 'hessian-pipeline[kubernetes]'
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        package = module.partition(".")[0].replace("_", "-")
        raise ConfigError(
            f"This profile needs {package}. Install it with: "
            f"pip install 'hessian-pipeline[{extra}]'"
        ) from error
