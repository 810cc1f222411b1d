"""Small archives made by hand, for what finds, reads and serves them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import MappingProxyType

import numpy as np
import torch

from lightning_gradcam import CamKey, CamRecord, ProbeSet
from lightning_gradcam.archive import ArchiveWriter, Manifest

LAYERS = ("conv1", "conv2")


def probe_set(count: int = 3, seed: int = 0) -> ProbeSet:
    return ProbeSet(
        torch.full((count, 1, 12, 12), float(seed)),
        display=np.random.default_rng(seed).integers(0, 255, (count, 12, 12, 3), np.uint8),
        ids=tuple(f"p{seed}-{n}" for n in range(count)),
        labels=torch.arange(count) % 3,
        class_names=("shirt", "coat", "bag"),
    )


def record(probes: ProbeSet, epoch: int, seed: int = 0, size: int = 5) -> CamRecord:
    rng = np.random.default_rng([seed, epoch + 1])
    count = len(probes)
    maps = {CamKey(layer, "gradcam", "predicted"): rng.normal(size=(count, size, size)) for layer in LAYERS}
    return CamRecord(
        epoch=epoch,
        step=10 * (epoch + 1),
        stage="fit",
        score="logit",
        probe_ids=probes.ids,
        maps=MappingProxyType({key: values.astype(np.float32) for key, values in maps.items()}),
        scores={"predicted": rng.normal(size=count).astype(np.float32)},
        classes={"predicted": np.arange(count) % 3},
        predicted=np.arange(count) % 3,
        confidence=rng.random(count).astype(np.float32),
    )


def written(
    folder: Path | str, epochs: Sequence[int] = (0, 1), *, run: str = "run", probes: int = 0, seed: int = 0
) -> ArchiveWriter:
    """An archive with a step for each epoch; `probes` is the seed of its probe set."""
    chosen = probe_set(seed=probes)
    manifest = Manifest(
        run=run,
        name="gradcam",
        layers=LAYERS,
        methods=("gradcam",),
        targets=("predicted",),
        score="logit",
        map_shapes={layer: [5, 5] for layer in LAYERS},
        fingerprint=chosen.fingerprint,
    )
    writer, _ = ArchiveWriter.start(str(folder), manifest, chosen)
    for epoch in epochs:
        writer.append(record(chosen, epoch, seed))
    return writer
