"""Weights & Biases, through Lightning's WandbLogger."""

from __future__ import annotations

import re
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from lightning_gradcam.sinks.base import Entry, Numbers, Sink
from lightning_gradcam.storage import safe_name

_LONGEST_PART, _LONGEST_PATH = 150, 500


class WandbSink(Sink):
    """Logs all pictures of a step as one row.

    A run's rows are built up by its ``log`` calls, so that one from another thread could end up in the middle of the
    training's own: this sink is called on the training thread, with finished files.

    Args:
        logger: Lightning's ``WandbLogger``.
    """

    formats = ("png", "jpeg")

    def __init__(self, logger: Any) -> None:
        self._logger = logger

    def log(self, entry: Entry) -> None:
        """Logs every tag's picture under ``trainer/global_step``, beside the metrics."""
        import wandb

        caption = "untrained" if entry.epoch < 0 else f"epoch {entry.epoch}"
        # wandb copies the files into its run's folder while they are logged.
        with TemporaryDirectory(prefix="lightning-gradcam-") as folder:
            images = {}
            for place, (tag, picture) in enumerate(entry.pictures.items()):
                format, content = picture.file(self.formats)
                file = Path(folder, f"{place}.{format}")
                file.write_bytes(content)
                images[_key(tag)] = [wandb.Image(str(file), caption=caption)]
            # One call for all tags: `log_image` would make a row of each.
            self._logger.log_metrics(images, entry.step)

    def log_numbers(self, numbers: Numbers) -> None:
        """Logs the numbers as one row."""
        self._logger.log_metrics(dict(numbers.values), numbers.step)


def _key(tag: str) -> str:
    """Returns a tag that wandb can make a file's path of; it does so with any, and leaves its folder with ``..``."""
    parts = [part if _is_plain(part) else safe_name(part) for part in tag.split("/")]
    key = "/".join(parts)
    return key if len(key.encode()) <= _LONGEST_PATH else f"{parts[0]}/{safe_name(tag)}"


def _is_plain(part: str) -> bool:
    # What Windows refuses in a file's name, wandb refuses there too.
    if not part.isprintable() or not part.strip(". ") or re.search(r'[\\:*?"<>|]', part):
        return False
    return len(part.encode()) <= _LONGEST_PART
