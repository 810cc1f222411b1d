"""Measures whether the memory that explaining takes grows with the number of probes.

    pip install -e ".[examples]"
    python benchmarks/memory.py

Explains ResNet-18 (random weights, ten classes, 224x224) at ``layer2``, ``layer3`` and ``layer4`` for the predicted
class, the way the callback does: once on two probes, as at the start of training, and then all of them by
``CamMonitor.observe`` under the guard, 32 at once at most (the callback's default ``batch_size``). For comparison, the
same without parts.

Each figure is the median of several fresh processes. What is counted, in bytes:

- On the CPU: how far the process's resident memory rises, at its peak, above its level right before the explanation
  (``VmHWM`` of ``/proc/self/status``, set back by ``/proc/self/clear_refs``; Linux alone), minus the finished maps'
  bytes.
- With ``--device cuda``: ``torch.cuda.max_memory_allocated`` minus what was allocated before, minus the finished maps.

Not counted, because they are there before: the model, and the probes, which are kept as uint8, a quarter of their size
as float32. A part's own float32 inputs (19 MB of 32 probes) are made when its turn comes, as the callback copies them
to the device, and are counted; without parts, so are those of all. Counted too is what a part leaves behind while
others go on.

The CPU's allocator is asked (``MALLOC_…``) to return freed tensors at once and to keep one arena: by default it keeps
what a later call may need, as much as luck will have it, so that two runs of one process differ.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import statistics
import subprocess
import sys
import warnings
from pathlib import Path

import torch
from torch import Tensor
from torchvision.models import resnet18

from lightning_gradcam import Drawing, ProbeSet
from lightning_gradcam.capture.inputs import Inputs
from lightning_gradcam.guard.model import preserved
from lightning_gradcam.monitors.base import Subject
from lightning_gradcam.monitors.cam_monitor import CamMonitor

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.common import environment, positive, read

LAYERS = ["layer2", "layer3", "layer4"]
# The callback's default.
BATCH = 32
OF_FEW = 1.2
STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")
ALLOCATOR = {"MALLOC_ARENA_MAX": "1", "MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
MIB = 2**20


# ---- one process


def resident(field: str) -> int:
    """Returns ``VmRSS`` or ``VmHWM``, the peak of it, in bytes."""
    line = next(line for line in STATUS.read_text().splitlines() if line.startswith(f"{field}:"))
    return 1024 * int(line.split()[1])


def explained(count: int, batch_size: int, size: int, device: str) -> dict[str, int]:
    """Explains probes in this process.

    Args:
        count: How many.
        batch_size: How many at once, at most.
        size: Their pictures' width and height.
        device: ``"cpu"`` or ``"cuda"``.

    Returns:
        The peak without the finished maps, and these, in bytes.
    """
    torch.manual_seed(0)
    model = resnet18(weights=None, num_classes=10).eval().to(device)
    inputs = torch.randint(0, 256, (count, 3, size, size), dtype=torch.uint8)
    # Given as they are: pictures drawn from the inputs would be as large again.
    probes = ProbeSet(inputs, display=inputs.permute(0, 2, 3, 1).numpy())

    def load(start: int, stop: int) -> Inputs:
        return Inputs(inputs[start:stop].to(device).float() / 255)

    def forward(values: Tensor) -> Tensor:
        output: Tensor = model(values)
        return output

    plan = CamMonitor("gradcam", LAYERS, "gradcam", "predicted", "logit", Drawing(), batch_size=batch_size)
    few = ProbeSet(inputs[:2], display=probes.pixels[:2])
    with preserved(model):
        plan = plan.pinned(plan.observe(Subject(model, load, forward), few))
    gc.collect()
    before = _begin(device)
    with preserved(model):
        cams = plan.observe(Subject(model, load, forward), probes)
    peak = resident("VmHWM") if device == "cpu" else torch.cuda.max_memory_allocated()
    maps = sum(one.numel() * one.element_size() for one in cams.values())
    shapes = [len(one) for one in cams.values()]
    assert shapes == [count] * len(LAYERS), shapes
    return {"peak": peak - before - maps, "maps": maps}


def _begin(device: str) -> int:
    if device == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        return torch.cuda.memory_allocated()
    CLEAR.write_text("5")
    return resident("VmRSS")


# ---- all processes


def measure(count: int, batch_size: int, size: int, device: str, repeats: int) -> tuple[list[int], int]:
    """Explains in fresh processes, one after the other.

    Args:
        count: How many probes.
        batch_size: How many at once, at most.
        size: Their pictures' width and height.
        device: ``"cpu"`` or ``"cuda"``.
        repeats: How many processes.

    Returns:
        The peak of each, and the finished maps, in bytes.
    """
    asked = json.dumps([count, batch_size, size, device])
    command = [sys.executable, str(Path(__file__).resolve()), "--threads", str(torch.get_num_threads()), "--one", asked]
    peaks, maps = [], 0
    for _ in range(repeats):
        done = subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, **ALLOCATOR})
        if done.returncode:
            raise SystemExit(f"explaining {count} probes failed:\n{done.stderr}")
        found = json.loads(done.stdout.splitlines()[-1])
        maps = found["maps"]
        peaks.append(found["peak"])
    return peaks, maps


def row(count: int, batch_size: int, peaks: list[int], maps: int) -> str:
    """The table's line of one count."""
    low, middle, high = (value / MIB for value in (min(peaks), statistics.median(peaks), max(peaks)))
    parts = str(batch_size) if batch_size < count else "all"
    return f"{count:>7}{parts:>9}{middle:>17.1f}{low:>9.1f}{high:>9.1f}{maps / MIB:>12.2f}"


def main(arguments: list[str] | None = None) -> None:
    """Reads the options, measures and prints."""
    parser = argparse.ArgumentParser(description="Measures the peak memory of explaining few and many probes.")
    parser.add_argument("--few", type=positive, default=64, help="probes")
    parser.add_argument("--many", type=positive, default=1024, help="probes")
    parser.add_argument("--repeats", type=positive, default=3, help="processes a figure")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--small", action="store_true", help="pictures of 64x64, to see that it runs")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    options = read(parser, arguments)
    warnings.filterwarnings("ignore")
    if options.one is not None:
        print(json.dumps(explained(*json.loads(options.one))))
        return
    if options.device == "cpu" and not CLEAR.exists():
        raise SystemExit(f"peaks can't be measured here: there is no {CLEAR}; run it on Linux, or with --device cuda")
    size = 64 if options.small else 224
    device = torch.cuda.get_device_name() if options.device == "cuda" else "the CPU"
    print(f"ResNet-18, {size}x{size}, {', '.join(LAYERS)}, on {device}; {options.repeats} processes each")
    print("inputs and finished maps are not counted")
    print(f"{'probes':>7}{'at once':>9}{'peak, median MiB':>17}{'min':>9}{'max':>9}{'maps MiB':>12}")
    peaks = {}
    for count in (options.few, options.many):
        peaks[count], maps = measure(count, BATCH, size, options.device, options.repeats)
        print(row(count, BATCH, peaks[count], maps), flush=True)
    for count in (options.few, 4 * options.few):
        print(row(count, count, *measure(count, count, size, options.device, options.repeats)), flush=True)
    ratio = statistics.median(peaks[options.many]) / statistics.median(peaks[options.few])
    met = "met   " if ratio <= OF_FEW else "MISSED"
    print("\ngoals: the ratio of the medians")
    print(f"{ratio:>9.3f}  {met}  at most {OF_FEW:.2f}: {options.many} probes / {options.few} probes, {BATCH} at once")
    versions = environment("lightning-gradcam", "torch", "torchvision")
    print(f"\n{versions}")


if __name__ == "__main__":
    main()
