"""Names of classes as users have them: listed, in a file, or with the weights of a model."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from typing import Any

from lightning_gradcam.errors import ConfigurationError
from lightning_gradcam.saved_models.construction import find_object

_SUFFIXES = (".txt", ".json", ".csv", ".names", ".lst", ".labels", ".yaml", ".yml")
_LARGEST = 1 << 22
_FORMS = (
    "give the names, a file with one name a line, a JSON file, or the weights that have them, such as"
    " torchvision.models:ResNet18_Weights"
)


def read_class_names(given: Sequence[str] | str | None) -> list[str] | None:
    """Returns the names of all classes, in the order of the model's outputs.

    Args:
        given: The names; or one text: a file with a name a line, or with JSON (a list of names; ``{"0": "cat"}``, with
            Keras's ``{"0": ["n01440764", "tench"]}``; ``{"cat": 0}``; a Hugging Face ``config.json`` with its
            ``id2label``), or ``"package.module:Name"`` of a list of names or of weights whose ``meta["categories"]``
            has them, as torchvision's have. ``None`` stays ``None``.

    Raises:
        ConfigurationError: There is a path among names, the file does not exist, or it holds no names.

    Example:
        >>> read_class_names(["cat", "dog"])
        ['cat', 'dog']
    """
    if given is None:
        return None
    texts = [given] if isinstance(given, str) else list(given)
    if not texts or not all(isinstance(text, str) for text in texts):
        raise ConfigurationError(f"class_names: got {given!r:.100}; {_FORMS}")
    path = next(filter(_is_path, texts), None)
    if len(texts) > 1 and path is not None:
        raise ConfigurationError(
            f"class_names: {path!r:.200} among {len(texts)} names is a file, and would be taken for a class; give the"
            " file alone, or the names alone"
        )
    if len(texts) > 1:
        return texts
    text = texts[0]
    if os.path.isfile(text):
        return _of_file(text)
    place, _, attribute = text.rpartition(":")
    if place.endswith(".py") or all(part.isidentifier() for part in (*place.split("."), *attribute.split("."))):
        return _of_object(text)
    if isinstance(given, str) or _is_path(text) or os.sep in text or os.path.isdir(text):
        what = "a folder" if os.path.isdir(text) else "no file"
        raise ConfigurationError(f"class_names: {text!r:.200} is {what}; {_FORMS}")
    return texts


def _is_path(text: str) -> bool:
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
        raise ConfigurationError(f"class_names: {path!r:.200} can't be read ({reason}); {_FORMS}") from error
    if is_json:
        return _listed_names(values, path)
    lines = [line.strip() for line in content.rstrip().splitlines()]
    if "" in lines or not lines:
        where = f"line {lines.index('') + 1} of {path!r:.200} is empty" if lines else f"{path!r:.200} is empty"
        raise ConfigurationError(f"class_names: {where}; give one name a line, in the order of the model's outputs")
    return lines


def _of_object(name: str) -> list[str]:
    found: Any = find_object(name, "class_names")
    # Of torchvision's enums of weights, one member is the default; each has its classes in `meta`.
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
            raise ConfigurationError(
                f"class_names: {source!r:.200} does not number its names from 0 to {len(values) - 1}; give a name for"
                ' each class, {"0": "cat", "1": "dog"}'
            )
        values = [numbered[place] for place in range(len(numbered))]
        values = [value[-1] if isinstance(value, list) and value else value for value in values]
    if not isinstance(values, (list, tuple)) or not values or not all(isinstance(name, str) for name in values):
        raise ConfigurationError(f"class_names: {source!r:.200} holds no list of names; {_FORMS}")
    return list(values)
