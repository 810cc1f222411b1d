"""Names runs after the hyperparameters that differ between them, and finds runs that differ only in their seed."""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence

from lightning_gradcam.errors import printable

_SEED = re.compile(r"(?:^|\.)(?:seed|seed_everything|random_seed|manual_seed)$")
# Maximum number of hyperparameters in a name, and maximum length of a hyperparameter's name and value in characters.
_MOST_NAMED, _LONGEST = 3, 24


def describe_runs(folders: Sequence[str], settings: Sequence[Mapping[str, str]]) -> list[dict[str, str]]:
    """Describes how runs differ.

    Args:
        folders: Fallback name for each run, such as its folder.
        settings: Each run's :func:`hyperparameters`.

    Returns:
        For each run, a ``name`` (the hyperparameters that differ between runs, or else its folder) and, if its seed is
        known, ``seed`` and ``family``. Runs that differ only in their seed have the same ``family``.

    Example:
        >>> found = describe_runs(["a", "b"], [{"lr": "0.1", "seed": "0"}, {"lr": "0.2", "seed": "0"}])
        >>> [run["name"] for run in found]
        ['lr=0.1', 'lr=0.2']
    """
    names = _names(folders, settings)
    return [{"name": name, **_family(each)} for name, each in zip(names, settings, strict=True)]


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
    # A value often appears twice, among the model's and the command's hyperparameters; keep the shortest name.
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
    uses = Counter(names)
    return [
        f"{name} ({folder})" if uses[name] > 1 and name != folder else name
        for name, folder in zip(names, folders, strict=True)
    ]


def _last(key: str) -> str:
    return key.rpartition(".")[2] if not key.rpartition(".")[2].isdigit() else key


def _short(value: str) -> str:
    return _cut(str(json.loads(value)) if value.startswith('"') else value)


def _cut(text: str) -> str:
    shown = printable(text)
    return shown if len(shown) <= _LONGEST else f"{shown[: _LONGEST - 1]}…"
