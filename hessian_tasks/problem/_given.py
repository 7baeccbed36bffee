"""Names and numbers as the user gives them, checked."""

from __future__ import annotations

import math
import numbers
import re
import reprlib
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import numpy as np
import numpy.typing as npt

from hessian_tasks.errors import ProblemError

__all__ = ["check_callable", "check_name", "finite", "named_arrays", "real"]

_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]*")


def named_arrays(term: str, data: Mapping[str, npt.ArrayLike]) -> dict[str, npt.NDArray[Any]]:
    """A term's data as arrays.

    Raises:
        ProblemError: If a name is no identifier, or they are no finite numbers.
    """
    if not isinstance(data, Mapping):
        raise ProblemError(
            f"The data of term {term!r} are a {type(data).__name__}; expected arrays by name: "
            '{"y": Y}.'
        )
    for key in data:
        check_name(key, f"array of term {term!r}")
    return {key: finite(array, f"{key!r} of term {term!r}") for key, array in data.items()}


def real(value: Any, name: str) -> float:
    """A term's weight as a number of Python's, from that or from an array or tensor without axes.

    Raises:
        ProblemError: If it is no finite number.
    """
    weight = math.nan
    # Tensors without a value, numbers that are too large: whatever an object says to this.
    with suppress(Exception):
        array = np.asarray(value)
        real = array.dtype.kind in "iuf" or isinstance(value, numbers.Real)
        if array.shape == () and real and not isinstance(value, bool):
            weight = float(value)
    if not math.isfinite(weight):
        raise ProblemError(
            f"The weight of term {name!r} is {reprlib.repr(value)}; expected one finite number."
        )
    return weight


def check_callable(function: Any, kind: str, term: str) -> None:
    """Refuse what cannot be called, before anything is computed.

    Raises:
        ProblemError: Saying what it is.
    """
    if not callable(function):
        raise ProblemError(
            f"The {kind} of term {term!r} is a {type(function).__name__}; expected a function."
        )


def check_name(name: str, what: str) -> None:
    """Refuse what cannot be an identifier.

    Raises:
        ProblemError: Saying of what it is the name.
    """
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise ProblemError(
            f"{name!r} cannot name the {what}: expected letters, digits and underscores, "
            "starting with a letter."
        )


def finite(values: npt.ArrayLike, what: str) -> npt.NDArray[Any]:
    """Values as an array of real, finite numbers.

    Raises:
        ProblemError: Saying of what they are the values.
    """
    try:
        array = np.asarray(values)
    except ValueError as error:
        raise ProblemError(f"Expected an array for {what}: {error}") from error
    if array.dtype.kind == "c":
        raise ProblemError(
            f"Expected real numbers in {what}, got dtype {array.dtype}. Give real and imaginary "
            "part as two columns, or as two arrays: Z.real, Z.imag."
        )
    if array.dtype.kind not in "biuf":
        advice = " Give text as integers." if array.dtype.kind in "OSUT" else ""
        raise ProblemError(f"Expected numbers in {what}, got dtype {array.dtype}.{advice}")
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise ProblemError(f"There are NaN or infinite values in {what}.")
    return array
