"""Reads a run's hyperparameters from files that anybody may have written."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from itertools import count
from typing import Any

from lightning_gradcam.storage import Storage

# The files of LightningCLI and of Lightning's loggers; values of the second replace those of the first.
FILES = ("config.yaml", "hparams.yaml")
# A file that exceeds these limits is not a list of hyperparameters and is not read.
MOST_BYTES, _MOST_VALUES, _DEEPEST = 100_000, 1_500, 12
# Paths of a run's files, which differ between all runs.
_PLACE = re.compile(r"(?:^|\.)(?:logger|default_root_dir|dirpath|save_dir|log_dir|run_name|run_id)(?:\.|$)|^ckpt_path$")
# Does not match `tokenizer` and `max_tokens`, which affect the training.
_PRIVATE = re.compile(r"password|passwd|secret|token(?![a-z])|credential|api_?key", re.IGNORECASE)
# A user name with password, or a key, in an address.
_IN_ADDRESS = re.compile(r"(?<=://)[^/@\s]*(?=@)|(?<=[?&;])[^?&;#\s]*")


def hyperparameters(path: str) -> dict[str, str]:
    """Reads a run's hyperparameters from ``hparams.yaml`` and ``config.yaml``.

    Both are looked up in the archive's folder and in the one above it. If one of them is too large, damaged, or more
    than plain YAML, all count as missing, because runs might differ in the values it contains.

    Args:
        path: Path or URL of the run's archive.

    Returns:
        Dotted name to the value as JSON, such as ``{"optimizer.lr": "0.1", "seed": "3"}``. Paths of the
        run's files, and values that look like passwords, are omitted; addresses have no passwords or queries. Empty if
        there is no such file.
    """
    root = path if "://" in path else os.path.abspath(path)
    places = re.split(r"[/\\][^/\\]*$", root.rstrip("/\\"))[0], root
    return merge_hyperparameters(partial(_read, place, name) for place in places for name in FILES)


def merge_hyperparameters(reads: Iterable[Callable[[], Mapping[str, str]]]) -> dict[str, str]:
    """Returns the values of several files; empty if one of them can't be used.

    Args:
        reads: Functions that return a file's values; those of later files replace those of earlier ones. A file that
            raises ``FileNotFoundError`` is left out.
    """
    found: dict[str, str] = {}
    for read in reads:
        try:
            found.update(read())
        except FileNotFoundError:
            continue
        except Exception:  # stores, YAML and odd values may raise anything
            return {}
    return found


def parse_hyperparameters(raw: bytes) -> dict[str, str]:
    """Returns the values in a YAML file, in the form of :func:`hyperparameters`.

    Args:
        raw: The file's content, or its first ``MOST_BYTES + 1`` bytes.

    Raises:
        Exception: The file is too large, damaged, or more than plain YAML; YAML raises anything.
    """
    import yaml

    if len(raw) > MOST_BYTES or b"<<" in raw:  # keys merged from aliases can grow without bound
        raise ValueError("these are no hyperparameters")
    found: dict[str, str] = {}
    _flatten(yaml.safe_load(raw), "", found, 0, count())
    return found


def _read(place: str, name: str) -> dict[str, str]:
    with Storage(place).open(name) as file:
        return parse_hyperparameters(file.read(MOST_BYTES + 1))


def _flatten(value: Any, name: str, found: dict[str, str], depth: int, visited: count[int]) -> None:
    # Aliases can repeat a few values without end, even if none is kept.
    if depth > _DEEPEST or next(visited) > _MOST_VALUES:
        raise ValueError("these are no hyperparameters")
    if isinstance(value, (dict, list)):
        for key, each in value.items() if isinstance(value, dict) else enumerate(value):
            # `init_args` is LightningCLI's own level, and `_instantiator` its own note.
            inner = name if key == "init_args" else ".".join(filter(None, (name, str(key))))
            if not str(key).startswith("_"):
                _flatten(each, inner, found, depth + 1, visited)
    elif name and not _PLACE.search(name) and not (isinstance(value, str) and _PRIVATE.search(name)):
        plain = _IN_ADDRESS.sub("…", value) if isinstance(value, str) and "://" in value else value
        found[name] = json.dumps(plain, default=str)
