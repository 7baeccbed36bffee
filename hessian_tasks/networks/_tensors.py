"""Tensors by name, from files of other libraries; no code and no pickle of theirs is run.

Sizes are bounded before values are read. A ``.pt`` file is read by PyTorch's own restricted
reader, which makes tensors and containers of them alone.
"""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from hessian_tasks.errors import ModelError, plain
from hessian_tasks.networks._bounds import check_size

__all__ = ["Tensors", "read_tensors", "read_theta"]

# Where checkpoints keep the weights, beside the optimizer: DeepXDE, Lightning, and others.
WRAPPERS = ("model_state_dict", "state_dict", "model")
# Before it the restricted reader could be made to run code (CVE-2025-32434).
OLDEST_TORCH = (2, 6)
REAL = ("float32", "float64")
SAFETENSORS = {"F32": "float32", "F64": "float64"}


@dataclass(frozen=True)
class Tensors:
    """What a file holds.

    Attributes:
        arrays: The tensors, float32 or float64, by name.
        ordered: Whether their order in the file is that in which the network defines them.
    """

    arrays: Mapping[str, npt.NDArray[Any]]
    ordered: bool = False


def read_tensors(path: Path, num_weights: int) -> Tensors:
    """Read an ``.npz``, ``.safetensors``, ``.pt`` or ``.pth`` file.

    Args:
        path: The file.
        num_weights: How many weights the problem has that they are for.

    Raises:
        ModelError: If it cannot be read, would take much more memory than weights do, or holds
            something else than tensors of float32 and float64.
    """
    check_size(path, num_weights)
    if path.suffix == ".npz":
        found = Tensors(_read_npz(path))
    elif path.suffix == ".safetensors":
        found = Tensors(_read_safetensors(path))
    else:
        found = Tensors(_read_torch(path), ordered=True)
    _check_dtypes(path, {name: array.dtype.name for name, array in found.arrays.items()})
    return found


def read_theta(path: Path, size: int) -> npt.NDArray[Any]:
    """Read the parameter vector ``[P]`` of an ``.npy`` file.

    Args:
        path: The file.
        size: P.

    Raises:
        ModelError: If it holds something else; that is seen before values are read.
    """
    try:
        # Refuses objects, which would be pickled.
        theta = np.lib.format.open_memmap(path, mode="r")
    except (OSError, ValueError, EOFError) as error:
        raise _unreadable(path, error) from error
    if theta.shape != (size,):
        raise ModelError(
            f"Weights file {path} holds an array {list(theta.shape)}; expected θ, [{size}]: the "
            "trainable weights in their order, then the parameters, as a store's theta has them."
        )
    _check_dtypes(path, {"theta": theta.dtype.name})
    return np.array(theta)


def _read_npz(path: Path) -> dict[str, npt.NDArray[Any]]:
    try:
        with np.load(path, allow_pickle=False) as archive:
            return {name: archive[name] for name in archive.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise _unreadable(path, error) from error


def _read_safetensors(path: Path) -> dict[str, npt.NDArray[Any]]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "numpy") as file:
            names = list(file.keys())
            dtypes = {name: str(file.get_slice(name).get_dtype()) for name in names}
            _check_dtypes(path, {name: SAFETENSORS.get(d, d) for name, d in dtypes.items()})
            return {name: file.get_tensor(name) for name in names}
    except (SafetensorError, OSError) as error:
        raise _unreadable(path, error) from error


def _read_torch(path: Path) -> dict[str, npt.NDArray[Any]]:
    torch = _torch(path)
    try:
        held = torch.load(path, weights_only=True, map_location="cpu")
    # PyTorch raises whatever its readers do: of pickle, of archives, of storage.
    except Exception as error:
        raise ModelError(
            f"Weights file {path} cannot be read as tensors alone ({type(error).__name__}): it is "
            "damaged, or holds objects, whose code is not run. Save the values: "
            "torch.save(model.state_dict(), path), or safetensors."
        ) from error
    state = _state(path, held)
    kinds = {name: _kind(torch, value) for name, value in state.items()}
    if odd := [f"{name} ({kind})" for name, kind in kinds.items() if kind not in REAL]:
        raise ModelError(
            f"Weights file {path} holds what is no dense tensor of float32 or float64: "
            f"{_some(odd)}. Save model.state_dict() of a network of such weights."
        )
    return {str(name): value.detach().numpy() for name, value in state.items()}


def _kind(torch: Any, value: Any) -> str:
    """The dtype of a dense tensor with values, or what else it is."""
    if not isinstance(value, torch.Tensor):
        return type(value).__name__
    if value.layout != torch.strided or value.is_meta:
        return "meta" if value.is_meta else str(value.layout)
    return str(value.dtype).removeprefix("torch.")


def _torch(path: Path) -> Any:
    try:
        import torch
    except ImportError as error:
        raise ModelError(
            f"Reading {path} takes PyTorch, which is not installed here ({plain(error)}). Install "
            "it, or write the file where it is: safetensors.torch.save_file(model.state_dict(), "
            "'net.safetensors')."
        ) from error
    version = tuple(int(part) for part in torch.__version__.split(".")[:2])
    if version < OLDEST_TORCH:
        raise ModelError(
            f"PyTorch {torch.__version__} may run code of the files that it reads. Install 2.6 or "
            f"newer, or write {path} as safetensors."
        )
    return torch


def _state(path: Path, held: Any) -> Mapping[Any, Any]:
    """The state dictionary, alone or in a checkpoint."""
    inner = [held[key] for key in WRAPPERS if key in held] if isinstance(held, Mapping) else []
    inner = [entry for entry in inner if isinstance(entry, Mapping)]
    if len(inner) > 1:
        raise ModelError(
            f"Weights file {path} has several dictionaries of weights. Save one: "
            "torch.save(model.state_dict(), path)."
        )
    state = inner[0] if inner else held
    if not isinstance(state, Mapping) or not state:
        raise ModelError(
            f"Weights file {path} holds a {type(held).__name__}, and no tensors by name. Save "
            "them: torch.save(model.state_dict(), path)."
        )
    return state


def _check_dtypes(path: Path, dtypes: Mapping[str, str]) -> None:
    odd = [f"{name} ({dtype})" for name, dtype in dtypes.items() if dtype not in REAL]
    if odd:
        raise ModelError(
            f"Weights file {path} has tensors that are neither float32 nor float64: {_some(odd)}."
        )


def _some(names: list[str]) -> str:
    shown = ", ".join(name[:80] for name in names[:8])
    return shown + (f" and {len(names) - 8} more" if len(names) > 8 else "")


def _unreadable(path: Path, error: Exception) -> ModelError:
    return ModelError(f"Weights file {path} cannot be read ({plain(error)[:300]}).")
