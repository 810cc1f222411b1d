"""Measures the report of 100 epochs: its size, how long it is made, when it is ready, and how the slider follows.

    pip install -e ".[dev]"        # and Chromium: apt install chromium
    python benchmarks/report.py
    python benchmarks/report.py --probes 64 --maps 14 14 14 14

An archive of the example's shapes (16 probes of 28x28, maps of 26x26, 11x11 and 4x4), written step by step with all
numbers, is made into one page, which a headless Chromium opens from disk. The maps are smooth noise that changes slowly
(as those of a training do), and plain noise, which can't be deflated: the worst case. *Ready* is what the page itself
marks when everything is drawn, from the start of its navigation. The slider then goes to another epoch in every frame:
a *move* is the time from one frame to the next (at least 17 ms, since Chromium draws at most 60 a second), and *busy*
how much of it the page's main thread worked. Chromium draws in software here, on a window of 1280x900.
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

# Sides of the example's pictures and maps.
SIDE, MAPS = 28, (26, 11, 4)
# At least 30 frames a second.
MOST_BYTES, READY_WITHIN, MOVED_WITHIN = 10_000_000, 2.0, 1 / 30
TARGETS = ("predicted",)


def record(
    step: int, probes: ProbeSet, shapes: dict[str, list[int]], kind: str, generator: np.random.Generator
) -> CamRecord:
    """Returns one step's maps.

    Args:
        shapes: Height and width of each layer's maps.
        step: Counted from 0.
        probes: The run's.
        kind: ``"smooth"`` or ``"noise"``.
        generator: Of the noise.
    """
    count = len(probes)
    maps = {}
    for layer, (height, width) in shapes.items():
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


def archived(folder: Path, kind: str, options: argparse.Namespace) -> Archive:
    """Writes an archive with all of its numbers."""
    count, side = options.probes, options.side
    generator = np.random.default_rng(0)
    pixels = generator.integers(0, 256, (count, SIDE, SIDE, 1)).astype(np.uint8)
    display = pixels.repeat(side // SIDE, 1).repeat(side // SIDE, 2).repeat(3, 3)
    probes = ProbeSet(torch.zeros(count, 1, side, side), labels=torch.arange(count) % 10, display=display)
    shapes = {f"network.relu{place + 1}": [across, across] for place, across in enumerate(options.maps)}
    names = {"layers": tuple(shapes), "methods": ("gradcam",), "targets": TARGETS, "map_shapes": shapes}
    stated: Any = {"run": kind, "name": "gradcam", "score": "logit", "fingerprint": probes.fingerprint, **names}
    writer, _ = ArchiveWriter.start(str(folder / kind / "gradcam"), Manifest(**stated), probes)
    meter = CamReporter(CamMonitor("gradcam", list(shapes), "gradcam", "predicted", "logit", Drawing()), probes)
    for step in range(options.epochs):
        writer.append(meter.measured(record(step, probes, shapes, kind, generator)))
    return Archive.open(writer.path)


def opened(browser: Any, page: Path, moves: int) -> tuple[float, list[float], float]:
    """Opens a page.

    Args:
        browser: Chromium.
        page: The page.
        moves: Of the slider.

    Returns:
        The seconds until it was ready, those of each move, and those that the main thread worked at a move.
    """
    shown = browser.new_page(viewport={"width": 1280, "height": 900})
    shown.goto(page.as_uri())
    shown.wait_for_selector("[data-ready=true]", timeout=120_000)
    ready = shown.evaluate("performance.getEntriesByName('gradcam-ready')[0].startTime") / 1000
    session = shown.context.new_cdp_session(shown)
    session.send("Performance.enable", {"timeDomain": "threadTicks"})

    def worked() -> float:
        metrics = session.send("Performance.getMetrics")["metrics"]
        return next(float(one["value"]) for one in metrics if one["name"] == "TaskDuration")

    begin = worked()
    times = shown.get_by_label("Epoch", exact=True).evaluate(
        """async (slider, moves) => {
          const frames = [];
          for (let i = 0; i <= moves; i += 1) {
            slider.value = String((i * 7) % (Number(slider.max) + 1));
            slider.dispatchEvent(new Event('input', {bubbles: true}));
            await new Promise(requestAnimationFrame);
            frames.push(performance.now());
          }
          return frames.slice(1).map((now, i) => (now - frames[i]) / 1000);
        }""",
        moves,
    )
    busy = (worked() - begin) / (moves + 1)
    shown.close()
    return float(ready), [float(one) for one in times], busy


def main(arguments: list[str] | None = None) -> None:
    """Reads the options, measures and prints."""
    parser = argparse.ArgumentParser(description="Measures the report page.")
    parser.add_argument("--epochs", type=int, default=100)
    parser.add_argument("--probes", type=int, default=16)
    parser.add_argument("--maps", type=int, nargs="+", default=list(MAPS), help="side of each layer's maps")
    parser.add_argument("--side", type=int, default=SIDE, help=f"of the pictures, a multiple of {SIDE}")
    parser.add_argument("--rounds", type=int, default=5, help="times that each page is opened")
    parser.add_argument("--moves", type=int, default=60, help="of the slider")
    options = parser.parse_args(arguments)
    sizes = f"{options.epochs} epochs, {options.probes} probes, {len(options.maps)} layers"
    print(f"{sizes}; medians of {options.rounds} rounds")
    print(f"{'maps':<8}{'MB':>7}{'made in s':>11}{'ready in s':>12}{'move, ms':>10}{'95% below':>12}{'busy, ms':>10}")
    met = []
    with tempfile.TemporaryDirectory() as temporary, launched() as browser:
        for kind in ("smooth", "noise"):
            archive = archived(Path(temporary), kind, options)
            page = Path(temporary, f"{kind}.html")
            begin = time.perf_counter()
            write_report([archive], page)
            spent = time.perf_counter() - begin
            found = [opened(browser, page, options.moves) for _ in range(options.rounds)]
            ready, busy = statistics.median(one for one, _, _ in found), statistics.median(one for _, _, one in found)
            moves = sorted(move for _, times, _ in found for move in times)
            move = statistics.median(moves)
            late = moves[int(0.95 * len(moves))]
            size = page.stat().st_size
            print(
                f"{kind:<8}{size / 1e6:>7.2f}{spent:>11.2f}{ready:>12.2f}"
                f"{1000 * move:>10.0f}{1000 * late:>12.0f}{1000 * busy:>10.1f}",
                flush=True,
            )
            met.append((kind, size, ready, move))
    print("\ngoals")
    for kind, size, ready, move in met:
        print(f"{'met   ' if size < MOST_BYTES else 'MISSED'}  {kind}: under {MOST_BYTES / 1e6:.0f} MB")
        print(f"{'met   ' if ready < READY_WITHIN else 'MISSED'}  {kind}: ready in under {READY_WITHIN:.0f} s")
        print(f"{'met   ' if move < MOVED_WITHIN else 'MISSED'}  {kind}: at least 30 frames a second")
    versions = ", ".join(f"{name} {version(name)}" for name in ("lightning-gradcam", "numpy", "playwright"))
    print(f"\n{versions}; {os.cpu_count()} CPUs")


if __name__ == "__main__":
    main()
