"""Measures what the callback costs training, against the callback that people write by hand today and a bare limit.

    pip install -e ".[dev]"
    python benchmarks/overhead.py --threads 2

Sections (``--sections``), all on the CPU:

- ``28x28``: the tutorials' network (``examples/fashion_mnist_model.py``) at its three ReLU layers.
- ``224x224``: torchvision's ResNet-18 with random weights and ten classes at ``layer2``, ``layer3`` and ``layer4``.
- ``cpu``: CPU seconds of the same calls, of all threads; on its own it measures both sizes.
- ``fit``: a whole ``Trainer.fit`` of the tutorials' network with the callback and without.
- ``worker``: short fits of ResNet-18 at 96x96 whose worker is busy for much of the time, with the callback and without.

The first two run one ``Trainer.fit`` each. At the end of every validation, all rivals are called and timed, with the
same weights, probes and ``TensorBoardLogger``. Their order is reversed from epoch to epoch, and the first epochs do not
count. A ratio is the median of the epochs' own ratios, since a slow spell of the machine affects both of its sides.
Garbage is collected before each call; after it, the benchmark waits for the call's background threads, outside the
timing, so that no rival pays for another. The images are synthetic; at 224x224 they are enlarged, which makes them
smoother than photographs and their files smaller. All maps explain the predicted class. What is timed:

- ``GradCAMCallback, blocking``: its ``on_validation_epoch_end`` with default drawing, up to its return, and what it
  does on the training thread once the pictures are finished (in a fit: at the end of the next training batch). Maps,
  their copy and the hand-over to the worker are in it; archive, a sheet a layer with input and overlay of every probe,
  its file and TensorBoard's writer are the worker's.
- ``by its own account``: what it logs itself as ``gradcam_stats/seconds`` and ``gradcam_stats/background_seconds``.
- ``by hand``: pytorch-grad-cam once a layer, an overlay a probe (``show_cam_on_image``), and a matplotlib figure a
  layer of the overlays, 4 probes a row, each titled with its true and predicted class, at matplotlib's default
  resolution, given to ``add_figure``. It leaves out what would make it slower: the inputs beside the overlays (they
  double its time), axes, ``tight_layout`` and an archive.
- ``limit``: the hand-written limit of ``benchmarks/compute.py``, whose maps are compared with ours there: one forward
  and one backward for these layers, nothing checked, guarded, copied or drawn.
- The maps alone, of both: ``compute_cams(…, relu=False)``, and the same by pytorch-grad-cam without any drawing.

CPU seconds are those of the whole process (``time.process_time``) from the call until all that it started has ended,
the worker and TensorBoard's writer included.

The sections ``fit`` and ``worker`` are described in ``whole_fits.py``.
"""

from __future__ import annotations

import argparse
import logging
import sys
import tempfile
import warnings
from pathlib import Path

from torch.utils.data import DataLoader, TensorDataset

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.common import environment, positive, read
from benchmarks.compute import ratios
from benchmarks.fits import (
    BY_HAND,
    LIMIT,
    MAPS_BY_HAND,
    OUR_MAPS,
    OURS,
    OWN_BACKGROUND,
    OWN_BLOCKING,
    Goal,
    ResNetClassifier,
    Seconds,
    Setting,
    TimedGradCAM,
    ratio,
    resnet,
    table,
    trainer_of,
    tutorials,
)
from benchmarks.whole_fits import compare_busy_fits, compare_fits

SMALL_PICTURES, LARGE_PICTURES, CPU, FIT, WORKER = "28x28", "224x224", "cpu", "fit", "worker"
SECTIONS = (SMALL_PICTURES, LARGE_PICTURES, CPU, FIT, WORKER)
WARM_UP = 3
OF_BY_HAND, OF_LIMIT = 1 / 30, 1.3


def measure(setting: Setting, epochs: int) -> tuple[Seconds, Seconds]:
    """Trains for the warm-up and ``epochs`` more.

    Returns:
        The seconds of blocking, and the CPU seconds, of every counted epoch.
    """
    loader = DataLoader(TensorDataset(setting.images, setting.labels), setting.batch)
    callback = TimedGradCAM(setting)
    with tempfile.TemporaryDirectory() as folder:
        trainer_of(folder, WARM_UP + epochs, [callback]).fit(setting.module, loader, loader)
    seconds = {**callback.seconds, **callback.own.seconds}
    order = (OURS, OUR_MAPS, OWN_BLOCKING, OWN_BACKGROUND, LIMIT, BY_HAND, MAPS_BY_HAND)
    return {name: seconds[name][WARM_UP:] for name in order}, {
        name: values[WARM_UP:] for name, values in callback.cpu.items()
    }


def compare(setting: Setting, epochs: int, *, blocking: bool, cpu: bool) -> list[Goal]:
    """Measures one setting and prints its tables.

    Args:
        setting: What is measured.
        epochs: Logged epochs that count.
        blocking: Print how long training is blocked.
        cpu: Print CPU seconds.

    Returns:
        The goals of what is printed.
    """
    print(f"\n{setting.title}")
    seconds, cpu_seconds = measure(setting, epochs)
    if blocking:
        print("\n".join(table("each logged epoch, wall clock", seconds)))
        print("\n".join(ratio(seconds, OURS, under) for under in (BY_HAND, LIMIT)))
    if cpu:
        both = {"GradCAMCallback, worker included": cpu_seconds[OURS], BY_HAND: cpu_seconds[BY_HAND]}
        both[LIMIT] = cpu_seconds[LIMIT]
        print("\n".join(table("each logged epoch, CPU time", both)))
        print(ratio(both, next(iter(both)), BY_HAND))
    if not blocking:
        return []
    if isinstance(setting.module, ResNetClassifier):
        return [Goal(f"{OURS} / {LIMIT}, {setting.title}", ratios(seconds, OURS, LIMIT), OF_LIMIT)]
    return [Goal(f"{OURS} / {BY_HAND}, {setting.title}", ratios(seconds, OURS, BY_HAND), OF_BY_HAND)]


def main(arguments: list[str] | None = None) -> None:
    """Reads the options, measures and prints."""
    parser = argparse.ArgumentParser(description="Times GradCAMCallback against a hand-rolled callback and a limit.")
    parser.add_argument("--sections", nargs="+", choices=SECTIONS, default=SECTIONS, metavar="SECTION")
    parser.add_argument("--epochs", type=positive, default=20, help="logged epochs that count, of each size")
    parser.add_argument("--probes", type=positive, default=16, help="pictures that are explained in every epoch")
    parser.add_argument("--fit-pairs", type=positive, default=3, help="fits with the callback, and as many without")
    parser.add_argument("--fit-epochs", type=positive, default=3, help="epochs of each fit")
    parser.add_argument("--small", action="store_true", help="small pictures and short epochs, to see that it runs")
    options = read(parser, arguments)
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore")
    sections, goals = options.sections, []
    print(f"{options.epochs} logged epochs after {WARM_UP} to warm up, on the CPU")
    sizes = [name for name in (SMALL_PICTURES, LARGE_PICTURES) if name in sections]
    for name in sizes or ([SMALL_PICTURES, LARGE_PICTURES] if CPU in sections else []):
        built = tutorials(options.probes) if name == SMALL_PICTURES else resnet(options.probes, options.small)
        goals += compare(built, options.epochs, blocking=name in sections, cpu=CPU in sections)
    if FIT in sections:
        goals += compare_fits(options.probes, options.fit_pairs, options.fit_epochs, options.small)
    if WORKER in sections:
        goals += compare_busy_fits(options.probes, options.fit_pairs, options.small)
    if goals:
        print("\ngoals: medians of the rounds' ratios")
        print("\n".join(map(str, goals)))
    names = ("lightning-gradcam", "torch", "torchvision", "pytorch-lightning", "grad-cam", "matplotlib")
    print(f"\n{environment(*names)}")


if __name__ == "__main__":
    main()
