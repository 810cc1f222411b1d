"""Measures the report of 100 epochs: its size, how long it is made, when it is ready, and how the slider follows.

    pip install -e ".[dev]"        # and Chromium: apt install chromium
    python benchmarks/report.py

An archive of the example's shapes (16 probes of 28x28, maps of 26x26, 11x11 and 4x4), written step by step with all
numbers, is made into one page, which a headless Chromium opens from disk. The maps are smooth noise that changes slowly
(as those of a training do), and plain noise, which can't be deflated: the worst case. *Ready* is what the page itself
marks when everything is drawn, from the start of its navigation; a *move* puts the slider to another epoch and waits
for the frame after it. Chromium draws in software here, on a window of 1280x900.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parent.parent))

from lightning_gradcam import Archive, CamKey, CamRecord, Drawing, ProbeSet
from lightning_gradcam.archive import ArchiveWriter, Manifest
from lightning_gradcam.monitors.cam_monitor import CamMonitor
from lightning_gradcam.monitors.cam_reporter import CamReporter
from lightning_gradcam.report import write_report
from tests.report.browser import launched

SHAPES = {"network.relu1": (26, 26), "network.relu2": (11, 11), "network.relu3": (4, 4)}
MOST_BYTES, READY_WITHIN = 8_000_000, 2.0
TARGETS = ("predicted",)


def record(step: int, probes: ProbeSet, kind: str, generator: np.random.Generator) -> CamRecord:
    """Returns one step's maps.

    Args:
        step: Counted from 0.
        probes: The run's.
        kind: ``"smooth"`` or ``"noise"``.
        generator: Of the noise.
    """
    count = len(probes)
    maps = {}
    for layer, (height, width) in SHAPES.items():
        if kind == "noise":
            values = generator.random((count, height, width))
        else:
            rows, columns = np.linspace(0, 1, height)[:, None], np.linspace(0, 1, width)
            phase = np.arange(count)[:, None, None] + step / 20
            values = (
                np.sin(5 * rows + phase) + np.cos(4 * columns - phase) + 0.05 * generator.random((1, height, width))
            )
        maps[CamKey(layer, "gradcam", "predicted")] = values.astype(np.float32)
    predicted = (np.arange(count) + (generator.random(count) < 0.1)) % 10
    confidence = generator.random(count).astype(np.float32)
    return CamRecord(
        epoch=step,
        step=90 * step,
        stage="fit",
        score="logit",
        probe_ids=probes.ids,
        maps=maps,
        scores={"predicted": confidence},
        classes={"predicted": predicted},
        predicted=predicted,
        confidence=confidence,
        confidences={"predicted": confidence},
    )


def archived(folder: Path, kind: str, epochs: int, count: int) -> Archive:
    """Writes an archive with all of its numbers."""
    generator = np.random.default_rng(0)
    display = generator.integers(0, 256, (count, 28, 28, 1)).astype(np.uint8).repeat(3, axis=-1)
    probes = ProbeSet(torch.zeros(count, 1, 28, 28), labels=torch.arange(count) % 10, display=display)
    shapes = {layer: list(shape) for layer, shape in SHAPES.items()}
    names = {"layers": tuple(SHAPES), "methods": ("gradcam",), "targets": TARGETS, "map_shapes": shapes}
    stated: Any = {"run": kind, "name": "gradcam", "score": "logit", "fingerprint": probes.fingerprint, **names}
    writer, _ = ArchiveWriter.start(str(folder / kind / "gradcam"), Manifest(**stated), probes)
    meter = CamReporter(CamMonitor("gradcam", list(SHAPES), "gradcam", "predicted", "logit", Drawing()), probes)
    for step in range(epochs):
        writer.append(meter.measured(record(step, probes, kind, generator)))
    return Archive.open(writer.path)


def opened(browser: Any, page: Path, moves: int) -> tuple[float, list[float]]:
    """Opens a page.

    Args:
        browser: Chromium.
        page: The page.
        moves: Of the slider.

    Returns:
        The seconds until it was ready, and those of each move.
    """
    shown = browser.new_page(viewport={"width": 1280, "height": 900})
    shown.goto(page.as_uri())
    shown.wait_for_selector("[data-ready=true]")
    ready = shown.evaluate("performance.getEntriesByName('gradcam-ready')[0].startTime") / 1000
    times = shown.get_by_label("Epoch", exact=True).evaluate(
        """async (slider, moves) => {
          const found = [];
          for (let i = 0; i < moves; i += 1) {
            const begin = performance.now();
            slider.value = String((i * 7) % (Number(slider.max) + 1));
            slider.dispatchEvent(new Event('input', {bubbles: true}));
            await new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)));
            found.push((performance.now() - begin) / 1000);
          }
          return found;
        }""",
        moves,
    )
    shown.close()
    return float(ready), [float(one) for one in times]


def main(arguments: list[str] | None = None) -> None:
    """Reads the options, measures and prints."""
    parser = argparse.ArgumentParser(description="Measures the report page.")
    parser.add_argument("--epochs", type=int, default=100)
    parser.add_argument("--probes", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=5, help="times that each page is opened")
    parser.add_argument("--moves", type=int, default=60, help="of the slider")
    options = parser.parse_args(arguments)
    print(f"{options.epochs} epochs, {options.probes} probes, {len(SHAPES)} layers; medians of {options.rounds} rounds")
    print(f"{'maps':<8}{'MB':>7}{'made in s':>11}{'ready in s':>12}{'move, ms':>10}{'95 % below':>12}")
    met = []
    with tempfile.TemporaryDirectory() as temporary, launched() as browser:
        for kind in ("smooth", "noise"):
            archive = archived(Path(temporary), kind, options.epochs, options.probes)
            page = Path(temporary, f"{kind}.html")
            begin = time.perf_counter()
            write_report([archive], page)
            spent = time.perf_counter() - begin
            found = [opened(browser, page, options.moves) for _ in range(options.rounds)]
            ready = statistics.median(one for one, _ in found)
            moves = sorted(move for _, times in found for move in times)
            late = moves[int(0.95 * len(moves))]
            size = page.stat().st_size
            print(
                f"{kind:<8}{size / 1e6:>7.2f}{spent:>11.2f}{ready:>12.2f}"
                f"{1000 * statistics.median(moves):>10.0f}{1000 * late:>12.0f}",
                flush=True,
            )
            met.append((kind, size, ready))
    print("\ngoals")
    for kind, size, ready in met:
        print(f"{'met   ' if size < MOST_BYTES else 'MISSED'}  {kind}: under {MOST_BYTES / 1e6:.0f} MB")
        print(f"{'met   ' if ready < READY_WITHIN else 'MISSED'}  {kind}: ready in under {READY_WITHIN:.0f} s")
    versions = ", ".join(f"{name} {version(name)}" for name in ("lightning-gradcam", "numpy", "playwright"))
    print(f"\n{versions}; {os.cpu_count()} CPUs")


if __name__ == "__main__":
    main()
