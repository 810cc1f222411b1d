"""Reads checkpoint files: their weights, and the epoch and step at which they were written."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lightning_gradcam.errors import CheckpointFileError, ConfigurationError, RefusedError
from lightning_gradcam.saved_models.config import read_config, section

SUFFIX = ".ckpt"
# The keys for weights in files from Lightning, training scripts, and torchvision's references.
_STATES = ("state_dict", "model_state_dict", "model")


@dataclass(frozen=True, eq=False)
class Recipe:
    """The sources from which to build a module and its data module, and how far the user trusts them.

    Attributes:
        contents: The checkpoint's contents; empty for a model without one.
        path: The checkpoint's file, for errors.
        model: The class or function specified by the user, as in :func:`~lightning_gradcam.load_checkpoint`.
        given: The sections of the user's config.
        beside: The sections of the config next to the checkpoint, if the user passed none.
        model_args: The user's arguments for the class, which take precedence over all others.
        trust: Whether the user trusts the checkpoint and the config next to it.
    """

    contents: Mapping[str, Any]
    path: str = ""
    model: str | Callable[..., Any] | None = None
    given: Mapping[str, Any] | None = None
    beside: Mapping[str, Any] | None = None
    model_args: Mapping[str, Any] | None = None
    trust: bool = False

    @classmethod
    def of(
        cls, contents: Mapping[str, Any], path: str = "", *, config: str | os.PathLike[str] | None, **rest: Any
    ) -> Recipe:
        """Reads the user's config, or the one next to the checkpoint if the user passed none.

        Args:
            contents: The checkpoint's contents.
            path: The checkpoint's file.
            config: A LightningCLI YAML file.
            **rest: The other attributes.
        """
        if config is not None:
            return cls(contents, path, given=read_config(config), **rest)
        return cls(contents, path, beside=config_beside(path) if path else None, **rest)

    @property
    def names(self) -> bool:
        """Whether classes named in the files may be imported: if the user trusts them or has not specified a class."""
        return self.trust or (self.model is None and section(self.given or {}, "model")[0] is None)

    @property
    def trusts_config(self) -> bool:
        """Whether the user trusts the config."""
        return self.trust or self.given is not None


def files_in(paths: str | os.PathLike[str] | Iterable[str | os.PathLike[str]]) -> list[Path]:
    """Returns all files, including the ``.ckpt`` files in folders, without duplicates.

    Args:
        paths: Files and folders.

    Raises:
        CheckpointFileError: A path does not exist, or there is no checkpoint.
    """
    files: dict[Path, None] = {}
    for path in map(Path, [paths] if isinstance(paths, (str, os.PathLike)) else paths):
        inside = sorted(path.rglob(f"*{SUFFIX}")) if path.is_dir() else [path]
        if not inside or not inside[0].is_file():
            what = f"no {SUFFIX} file in" if path.is_dir() else "no file"
            raise CheckpointFileError(f"checkpoint: {what} {str(path)!r}; pass checkpoints, or a folder of checkpoints")
        files.update(dict.fromkeys(inside))
    if not files:
        raise CheckpointFileError("checkpoint: got none; pass checkpoints, or a folder that contains some")
    return list(files)


def read_checkpoint(
    path: str | os.PathLike[str], *, map_location: Any = "cpu", trust: bool = False, mapped: bool = False
) -> Any:
    """Reads a checkpoint file.

    Args:
        path: The file.
        map_location: As in ``torch.load``.
        trust: Whether to read objects of any type.
        mapped: Whether to leave the weights on disk until they are used, if the file format allows it.

    Raises:
        CheckpointFileError: The file is missing, damaged, or not a checkpoint.
        ConfigurationError: The file contains objects that require ``trust=True``.
    """
    place = os.fspath(path)
    if not Path(place).is_file():
        raise CheckpointFileError(f"checkpoint: no file {place!r}; pass a Lightning .ckpt, or a .pt or .pth file")
    try:
        contents = _read(place, map_location, trust, mapped)
    except Exception as error:  # truncated files raise various errors from zip and torch
        strange = [] if trust else _strange_types(place, str(error))
        if strange:
            raise ConfigurationError(
                f"checkpoint: {place!r} contains objects that are only loaded if you trust the file ({some(strange)}):"
                " usually hyper-parameters, or a whole module; keep plain values in save_hyperparameters(), save a"
                " module's state_dict(), or, for your own file, pass trust=True (--trust), which lets the file run"
                " code here"
            ) from error
        if trust and isinstance(error, (AttributeError, ImportError)):
            raise ConfigurationError(
                f"checkpoint: {place!r} contains objects whose code can't be imported ({error!s:.200}); run this where "
                "the code can be imported, or save the state_dict() and specify the class (--model)"
            ) from error
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise CheckpointFileError(
            f"checkpoint: {place!r} is truncated or not a checkpoint ({reason:.200}); save it again, or leave it out"
        ) from error
    if not isinstance(contents, (Mapping, nn.Module)):
        raise CheckpointFileError(
            f"checkpoint: {place!r} contains a {type(contents).__name__}, not weights; pass a state_dict() or a "
            "Lightning checkpoint"
        )
    return contents


def weights_of(contents: Mapping[str, Any], path: str) -> Mapping[str, Tensor]:
    """Returns the weights by name.

    Raises:
        CheckpointFileError: The file has no weights.
    """
    for name in _STATES:
        if isinstance(found := contents.get(name), Mapping):
            return found
    if contents and all(isinstance(value, Tensor) for value in contents.values()):
        return contents
    raise CheckpointFileError(
        f"checkpoint: {path!r} has no weights under the keys {', '.join(_STATES)}, and is not a state_dict itself; "
        f"save the module's state_dict(). It contains {', '.join(map(str, list(contents)[:10])) or 'nothing'}"
    )


def place_of(contents: Mapping[str, Any]) -> tuple[int, int, str | None]:
    """Returns the epoch and step at which a checkpoint's weights were validated, and a remark if they are a guess.

    Lightning logs validation metrics at the number of batches that stepped. It counts an epoch's last batch only after
    validation, so a checkpoint saved at the end of the epoch is one batch ahead.

    Example:
        >>> place_of({"epoch": 3, "global_step": 40})[:2]
        (3, 40)
    """
    epoch, step = _count(contents.get("epoch")), _count(contents.get("global_step"))
    loop: Any = (contents.get("loops") or {}).get("fit_loop") or {}
    stepped = (loop.get("epoch_loop.state_dict") or {}).get("_batches_that_stepped")
    progress = (loop.get("epoch_progress") or {}).get("current") or {}
    if not isinstance(stepped, int):
        known = "global_step" in contents
        guess = "global_step, which counts every optimizer's steps, is used" if known else "0 is used"
        return epoch, step, f"the file does not say at which step its metrics were logged; {guess}"
    ready, processed = _count(progress.get("ready")), _count(progress.get("processed"))
    if ready:
        # A checkpoint saved after training contains the next epoch's number.
        epoch = min(epoch, ready - 1)
    return epoch, stepped - 1 if ready and processed == ready else stepped, None


def _read(path: str, map_location: Any, trust: bool, mapped: bool) -> Any:
    if mapped:
        # Files in old formats can't be memory-mapped; damaged files raise their error below.
        with suppress(RuntimeError, ValueError):
            return torch.load(path, map_location=map_location, weights_only=not trust, mmap=True)
    return torch.load(path, map_location=map_location, weights_only=not trust)


def _strange_types(path: str, message: str) -> list[str]:
    """Returns the types in a checkpoint that require trust; empty if there are none."""
    found: list[str] = []
    with suppress(Exception):  # files in old formats, damaged files, and torch versions without this function
        found = list(torch.serialization.get_unsafe_globals_in_checkpoint(path))
    return sorted(found) or re.findall(r"(?:GLOBAL|global) `?([\w.]+)`? was not an allowed", message)


def averaged(contents: Mapping[str, Any], state: Mapping[str, Tensor]) -> str | None:
    """Returns a remark if a file contains further weights with the same names, such as averaged ones."""
    twins = {str(name): value for name, value in contents.items() if isinstance(value, Mapping) and value}
    others = [name for name, value in twins.items() if value is not state and value.keys() == state.keys()]
    taken = next((name for name, value in twins.items() if value is state), None)
    return f"the weights under {taken!r} are used, not those under {some(others)}" if taken and others else None


def some(names: list[str]) -> str:
    """Returns the first four names and the number of further ones."""
    rest = f" and {len(names) - 4} more" if len(names) > 4 else ""
    return ", ".join(names[:4]) + rest


def config_beside(path: str) -> dict[str, Any] | None:
    """Returns the config that LightningCLI saved with a checkpoint's run, or ``None``.

    Raises:
        RefusedError: The config has more values or levels than allowed.
    """
    folder = Path(path).resolve().parent
    found = next((file for file in (folder.parent / "config.yaml", folder / "config.yaml") if file.is_file()), None)
    try:
        return None if found is None else read_config(found)
    except RefusedError:
        raise
    except ConfigurationError:
        return None


def _count(value: Any) -> int:
    return value if isinstance(value, int) and value > 0 else 0
