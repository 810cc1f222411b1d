"""Reads class names from every supported form: a list, a file, a model's weights, or ``"imagenet"``."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any

from lightning_gradcam.errors import TargetError

IMAGENET = "imagenet"
_SUFFIXES = (".txt", ".json", ".csv", ".names", ".lst", ".labels", ".yaml", ".yml")
_LARGEST = 1 << 22
# The accepted forms of class names, for errors.
FORMS = (
    "pass the names, a file with one name per line, a JSON file, 'imagenet', or the weights that define them, such as "
    "torchvision.models:ResNet18_Weights"
)


def named_classes(given: Any) -> Any:
    """Returns the names that a string refers to; any other value is returned unchanged.

    Args:
        given: The names, or one string: ``"imagenet"``, a file, or ``"package.module:Name"``, as in :func:`names_of`.

    Raises:
        TargetError: The string refers to neither a file nor an object with class names.

    Example:
        >>> named_classes(["cat", "dog"])
        ['cat', 'dog']
        >>> named_classes("torchvision.models:ResNet18_Weights")[:2]
        ['tench', 'goldfish']
    """
    return names_of(given) if isinstance(given, str) else given


def names_of(text: str, find: Callable[[str, str], Any] | None = None) -> list[str]:
    """Returns the names of all classes, in the order of the model's outputs.

    Args:
        text: ``"imagenet"`` for torchvision's 1000 names; a file with one name per line, or with JSON (a list of names;
            ``{"0": "cat"}``, with Keras's ``{"0": ["n01440764", "tench"]}``; ``{"cat": 0}``; a Hugging Face
            ``config.json`` with its ``id2label``); or ``"package.module:Name"`` for a list of names or for weights with
            names in ``meta["categories"]``, such as torchvision's.
        find: Imports the object at an import path; its second argument, ``"class_names"``, is for errors.

    Raises:
        TargetError: There is no such file or object, it contains no names, or torchvision is not installed.
    """
    if text.lower() == IMAGENET:
        return _of_imagenet()
    if os.path.isfile(text):
        return _of_file(text)
    if is_object(text):
        return _of_object(text, find or _imported)
    what = "a folder" if os.path.isdir(text) else "no file"
    raise TargetError(f"class_names: {text!r:.200} is {what}; {FORMS}")


def is_object(text: str) -> bool:
    """Whether a string has the form of an import path: ``"package.module:Name"`` or ``"path/to/file.py:Name"``."""
    place, _, attribute = text.rpartition(":")
    return place.endswith(".py") or all(part.isidentifier() for part in (*place.split("."), *attribute.split(".")))


def is_path(text: str) -> bool:
    """Whether a string given as a class name is really a file path."""
    return text.lower().endswith(_SUFFIXES) or (os.sep in text and os.path.isfile(text))


def _of_file(path: str) -> list[str]:
    try:
        with open(path, encoding="utf-8-sig") as file:
            content = file.read(_LARGEST + 1)
        if len(content) > _LARGEST:
            raise ValueError(f"it has more than {_LARGEST:,} characters")
        is_json = path.lower().endswith(".json") or content.lstrip()[:1] in ("[", "{")
        values = json.loads(content) if is_json else None
    except (OSError, ValueError, RecursionError) as error:
        reason = f"{type(error).__name__}: {error!s:.150}"
        raise TargetError(f"class_names: {path!r:.200} can't be read ({reason}); {FORMS}") from error
    if is_json:
        return _listed_names(values, path)
    lines = [line.strip() for line in content.rstrip().splitlines()]
    if "" in lines or not lines:
        where = f"line {lines.index('') + 1} of {path!r:.200} is empty" if lines else f"{path!r:.200} is empty"
        raise TargetError(f"class_names: {where}; write one name per line, in the order of the model's outputs")
    return lines


def _of_imagenet() -> list[str]:
    try:
        weights = import_module("torchvision.models").ResNet50_Weights.DEFAULT
    # A torchvision built for another torch raises RuntimeError.
    except (ImportError, RuntimeError, AttributeError) as error:
        raise TargetError(
            "class_names: 'imagenet' takes the 1000 names from torchvision 0.13 or newer, which can't be imported"
            f" ({type(error).__name__}: {error!s:.120}); pip install torchvision, or pass a file with one name per line"
        ) from error
    return list(weights.meta["categories"])


def _imported(name: str, argument: str) -> Any:
    place, _, attribute = name.rpartition(":")
    try:
        found: Any = import_module(place)
        for part in attribute.split("."):
            found = getattr(found, part)
        return found
    except (ImportError, AttributeError) as error:
        raise TargetError(f"{argument}: {name!r:.200} can't be imported ({error!s:.150}); {FORMS}") from error


def _of_object(name: str, find: Callable[[str, str], Any]) -> list[str]:
    found: Any = find(name, "class_names")
    # In torchvision's weight enums, one member is the default; each has its classes in `meta`.
    metas = [getattr(one, "meta", None) for one in (found, getattr(found, "DEFAULT", None))]
    meta = next((one for one in metas if isinstance(one, Mapping)), None)
    return _listed_names(found if meta is None else meta.get("categories"), name)


def _listed_names(values: Any, source: str) -> list[str]:
    if isinstance(values, Mapping) and isinstance(values.get("id2label"), Mapping):
        values = values["id2label"]
    if isinstance(values, Mapping):
        try:
            if all(isinstance(value, int) and not isinstance(value, bool) for value in values.values()):
                values = {number: name for name, number in values.items()}
            numbered = {int(number): value for number, value in values.items()}
        except ValueError:
            numbered = {}
        if set(numbered) != set(range(len(values))):
            raise TargetError(
                f"class_names: {source!r:.200} does not number its names from 0 to {len(values) - 1}; pass a name for"
                ' each class, {"0": "cat", "1": "dog"}'
            )
        values = [numbered[place] for place in range(len(numbered))]
        values = [value[-1] if isinstance(value, list) and value else value for value in values]
    if not isinstance(values, (list, tuple)) or not values or not all(isinstance(name, str) for name in values):
        raise TargetError(f"class_names: {source!r:.200} does not contain a list of names; {FORMS}")
    return list(values)
