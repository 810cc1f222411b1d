"""Measures what maps cost to compute, against a hand-written limit and against other libraries.

    pip install -e ".[dev]"
    python benchmarks/compute.py --threads 2

Every case is a network with random weights from a fixed seed, in evaluation mode. In each round, every rival is called
once, in an order that rotates from round to round and turns round in every other; the first rounds are not counted.
Ratios are medians of the rounds' own ratios: what slows the machine for a while slows all rivals. Waiting garbage is
collected before each call. First of all the maps of every rival are compared with ours; where they differ, the run
stops with exit status 1. The figures themselves never fail it. The rivals:

- ``ours``: ``compute_cams(model, x, layers, targets="predicted", methods="gradcam")``; the model comes back as it was.
- ``limit``: what a specialist would write for that very model, and nothing more: a forward without a graph below the
  earliest layer, one backward from the score down to it, a weighted sum and a ReLU a layer. It checks nothing, guards
  nothing, and clones no activation, since no in-place operation follows any of these layers.
- ``pytorch-grad-cam``: ``GradCAM`` made and called once a layer, as its users do. It scales each map to 0…1 and up to
  the input's size, as NumPy arrays; that is part of it and is timed. The parameters' gradients that it leaves behind
  are removed outside the timing.
- ``pytorch-grad-cam, mean``: of several layers, one call with all of them. That gives the mean of their maps, and so
  less than what the others give; it is held against ours, but is not the best peer.
- ``torch-cam``: ``GradCAM`` with all layers at once, without its normalisation.
- ``captum``: ``LayerGradCam`` once a layer, on a function that returns the explained score.
- ``plain forward``: the model under ``no_grad``: the unit.

All find the predicted class from the same forward; of the segmentation model, a class is explained over the pixels
where it is predicted, and pytorch-grad-cam, which can't find these in its forward, gets their mask as a present.

With ``--device cuda`` there are two clocks, both read in the same call: CUDA events around it, and the wall clock up to
the maps' arrival on the CPU. Settings of cuDNN and TF32 are left as they are, except that maps are compared without
TF32, which is coarser than the differences that are looked for.
"""

from __future__ import annotations

import argparse
import gc
import statistics
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pytorch_grad_cam.utils.image import scale_cam_image
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.common import environment, positive, read
from benchmarks.rivals import (
    CAPTUM,
    CASES,
    GRAD_CAM,
    GRAD_CAM_MEAN,
    LIMIT,
    OURS,
    PLAIN,
    SEED,
    SEVERAL,
    TORCH_CAM,
    Call,
    Case,
    built,
    full_precision,
    ours,
    plain_forward,
    rivals,
)

WARM_UP, TOLERANCE = 3, 1e-4
PEERS = (GRAD_CAM, TORCH_CAM, CAPTUM)
OF_LIMIT, OF_GRAD_CAM, OF_GRAD_CAM_SEVERAL, OF_BEST_PEER = 1.10, 0.40, 0.55, 1.05
WALL, EVENTS, WALL_AND_COPY = "wall clock", "CUDA events", "wall clock, maps copied to the CPU"
TARGETS: list[Any] = ["predicted", 3, 7]
METHODS = ["gradcam", "hirescam", "layercam", "gradcam++", "xgradcam"]

Seconds = dict[str, list[float]]


def check(case: Case, calls: Mapping[str, Call]) -> str:
    """Compares the maps of every rival with ours, the largest difference relative to the largest value.

    Returns:
        The largest difference of each.

    Raises:
        SystemExit: They differ, or ours are all zero, which would compare nothing.
    """
    with full_precision():
        expected = [maps.cpu() for maps in ours(case)]
        blank = [layer for layer, maps in zip(case.layers, expected, strict=True) if not bool((maps > 0).any())]
        if blank:
            raise SystemExit(f"{case.title}: all maps of {blank[0]} are zero, so that there is nothing to compare")
        scaled = [_scaled(case, maps) for maps in expected]
        wanted: dict[str, list[Any]] = dict.fromkeys((LIMIT, TORCH_CAM, CAPTUM), expected)
        wanted |= {GRAD_CAM: [_scaled_again(maps) for maps in scaled]}
        wanted |= {GRAD_CAM_MEAN: [_scaled_again(np.mean(scaled, axis=0))]}
        off = {}
        for name in [name for name in calls if name in wanted]:
            layers = [" and ".join(case.layers)] if name == GRAD_CAM_MEAN else case.layers
            off[name] = _compared(case.title, name, layers, wanted[name], calls[name]())
    return "maps agree with ours up to " + ", ".join(f"{name} {value:.0e}" for name, value in off.items())


def _compared(title: str, name: str, layers: Sequence[str], wanted: Sequence[Any], found: Sequence[Any]) -> float:
    most = 0.0
    for layer, ours_, theirs in zip(layers, wanted, found, strict=True):
        a, b = torch.as_tensor(ours_), torch.as_tensor(theirs).cpu()
        if a.shape != b.shape:
            raise SystemExit(f"{title}: {name} gives maps {list(b.shape)} at {layer}, ours are {list(a.shape)}")
        off = float((a - b).abs().max() / a.abs().max())
        if not off <= TOLERANCE:
            raise SystemExit(
                f"{title}: the maps of {name} at {layer} differ from ours by {off:.1e} of the largest value (allowed:"
                f" {TOLERANCE:.0e}); nothing more is timed"
            )
        most = max(most, off)
    return most


def _scaled(case: Case, maps: Tensor) -> Any:
    """What pytorch-grad-cam makes of each layer's maps."""
    return scale_cam_image(maps.numpy(), (case.inputs.shape[-1], case.inputs.shape[-2]))


def _scaled_again(maps: Any) -> Any:
    return scale_cam_image(np.maximum(maps, 0))


# ---- timing


def measure(model: nn.Module, calls: Mapping[str, Call], rounds: int, device: str) -> dict[str, Seconds]:
    """Times every call once a round.

    Returns:
        Clock to rival to the seconds of every counted round.
    """
    timed = _timed_on_cuda if device == "cuda" else _timed
    clocks: dict[str, Seconds] = {}
    gc.collect()
    # The libraries' own objects are looked through once and not before each call, which would take longer than most.
    gc.freeze()
    for number in range(WARM_UP + rounds):
        turn = number % len(calls)
        order = [*calls][turn:] + [*calls][:turn]
        for name in order if number % 2 == 0 else reversed(order):
            model.zero_grad()
            gc.collect()
            for clock, seconds in timed(calls[name]).items():
                clocks.setdefault(clock, {each: [] for each in calls})[name].append(seconds)
    gc.unfreeze()
    return {clock: {name: times[WARM_UP:] for name, times in seconds.items()} for clock, seconds in clocks.items()}


def _timed(call: Call) -> dict[str, float]:
    begin = time.perf_counter()
    call()
    return {WALL: time.perf_counter() - begin}


def _timed_on_cuda(call: Call) -> dict[str, float]:
    first, last = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
    torch.cuda.synchronize()
    begin = time.perf_counter()
    first.record()
    maps = call()
    last.record()
    for one in maps:
        # pytorch-grad-cam's are there already.
        if isinstance(one, Tensor):
            one.cpu()
    last.synchronize()
    wall = time.perf_counter() - begin
    return {EVENTS: first.elapsed_time(last) / 1000, WALL_AND_COPY: wall}


# ---- reports


def ratios(seconds: Seconds, over: str, under: str) -> list[float]:
    """The rounds' own ratios."""
    return [a / b for a, b in zip(seconds[over], seconds[under], strict=True)]


def table(clock: str, seconds: Seconds, columns: Mapping[str, Callable[[str], list[float]]]) -> Iterator[str]:
    """The lines of medians and ranges in milliseconds, and of ratios under their headings."""
    yield f"{clock:<36}{'median ms':>10}{'min':>9}{'max':>9}" + "".join(f"{heading:>22}" for heading in columns)
    for name, values in seconds.items():
        low, middle, high = (1000 * value for value in (min(values), statistics.median(values), max(values)))
        cells = [of(name) for of in columns.values()]
        shown = [f"{statistics.median(cell):.3f} ({min(cell):.2f}-{max(cell):.2f})" for cell in cells]
        yield f"{name:<36}{middle:>10.1f}{low:>9.1f}{high:>9.1f}" + "".join(f"{cell:>22}" for cell in shown)


def goals(layers: int, seconds: Seconds) -> Iterator[str]:
    """Every goal's figure of one case, whether it is met, and the limit's own figure: a goal below that is no one's."""
    best = min((peer for peer in PEERS if peer in seconds), key=lambda peer: statistics.median(seconds[peer]))
    asked = [(LIMIT, OF_LIMIT), (GRAD_CAM, OF_GRAD_CAM if layers == 1 else OF_GRAD_CAM_SEVERAL)]
    asked += [(GRAD_CAM_MEAN, OF_GRAD_CAM_SEVERAL)] if GRAD_CAM_MEAN in seconds else []
    for rival, most in [*asked, (best, OF_BEST_PEER)]:
        ratio, least = (statistics.median(ratios(seconds, one, rival)) for one in (OURS, LIMIT))
        which = f"{rival}{', the best peer' if most == OF_BEST_PEER else ''}"
        met = "met   " if ratio <= most else "MISSED"
        yield f"{ratio:>9.3f}  {met}  at most {most:.2f} of {which} (limit: {least:.3f})"


def compare(case: Case, rounds: int, device: str) -> dict[str, Seconds]:
    """Checks and times one case, and prints its tables."""
    print(f"\n{case.title}")
    calls = rivals(case)
    print(check(case, calls))
    if case.grid is not None:
        print("captum is left out: its LayerGradCam takes a token's channels for places")
    clocks = measure(case.model, calls, rounds, device)
    for clock, seconds in clocks.items():
        columns = {
            "of limit": partial(_of, seconds, LIMIT),
            "of plain forward": partial(_of, seconds, PLAIN),
            "ours of it": partial(ratios, seconds, OURS),
        }
        print("\n".join(table(clock, seconds, columns)))
    return clocks


def several(case: Case, rounds: int, device: str) -> None:
    """Checks and times several targets and methods of one case, and prints the table."""
    print(f"\nseveral targets and methods: {case.title}")
    one = "1 target, 1 method"
    calls: dict[str, Call] = {one: partial(ours, case)}
    calls |= {f"{n} targets, 1 method": partial(ours, case, TARGETS[:n]) for n in (2, 3)}
    calls |= {f"1 target, {n} methods": partial(ours, case, methods=METHODS[:n]) for n in (3, 5)}
    with full_precision():
        first = [calls[one]()[0].cpu()]
        off = max(_compared(case.title, name, case.layers, first, calls[name]()[:1]) for name in calls)
    print(
        f"the first target's {METHODS[0]} agrees up to {off:.0e}; the methods are, in this order, {', '.join(METHODS)}"
    )
    calls[PLAIN] = partial(plain_forward, case)
    for clock, seconds in measure(case.model, calls, rounds, device).items():
        columns = {"of the first": partial(_of, seconds, one), "of plain forward": partial(_of, seconds, PLAIN)}
        print("\n".join(table(clock, seconds, columns)))


def _of(seconds: Seconds, under: str, over: str) -> list[float]:
    return ratios(seconds, over, under)


def main(arguments: list[str] | None = None) -> None:
    """Reads the options, checks, measures and prints."""
    parser = argparse.ArgumentParser(description="Times maps against a hand-written limit and other libraries.")
    parser.add_argument("--rounds", type=positive, default=20, help="rounds that count")
    parser.add_argument("--cases", nargs="+", choices=[*CASES, SEVERAL], default=[*CASES, SEVERAL], metavar="CASE")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--small", action="store_true", help="tiny batches and pictures, to see that it runs")
    options = read(parser, arguments)
    warnings.filterwarnings("ignore")
    device = torch.cuda.get_device_name() if options.device == "cuda" else "the CPU"
    print(f"{options.rounds} rounds after {WARM_UP} to warm up, random weights, seed {SEED}, on {device}")
    summary = []
    for name in [name for name in CASES if name in options.cases]:
        case = built(name, options.small, options.device)
        for clock, seconds in compare(case, options.rounds, options.device).items():
            summary += [f"{name} ({clock})", *goals(len(case.layers), seconds)]
    if SEVERAL in options.cases:
        several(built("resnet18", options.small, options.device), options.rounds, options.device)
    if summary:
        print("\ngoals: ours, as the median of the rounds' ratios")
        print("\n".join(summary))
    names = ("lightning-gradcam", "torch", "torchvision", "grad-cam", "torchcam", "captum")
    print(f"\n{environment(*names)}")


if __name__ == "__main__":
    main()
