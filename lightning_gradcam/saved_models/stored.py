"""Converts arguments from a file according to a constructor's annotations, calling only checked classes."""

from __future__ import annotations

import os
import reprlib
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import is_dataclass
from enum import Enum
from pathlib import Path, PurePath
from types import SimpleNamespace, UnionType
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from lightning_gradcam.errors import RefusedError
from lightning_gradcam.saved_models.config import section
from lightning_gradcam.saved_models.construction import build, named_class
from lightning_gradcam.saved_models.file import Recipe

_SCALARS = (bool, int, float, str, bytes)


def stored_arguments(
    function: Callable[..., Any], values: Mapping[str, Any], argument: str, *, names: bool
) -> dict[str, Any]:
    """Converts plain values from a checkpoint or YAML file according to a constructor's annotations.

    Unlike jsonargparse, this does not import functions or parse YAML in strings. It instantiates a class named in the
    file only if the annotation is a base class of it.

    Args:
        function: The constructor.
        values: The values by argument name. Values for arguments without an annotation are not converted.
        argument: The option that the constructor is for, for errors.
        names: Whether classes named in the values (``class_path``) may be imported.

    Raises:
        RefusedError: A value does not match its annotation, or names something that must not be imported or called.

    Example:
        >>> def net(size: tuple[int, int], folder: Path): ...
        >>> stored_arguments(net, {"size": [3, 4], "folder": "a"}, "model", names=False)["size"]
        (3, 4)
    """
    hints, found = _hints(function), {}
    for name, value in values.items():
        try:
            found[name] = _fitted(value, hints.get(name, Any), argument, names)
        except _UnfitError as error:
            own = " or the value (--model-args)" if argument == "model" else ""
            raise RefusedError(
                f"{argument}: the value of {name!r} in the file, {reprlib.repr(value)}, {error}; nothing in it was"
                f" imported or called; if the file is your own, pass --trust, or its config (--config){own}"
            ) from None
    return found


def build_stored(
    recipe: Recipe,
    function: Callable[..., Any],
    argument: str,
    *,
    saved: Mapping[str, Any],
    configured: Mapping[str, Any],
    parsed: bool,
) -> Any:
    """Calls a constructor with arguments from a checkpoint, a config and the user, respecting what the user trusts.

    Args:
        recipe: Defines what the user trusts: jsonargparse may import the objects named in a trusted checkpoint or
            config.
        function: The constructor.
        argument: The option that the constructor is for; ``"model"`` also applies the user's arguments.
        saved: The checkpoint's arguments.
        configured: The config's arguments, which take precedence over the checkpoint's.
        parsed: Whether the values are from a command line or YAML file, and are converted according to annotations.

    Raises:
        RefusedError: As for :func:`stored_arguments`.
        ConfigurationError: An argument is missing, unknown or can't be used.
    """
    own = recipe.model_args or {} if argument == "model" else {}
    saved_too = recipe.trust and parsed
    vouched = {**(saved if saved_too else {}), **(configured if recipe.trusts_config else {}), **own}
    kept = {**({} if saved_too else saved), **({} if recipe.trusts_config else configured)}
    kept = {name: value for name, value in kept.items() if name not in vouched}
    if parsed:
        kept = stored_arguments(function, kept, argument, names=recipe.names)
    return build(function, vouched, argument, parsed=parsed, kept=kept)


class _UnfitError(Exception):
    """A value does not match an annotation."""


def _hints(function: Callable[..., Any]) -> dict[str, Any]:
    """Returns the annotations of a constructor's arguments, including those it may pass to base classes."""
    kinds = function.__mro__ if isinstance(function, type) else ()
    found: dict[str, Any] = {}
    for made in [vars(kind)["__init__"] for kind in kinds if "__init__" in vars(kind)] or [function]:
        for name, hint in getattr(made, "__annotations__", {}).items():
            one: Any = SimpleNamespace(__annotations__={name: hint})
            try:
                hint = get_type_hints(one, getattr(made, "__globals__", {}))[name]
            except Exception:  # a name that is imported only for type checkers
                hint = Any
            found.setdefault(name, hint)
    return found


def _fitted(value: Any, hint: Any, argument: str, names: bool) -> Any:
    origin, inner = get_origin(hint), get_args(hint)
    if value is None:
        return None
    if origin is Annotated:
        return _fitted(value, inner[0], argument, names)
    if origin in (Union, UnionType):
        return _of_union(value, inner, argument, names)
    if origin is Literal:
        if value not in inner:
            raise _UnfitError(f"is not one of {', '.join(map(repr, inner))}")
        return value
    kind = origin or hint
    if hint in (Any, object) or isinstance(hint, TypeVar) or not isinstance(kind, type):
        if _names_class(value):
            raise _UnfitError("names a class, but no annotation states its type")
        return value
    if isinstance(value, (list, tuple, set)) and (kind in (tuple, set, frozenset) or issubclass(list, kind)):
        made: Any = kind if kind in (tuple, set, frozenset) else list
        each = [inner[0] if inner else Any] * len(value)
        if kind is tuple and inner and inner[-1] is not Ellipsis:
            each = list(inner)
        if len(each) != len(value):
            raise _UnfitError(f"does not have {len(each)} entries")
        return made(_fitted(entry, of, argument, names) for entry, of in zip(value, each, strict=True))
    if isinstance(value, Mapping) and issubclass(dict, kind):
        return {key: _fitted(entry, inner[1], argument, names) for key, entry in value.items()} if inner else value
    if issubclass(kind, Enum) and isinstance(value, str) and value in kind.__members__:
        return kind[value]
    if issubclass(kind, (PurePath, os.PathLike)) and isinstance(value, str):
        return kind(value) if issubclass(kind, PurePath) else Path(value)
    if (scalar := next((one for one in _SCALARS if issubclass(kind, one)), None)) is not None:
        return _scalar(value, scalar)
    with suppress(TypeError):  # protocols don't support this check
        if isinstance(value, kind):
            return value
    if is_dataclass(kind) and isinstance(value, Mapping) and "class_path" not in value:
        return build(kind, stored_arguments(kind, value, argument, names=names), argument, parsed=False)
    path, arguments = section({"": value}, "") if isinstance(value, Mapping) else (None, {})
    if path is None:
        raise _UnfitError(f"is not a {getattr(kind, '__name__', kind)}, and might name a function")
    if not names:
        raise _UnfitError("names a class, which is not imported when you specify the model yourself")
    of_file = named_class(path, argument, kind)
    return build(of_file, stored_arguments(of_file, arguments, argument, names=True), argument, parsed=False)


def _of_union(value: Any, members: tuple[Any, ...], argument: str, names: bool) -> Any:
    functions = any((get_origin(member) or member) is Callable for member in members)
    if functions and isinstance(value, str) and "." in value:
        raise _UnfitError("might name a function")
    if functions and _names_class(value):
        # The constructor would instantiate it.
        raise _UnfitError("names a class, which could be any class")
    why: _UnfitError | None = None
    for member in members:
        try:
            return _fitted(value, member, argument, names)
        except _UnfitError as error:
            why = error
    raise why or _UnfitError("does not fit")


def _scalar(value: Any, kind: type) -> Any:
    if kind is float and isinstance(value, (int, float, str)) and not isinstance(value, bool):
        with suppress(ValueError, OverflowError):
            # PyYAML parses 1e-3 as a string.
            return float(value)
    if not isinstance(value, kind) or (kind is not bool and isinstance(value, bool)):
        raise _UnfitError(f"is not a {kind.__name__}")
    return value


def _names_class(value: Any) -> bool:
    """Whether a value contains a ``class_path`` at any depth; repeated parts are visited once."""
    queue, seen = [value], set()
    while queue:
        one = queue.pop()
        if id(one) in seen or not isinstance(one, (Mapping, list, tuple, set)):
            continue
        seen.add(id(one))
        if isinstance(one, Mapping):
            if "class_path" in one:
                return True
            one = one.values()
        queue.extend(one)
    return False
