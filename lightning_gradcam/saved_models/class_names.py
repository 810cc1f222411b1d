"""Class names from a command line: a list, or one string that says where to find them."""

from __future__ import annotations

import os
from collections.abc import Sequence

from lightning_gradcam.errors import TargetError
from lightning_gradcam.probes.class_names import FORMS, IMAGENET, is_object, is_path, names_of
from lightning_gradcam.saved_models.construction import find_object


def read_class_names(given: Sequence[str] | str | None) -> list[str] | None:
    """Returns the names of all classes, in the order of the model's outputs.

    Args:
        given: The names; or one string, alone or in a list, as in
            :func:`~lightning_gradcam.probes.class_names.names_of`. It may also name an object in a script
            (``"path/to/file.py:NAMES"``). ``None`` stays ``None``.

    Raises:
        TargetError: A path is mixed with names, or the file does not exist or contains no names.

    Example:
        >>> read_class_names(["cat", "dog"])
        ['cat', 'dog']
    """
    if given is None:
        return None
    texts = [given] if isinstance(given, str) else list(given)
    if not texts or not all(isinstance(text, str) for text in texts):
        raise TargetError(f"class_names: got {given!r:.100}; {FORMS}")
    path = next(filter(is_path, texts), None)
    if len(texts) > 1 and path is not None:
        raise TargetError(
            f"class_names: {path!r:.200} among {len(texts)} names is a file, but would be read as a class name; pass "
            "either the file or the names"
        )
    if len(texts) > 1:
        return texts
    text = texts[0]
    place = os.path.exists(text) or os.sep in text or is_path(text)
    if isinstance(given, str) or place or is_object(text) or text.lower() == IMAGENET:
        return names_of(text, find_object)
    return texts
