"""What a network's config may name: Keras' own parts, and those of the problem's own network.

A config is read from a store, and Keras builds whatever it names. Classes and functions that are
registered with Keras are code of the problem's, or of some library that was imported, and they may
do anything with their arguments. So a store may name those alone that the problem's own network is
made of, with no other text among their arguments than it has there: numbers may differ, as of
another width, and files, addresses and names may not.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import keras

from hessian_tasks.errors import ModelError

__all__ = ["check_config", "texts_of"]

_MODULES = re.compile(
    r"builtins|keras|keras\.(activations|constraints|dtype_policies|initializers|layers|models|ops"
    r"|regularizers)|keras\.src\.(layers|models|ops)\..*"
)
_UNSAFE = {
    *("Lambda", "TFSMLayer", "TorchModuleWrapper", "JaxLayer", "FlaxLayer"),  # hold or load code
    *("StringLookup", "IntegerLookup", "TextVectorization"),  # read files
}


def texts_of(model: Any) -> frozenset[str]:
    """All text in the config of a network; none if it has no config.

    Example:
        >>> model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(3, "tanh")])
        >>> "tanh" in texts_of(model), "relu" in texts_of(model)
        (True, False)
    """
    # A network says what it is made of by code of its own, which may raise anything.
    try:
        return frozenset(_texts(keras.saving.serialize_keras_object(model), nested=True))
    except Exception:
        return frozenset()


def check_config(config: Any, own: frozenset[str] | None = None) -> None:
    """Refuse what networks are not made of, wherever it is nested.

    Args:
        config: The config, or a part of it, as JSON data.
        own: All text in the config of the problem's own network, if registered classes and
            functions are to be those of it.

    Raises:
        ModelError: Naming the class.
    """
    if isinstance(config, str) and own is not None and config not in own and _registered(config):
        raise _foreign(config)
    if isinstance(config, list):
        for item in config:
            check_config(item, own)
    if not isinstance(config, dict):
        return
    if _is_part(config):
        _check_part(config, own)
    for item in config.values():
        check_config(item, own)


def _check_part(part: dict[str, Any], own: frozenset[str] | None) -> None:
    name, module = part["class_name"], part.get("module")
    # As Keras looks it up.
    function = name == "function"
    sought = part["config"] if function else part.get("registered_name", name)
    if not _registered(sought):
        known = module is None or _MODULES.fullmatch(str(module)) is not None
        if not known or name in _UNSAFE:
            raise ModelError(f"The network's config asks for {module}.{name}, which is not built.")
    elif own is not None:
        arguments = {} if function else {**(part["config"] or {}), "name": None}
        for text in [sought, *_texts(arguments)]:
            if text not in own:
                raise _foreign(sought, text)


def _is_part(config: dict[str, Any]) -> bool:
    return "config" in config and config.get("class_name") is not None


def _registered(name: Any) -> bool:
    return isinstance(name, str) and keras.saving.get_registered_object(name) is not None


def _texts(config: Any, nested: bool = False) -> Iterator[str]:
    """All text, keys too, of JSON data; that of parts which are nested only if asked for."""
    if isinstance(config, str):
        yield config
    elif isinstance(config, list | tuple):
        for item in config:
            yield from _texts(item, nested)
    elif isinstance(config, dict) and (nested or not _is_part(config)):
        for key, item in config.items():
            yield key
            yield from _texts(item, nested)


def _foreign(name: str, text: str | None = None) -> ModelError:
    what = f"{name!a}" if text in (None, name) else f"{name!a} with {text[:100]!a}"
    return ModelError(
        f"The network's config asks for {what}, which the problem's own network has not. If it is "
        "yours, declare that network as the problem's."
    )
