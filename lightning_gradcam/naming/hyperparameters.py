"""Reads a run's hyperparameters from untrusted files."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from itertools import count
from typing import Any

from lightning_gradcam.storage import Storage

# The files written by LightningCLI and by Lightning's loggers; values in the second take precedence.
FILES = ("config.yaml", "hparams.yaml")
# A file that exceeds these limits is not a list of hyperparameters and is not read.
MOST_BYTES, _MOST_VALUES, _DEEPEST = 100_000, 1_500, 12
# Paths to a run's files, which differ in every run.
_PLACE = re.compile(r"(?:^|\.)(?:logger|default_root_dir|dirpath|save_dir|log_dir|run_name|run_id)(?:\.|$)|^ckpt_path$")
# Does not match `tokenizer` or `max_tokens`, which affect training.
_PRIVATE = re.compile(r"password|passwd|secret|token(?![a-z])|credential|api_?key", re.IGNORECASE)
# The user name and password, and the query, in a URL.
_IN_ADDRESS = re.compile(r"(?<=://)[^/@\s]*(?=@)|(?<=[?&;])[^?&;#\s]*")


def hyperparameters(path: str) -> dict[str, str]:
    """Reads a run's hyperparameters from ``hparams.yaml`` and ``config.yaml``.

    Both are read from the archive's folder and its parent folder. If one of them is too large, damaged or not plain
    YAML, all are ignored, because runs might differ in the values it contains.

    Args:
        path: Path or URL of the run's archive.

    Returns:
        Values as JSON, by dotted name, such as ``{"optimizer.lr": "0.1", "seed": "3"}``. Paths to the run's files and
        likely secrets are omitted; passwords and queries are removed from URLs. Empty if there is no such file.
    """
    root = path if "://" in path else os.path.abspath(path)
    places = re.split(r"[/\\][^/\\]*$", root.rstrip("/\\"))[0], root
    return merge_hyperparameters(partial(_read, place, name) for place in places for name in FILES)


def merge_hyperparameters(reads: Iterable[Callable[[], Mapping[str, str]]]) -> dict[str, str]:
    """Merges the values from several files; empty if one of them can't be used.

    Args:
        reads: Functions that each return one file's values; later files take precedence. A function that raises
            ``FileNotFoundError`` is skipped.
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
    """Returns the values in a YAML file, in the same form as :func:`hyperparameters`.

    Args:
        raw: The file's content, or its first ``MOST_BYTES + 1`` bytes.

    Raises:
        Exception: The file is too large, damaged or not plain YAML; the YAML parser raises various kinds.
    """
    import yaml

    if len(raw) > MOST_BYTES or b"<<" in raw:  # keys merged from aliases can grow without bound
        raise ValueError("these are not hyperparameters")
    found: dict[str, str] = {}
    _flatten(yaml.safe_load(raw), "", found, 0, count())
    return found


def _read(place: str, name: str) -> dict[str, str]:
    with Storage(place).open(name) as file:
        return parse_hyperparameters(file.read(MOST_BYTES + 1))


def _flatten(value: Any, name: str, found: dict[str, str], depth: int, visited: count[int]) -> None:
    # Aliases can repeat a few values endlessly, even if none is kept.
    if depth > _DEEPEST or next(visited) > _MOST_VALUES:
        raise ValueError("these are not hyperparameters")
    if isinstance(value, (dict, list)):
        for key, each in value.items() if isinstance(value, dict) else enumerate(value):
            # LightningCLI adds the level `init_args` and the entry `_instantiator`.
            inner = name if key == "init_args" else ".".join(filter(None, (name, str(key))))
            if not str(key).startswith("_"):
                _flatten(each, inner, found, depth + 1, visited)
    elif name and not _PLACE.search(name) and not (isinstance(value, str) and _PRIVATE.search(name)):
        plain = _IN_ADDRESS.sub("…", value) if isinstance(value, str) and "://" in value else value
        found[name] = json.dumps(plain, default=str)
