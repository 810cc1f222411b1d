"""Measures what a resumed run costs whose archive already holds thousands of steps.

    python benchmarks/resuming.py

``growth.py`` prints the same section. An archive of steps with two layers, 16 probes and maps of 14x14 is written; then
another run begins in a folder of its own and goes on with these steps:

- ``start``: opening the new archive, on the training thread. Nothing else of the archive blocks training.
- ``take over``: bringing the earlier steps into it, in the background.
- ``recall``: reading the last record and each map's largest value so far, in the background.
- ``one map``: reading one layer's maps over all steps; ``whole steps``: reading everything of each.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch

from lightning_gradcam import Archive, CamKey, CamRecord, ProbeSet
from lightning_gradcam.archive import ArchiveWriter, Manifest
from lightning_gradcam.render.scale import both_limits

STEPS, PROBES, SIDE, LAYERS = 2000, 16, 14, ("first", "second")
START_SECONDS = 0.2
T = TypeVar("T")


def resuming(steps: int = STEPS) -> Iterator[str]:
    """Yields the section's lines; the last one is the goal.

    Args:
        steps: How many the archive holds.
    """
    yield f"resuming: {steps} steps, {len(LAYERS)} layers, {PROBES} probes, {SIDE}x{SIDE}; seconds"
    probes = ProbeSet(torch.rand(PROBES, 1, 28, 28, generator=torch.Generator().manual_seed(0)))
    with tempfile.TemporaryDirectory() as folder:
        earlier, root = str(Path(folder, "earlier")), str(Path(folder, "resumed"))
        writer, _ = ArchiveWriter.start(earlier, _manifest("earlier", probes), probes)
        last = -1
        for record in _records(steps, probes.ids):
            writer.append(record)
            last = record.step
        parent = {"archive": earlier, "run": "earlier", "step": last, "logged": steps}
        stated = _manifest("resumed", probes)
        start, (resumed, _) = _timed(lambda: ArchiveWriter.start(root, stated, probes, parent=parent, later=True))
        yield _line("start", start)
        seconds, remark = _timed(lambda: resumed.take_over(parent))
        assert remark is None, remark
        yield _line("take over", seconds)
        seconds, (_, limits, damaged) = _timed(resumed.recall)
        assert (damaged, len(limits)) == ([], len(LAYERS))
        yield _line("recall", seconds)
        archive = Archive.open(root)
        yield _line("one map", _timed(lambda: archive.maps(LAYERS[0]))[0])
        yield _line("whole steps", _timed(lambda: [archive.record(index) for index in range(steps)])[0])
    met = "met   " if start <= START_SECONDS else "MISSED"
    yield f"{start:>9.3f}  {met}  at most {START_SECONDS:.2f}: seconds that opening the archive blocks training"


def _records(steps: int, ids: tuple[str, ...]) -> Iterator[CamRecord]:
    generator = np.random.default_rng(0)
    keys = [CamKey(layer, "gradcam", "predicted") for layer in LAYERS]
    zeros, classes = np.zeros(len(ids), np.float32), np.zeros(len(ids), np.int64)
    limits = dict.fromkeys(keys, np.zeros((len(ids), 2), np.float32))
    for step in range(steps):
        maps = {key: generator.standard_normal((len(ids), SIDE, SIDE), np.float32) for key in keys}
        limits = {key: np.maximum(limits[key], both_limits(maps[key])) for key in keys}
        yield CamRecord(
            epoch=step,
            step=10 * step,
            stage="fit",
            score="logit",
            probe_ids=ids,
            maps=maps,
            scores={"predicted": zeros},
            classes={"predicted": classes},
            predicted=classes,
            confidence=zeros,
            limits=limits,
        )


def _manifest(run: str, probes: ProbeSet) -> Manifest:
    return Manifest(
        run=run,
        name="gradcam",
        layers=LAYERS,
        methods=("gradcam",),
        targets=("predicted",),
        score="logit",
        map_shapes={layer: [SIDE, SIDE] for layer in LAYERS},
        fingerprint=probes.fingerprint,
    )


def _timed(call: Callable[[], T]) -> tuple[float, T]:
    begin = time.perf_counter()
    found = call()
    return time.perf_counter() - begin, found


def _line(name: str, seconds: float) -> str:
    return f"{name:<12}{seconds:>9.4f}"


def main() -> None:
    """Reads the option, measures and prints."""
    parser = argparse.ArgumentParser(description="Measures what resuming costs where the archive holds many steps.")
    parser.add_argument("--steps", type=int, default=STEPS, help="steps that the archive holds")
    print("\n".join(resuming(parser.parse_args().steps)))


if __name__ == "__main__":
    main()
