"""Archives made by hand, with what a test wants to be found in them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from lightning_gradcam import Archive, CamKey, CamRecord, ProbeSet
from lightning_gradcam.archive import ArchiveWriter, Manifest
from lightning_gradcam.stats import measure

Maps = npt.NDArray[np.float32]
COUNT, SIDE = 6, 12


def spot(down: float, across: float, *, side: int = SIDE, wide: float = 1.0) -> Maps:
    """A map [side, side] with a smooth spot at a place given in shares of the height and width."""
    rows, columns = (np.mgrid[:side, :side] + 0.5) / side
    found = np.exp(-((rows - down) ** 2 + (columns - across) ** 2) * (side / wide) ** 2 / 2)
    return np.asarray(found, np.float32)


def spots(*places: tuple[float, float], **options: Any) -> Maps:
    """A spot for each probe."""
    return np.stack([spot(*place, **options) for place in places])


# Six places away from the border, and no two in the same corner third.
SPREAD = ((0.3, 0.5), (0.5, 0.3), (0.5, 0.7), (0.7, 0.5), (0.5, 0.5), (0.4, 0.6))


def planted(
    path: Path,
    steps: Sequence[Maps | Mapping[str, Maps]],
    *,
    epochs: Sequence[int] | None = None,
    predicted: Sequence[int] | None = None,
    labels: Sequence[int] | None = None,
    masks: npt.NDArray[np.bool_] | None = None,
    metrics: Sequence[Mapping[str, float]] | None = None,
    method: str = "gradcam",
    classes: Mapping[str, Sequence[int]] | None = None,
    causes: Sequence[int] | None = None,
) -> Archive:
    """An archive of one layer, measured as a run's is.

    Args:
        path: Where.
        steps: Each step's maps [N, h, w], or those of each target by name.
        epochs: Of the steps; by default 0, 1, 2, …
        predicted: Classes; by default 0.
        labels: Of the probes; by default none.
        masks: Of the probes, bool [N, H, W].
        metrics: Each step's.
        method: Of the maps.
        classes: Target to explained classes; by default those predicted.
        causes: Why each probe's maps are blank; by default unknown.
    """
    named = [step if isinstance(step, Mapping) else {"predicted": step} for step in steps]
    first = next(iter(named[0].values()))
    count, size = len(first), (masks.shape[1:] if masks is not None else (24, 24))
    probes = ProbeSet(
        torch.zeros(count, 1, *size),
        labels=None if labels is None else torch.tensor(labels),
        masks=None if masks is None else torch.from_numpy(masks),
        display=np.zeros((count, *size, 3), np.uint8),
    )
    manifest = Manifest(
        run="planted",
        name="gradcam",
        layers=("conv",),
        methods=(method,),
        targets=tuple(named[0]),
        score="logit",
        map_shapes={"conv": list(first.shape[1:])},
        fingerprint=probes.fingerprint,
    )
    writer, _ = ArchiveWriter.start(str(path / "gradcam"), manifest, probes)
    best = np.array([0] * count if predicted is None else predicted)
    before: Mapping[CamKey, Any] | None = None
    for row, targets in enumerate(named):
        maps = {CamKey("conv", method, name): np.asarray(values, np.float32) for name, values in targets.items()}
        explained = {name: np.array((classes or {}).get(name, best)) for name in targets}
        writer.append(
            CamRecord(
                epoch=row if epochs is None else epochs[row],
                step=10 * row,
                stage="fit",
                score="logit",
                probe_ids=probes.ids,
                maps=maps,
                scores={name: np.ones(count, np.float32) for name in targets},
                classes=explained,
                predicted=best,
                confidence=np.full(count, 0.9, np.float32),
                causes={} if causes is None else dict.fromkeys(maps, np.array(causes, np.int8)),
                numbers=measure(maps, before, probes.regions),
                metrics={} if metrics is None else metrics[row],
            )
        )
        before = maps
    writer.release()
    return Archive.open(path / "gradcam")
