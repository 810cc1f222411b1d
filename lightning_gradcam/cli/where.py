"""What a run has left behind, said in the terminal."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lightning_gradcam.archive import Archive
from lightning_gradcam.report import REPORT
from lightning_gradcam.storage import Storage, join


def where_to_look(callbacks: Sequence[object], loggers: Sequence[object]) -> str:
    """Returns what to open after a run: a line each, with the command or path first.

    Args:
        callbacks: The trainer's. Each of ours counts with its archive and report, a ``ModelCheckpoint`` with its file.
        loggers: The trainer's. TensorBoard and W&B are known; what others show, they say themselves.

    Example:
        >>> where_to_look([], [])
        'Where to look:'
    """
    lines = [line for logger in loggers for line in _of_logger(logger)]
    lines += [line for callback in callbacks for line in _of_callback(callback)]
    return "\n".join(["Where to look:", *lines])


def _of_logger(logger: Any) -> list[str]:
    kinds = {kind.__name__ for kind in type(logger).__mro__}
    if "TensorBoardLogger" in kinds:
        return [f"  tensorboard --logdir {logger.save_dir}    (tab GRAD-CAM)"]
    if "WandbLogger" in kinds:
        offline = os.environ.get("WANDB_MODE") == "offline"
        folder = Path(logger.experiment.dir).parent
        return [f"  {'offline run, upload with: wandb sync' if offline else 'W&B files:'} {folder}"]
    return []


def _of_callback(callback: Any) -> list[str]:
    archive = getattr(callback, "archive", None)
    if isinstance(archive, Archive):
        lines = [f"  {archive.path}    (raw maps: lightning_gradcam.Archive.open)"]
        if Storage(archive.path).exists(REPORT):
            lines.insert(0, f"  {join(archive.path, REPORT)}    (open it in a browser)")
        return lines
    best = getattr(callback, "best_model_path", "")
    return [f"  {best}    (weights: lightning-gradcam explain, layers)"] if best else []
