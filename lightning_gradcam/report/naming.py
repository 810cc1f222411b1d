"""Names runs by the hyperparameters that differ between them, and finds runs that only differ in their seed."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import count
from typing import Any

from lightning_gradcam.archive import Archive
from lightning_gradcam.errors import printable
from lightning_gradcam.storage import Storage

# The files of LightningCLI and of Lightning's loggers; values of the second replace those of the first.
_FILES = ("config.yaml", "hparams.yaml")
# A file that exceeds these limits is not a list of hyperparameters and is not read.
_MOST_BYTES, _MOST_VALUES, _DEEPEST = 100_000, 1_500, 12
_SEED = re.compile(r"(?:^|\.)(?:seed|seed_everything|random_seed|manual_seed)$")
# Paths of a run's files, which differ between all runs.
_PLACE = re.compile(r"(?:^|\.)(?:logger|default_root_dir|dirpath|save_dir|log_dir|run_name|run_id)(?:\.|$)|^ckpt_path$")
# Does not match `tokenizer` and `max_tokens`, which affect the training.
_PRIVATE = re.compile(r"password|passwd|secret|token(?![a-z])|credential|api_?key", re.IGNORECASE)
# A user name with password, or a key, in an address.
_IN_ADDRESS = re.compile(r"(?<=://)[^/@\s]*(?=@)|(?<=[?&;])[^?&;#\s]*")
# The largest number of differences in a name, and of characters in a value and its name.
_MOST_NAMED, _LONGEST = 3, 24


def hyperparameters(archive: Archive) -> dict[str, str]:
    """Reads a run's hyperparameters from ``hparams.yaml`` and ``config.yaml``.

    Both are looked up in the archive's folder and in the one above it. If one of them is too large, damaged, or more
    than plain YAML, all count as missing, because runs might differ in the values it contains.

    Args:
        archive: The run's archive.

    Returns:
        Dotted name to the value as JSON, such as ``{"optimizer.lr": "0.1", "seed": "3"}``. Paths of the
        run's files, and values that look like passwords, are omitted; addresses have no passwords or queries. Empty if
        there is no such file.
    """
    root = archive.path if "://" in archive.path else os.path.abspath(archive.path)
    found: dict[str, str] = {}
    for place in (re.split(r"[/\\][^/\\]*$", root.rstrip("/\\"))[0], root):
        for name in _FILES:
            try:
                found.update(_read(place, name))
            except FileNotFoundError:
                continue
            except Exception:  # stores, YAML and odd values may raise anything
                return {}
    return found


def describe_runs(folders: Sequence[str], settings: Sequence[Mapping[str, str]]) -> list[dict[str, str]]:
    """Describes how runs differ.

    Args:
        folders: A name for each run that needs no hyperparameters, such as its folder.
        settings: Each run's :func:`hyperparameters`.

    Returns:
        For each run a ``name`` (the hyperparameters that differ from other runs', or else its folder) and, if its seed
        is known, ``seed`` and ``family``, which is the same for runs that only differ in their seed.

    Example:
        >>> found = describe_runs(["a", "b"], [{"lr": "0.1", "seed": "0"}, {"lr": "0.2", "seed": "0"}])
        >>> [run["name"] for run in found]
        ['lr=0.1', 'lr=0.2']
    """
    names = _names(folders, settings)
    return [{"name": name, **_family(each)} for name, each in zip(names, settings, strict=True)]


def _read(place: str, name: str) -> dict[str, str]:
    import yaml

    with Storage(place).open(name) as file:
        raw = file.read(_MOST_BYTES + 1)
    if len(raw) > _MOST_BYTES or b"<<" in raw:  # keys merged from aliases can grow without bound
        raise ValueError("these are no hyperparameters")
    found: dict[str, str] = {}
    _flatten(yaml.safe_load(raw), "", found, 0, count())
    return found


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


def _family(settings: Mapping[str, str]) -> dict[str, str]:
    seeds = {name: value for name, value in settings.items() if _SEED.search(name)}
    if not seeds:
        return {}
    rest = sorted((name, value) for name, value in settings.items() if name not in seeds)
    family = hashlib.sha256(json.dumps(rest).encode()).hexdigest()[:16]
    return {"family": family, "seed": ", ".join(dict.fromkeys(map(_short, seeds.values())))}


def _names(folders: Sequence[str], settings: Sequence[Mapping[str, str]]) -> list[str]:
    known = [each for each in settings if each]
    every = dict.fromkeys(key for each in known for key in each)
    differing = [key for key in every if len({each.get(key) for each in known}) > 1]
    # A value is often written twice, in the model's and in the command's hyperparameters; keep the shortest name.
    kept: dict[tuple[str, tuple[str | None, ...]], str] = {}
    for key in sorted(differing, key=len):
        kept.setdefault((_last(key), tuple(each.get(key) for each in known)), key)
    chosen = set(kept.values())
    keys = [key for key in differing if key in chosen]
    times = Counter(map(_last, keys))
    titles = {key: _last(key) if times[_last(key)] == 1 else key for key in keys}
    names = []
    for folder, each in zip(folders, settings, strict=True):
        stated = [f"{_cut(titles[key])}={_short(each[key])}" for key in keys if key in each]
        rest = ["…"] if len(stated) > _MOST_NAMED else []
        names.append(", ".join(stated[:_MOST_NAMED] + rest) or folder)
    return [
        f"{name} ({folder})" if names.count(name) > 1 and name != folder else name
        for name, folder in zip(names, folders, strict=True)
    ]


def _last(key: str) -> str:
    return key.rpartition(".")[2] if not key.rpartition(".")[2].isdigit() else key


def _short(value: str) -> str:
    return _cut(str(json.loads(value)) if value.startswith('"') else value)


def _cut(text: str) -> str:
    shown = printable(text)
    return shown if len(shown) <= _LONGEST else f"{shown[: _LONGEST - 1]}…"
