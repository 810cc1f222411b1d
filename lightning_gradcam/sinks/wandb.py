"""Logs to Weights & Biases through Lightning's WandbLogger."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from lightning_gradcam.render.picture import Picture
from lightning_gradcam.sinks.base import Entry, Evolution, Histograms, Numbers, Row, Sink
from lightning_gradcam.storage import safe_name

_LONGEST_PART, _LONGEST_PATH = 150, 500


class WandbSink(Sink):
    """Logs all images of a step as one row.

    A run builds its rows from ``log`` calls, so a call from another thread could end up in the middle of training's own
    row. Therefore, this sink is called on the training thread, with finished files.

    Args:
        logger: Lightning's ``WandbLogger``.
    """

    formats = ("png", "jpeg")
    takes_rows = True

    def __init__(self, logger: Any) -> None:
        self._logger = logger

    def log(self, entry: Entry) -> None:
        """Logs each tag's image at ``trainer/global_step``, next to the metrics."""
        import wandb

        caption = "untrained" if entry.epoch < 0 else f"epoch {entry.epoch}"
        # wandb copies the files into the run's folder during the call.
        with TemporaryDirectory(prefix="lightning-gradcam-") as folder:
            images = {}
            for place, (tag, picture) in enumerate(entry.pictures.items()):
                format, content = picture.file(self.formats)
                file = Path(folder, f"{place}.{format}")
                file.write_bytes(content)
                images[_key(tag)] = [wandb.Image(str(file), caption=caption)]
            # One call for all tags, because `log_image` would create a row for each.
            self._logger.log_metrics(images, entry.step)

    def log_evolution(self, evolution: Evolution) -> None:
        """Logs the film strips; at the end also the animations, as videos, and a table of all probes and steps."""
        if not evolution.repeated:
            self.log(Entry(evolution.step, evolution.epoch, evolution.strips))
        if not evolution.ended:
            return
        import wandb

        with TemporaryDirectory(prefix="lightning-gradcam-") as folder:
            logged: dict[str, Any] = {}
            for place, (tag, animation) in enumerate(evolution.animations.items()):
                file = Path(folder, f"{place}.gif")
                file.write_bytes(animation.encoded("gif"))
                logged[_key(f"{tag}/animation")] = wandb.Video(str(file), format="gif")
            if evolution.rows:
                logged[f"{evolution.name}_table"] = _table(evolution.rows, Path(folder))
            if logged:
                self._logger.log_metrics(logged, evolution.step)

    def log_numbers(self, numbers: Numbers) -> None:
        """Logs the numbers as one row."""
        self._logger.log_metrics(dict(numbers.values), numbers.step)

    def log_summary(self, summary: Mapping[str, str]) -> None:
        """Adds the run's findings to its summary."""
        self._logger.experiment.summary.update(dict(summary))

    def log_histograms(self, histograms: Histograms) -> None:
        """Logs the histograms as one row, with unchanged bins; wandb accepts up to 512."""
        import wandb

        logged = {
            _key(tag): wandb.Histogram(np_histogram=(found.counts, found.edges))
            for tag, found in histograms.values.items()
        }
        if logged:
            self._logger.log_metrics(logged, histograms.step)


def _table(rows: Sequence[Row], folder: Path) -> Any:
    import wandb

    tags = list(dict.fromkeys(tag for row in rows for tag in row.overlays))
    facts = "probe", "original", "epoch", "step", "true", "predicted", "confidence", "score"
    made: dict[int, Any] = {}

    def image(picture: Picture) -> Any:
        # A probe's original is the same object in all of its rows, and is uploaded once.
        if id(picture) not in made:
            file = folder / f"table-{len(made)}.png"
            file.write_bytes(picture.encoded("png"))
            made[id(picture)] = wandb.Image(str(file))
        return made[id(picture)]

    table = wandb.Table(columns=[*facts, *map(_key, tags)])
    for row in rows:
        pictures = [image(row.overlays[tag]) if tag in row.overlays else None for tag in tags]
        values = [image(row.original) if name == "original" else getattr(row, name) for name in facts]
        table.add_data(*values, *pictures)
    return table


def _key(tag: str) -> str:
    """Returns a tag that is safe as a path: wandb turns any tag into one, and ``..`` would leave its folder."""
    parts = [part if _is_plain(part) else safe_name(part) for part in tag.split("/")]
    key = "/".join(parts)
    return key if len(key.encode()) <= _LONGEST_PATH else f"{parts[0]}/{safe_name(tag)}"


def _is_plain(part: str) -> bool:
    # On Windows, wandb also rejects characters that are invalid in file names.
    if not part.isprintable() or not part.strip(". ") or re.search(r'[\\:*?"<>|]', part):
        return False
    return len(part.encode()) <= _LONGEST_PART
