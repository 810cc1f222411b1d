"""Measures how good each method's maps are, on drawn garments whose telling parts are known.

    pip install -e ".[examples]"
    python benchmarks/quality.py

Trains the tutorials' network (``examples/fashion_mnist_model.py``) on pictures drawn in code
(``examples/drawn_garments.py``), 28x28, from fixed seeds, explains the true class of drawn test pictures that the
network gets right, and prints a row for every method and layer. What the numbers are, and are not:

- The pictures are drawn, not photographs; the network is small and its layers are as large as its input. A ranking here
  need not hold for another network, and differences of a few hundredths are within what another seed gives.
- ``energy`` and ``points`` hold a map against a mask of the parts that were drawn to tell a class from its relatives. A
  network may rightly tell them by something else: these numbers judge network and map together.
- ``deletion`` to ``road`` hold a map against the network alone: does hiding what it marks change the confidence? Hidden
  pictures are unlike any that the network has seen. Black is what the background is made of, so that pixels deleted
  there change nothing.
- ``random`` weighs the layer's channels at random: it shows where a map would be that knows the picture, but neither
  the class nor the network behind the layer. A ``*`` marks what is worse than it at the same layer.
"""

from __future__ import annotations

import argparse
import sys
import time
import warnings
from collections.abc import Iterator
from dataclasses import astuple, dataclass, fields
from pathlib import Path

import torch
from torch import Tensor, nn

from lightning_gradcam import MethodError, available_methods, compute_cams
from lightning_gradcam.stats import energy_inside, pointing_game
from lightning_gradcam.stats.faithfulness import (
    area_under,
    average_drop,
    average_increase,
    deletion_curve,
    insertion_curve,
    road,
)

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "examples"))
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from drawn_garments import draw_garments
from fashion_mnist_model import FashionMNISTClassifier

from benchmarks.common import environment, positive, read

LAYERS = ["network.relu2", "network.relu3"]
BATCH, STEPS = 64, 14
TRAIN_SEED, TEST_SEED = 0, 1


@dataclass(frozen=True)
class Garments:
    """Drawn pictures ``[N, 1, 28, 28]`` in 0…1, their classes, and the masks of what tells them."""

    images: Tensor
    labels: Tensor
    masks: Tensor

    @classmethod
    def drawn(cls, count: int, seed: int) -> Garments:
        """Draws."""
        garments = draw_garments(count, seed)
        images = torch.from_numpy(garments.images).float()[:, None] / 255
        return cls(images, torch.from_numpy(garments.labels), torch.from_numpy(garments.masks))

    def __getitem__(self, index: Tensor) -> Garments:
        return Garments(self.images[index], self.labels[index], self.masks[index])


@dataclass(frozen=True)
class Quality:
    """Means over the pictures; of ``blank``, their number."""

    energy: float
    points: float
    deletion: float
    insertion: float
    drop: float
    increase: float
    road: float
    blank: float


BETTER = ("high", "high", "low", "high", "low", "high", "high", "")
Table = dict[tuple[str, str], Quality]


def trained(garments: Garments, epochs: int, seed: int) -> nn.Module:
    """Trains the network with Adam, the same on every run on one machine, and returns it in evaluation mode."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = FashionMNISTClassifier()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    shuffle = torch.Generator().manual_seed(seed)
    for _ in range(epochs):
        for index in torch.randperm(len(garments.labels), generator=shuffle).split(BATCH):  # type: ignore[no-untyped-call]
            batch = garments[index]
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(batch.images), batch.labels).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
    return model.eval()


def measured(model: nn.Module, garments: Garments, maps: Tensor) -> Quality:
    """Holds maps of the true class against masks and model."""
    images, classes = garments.images, garments.labels
    energy = energy_inside(maps, garments.masks)
    deletion = deletion_curve(model, images, maps, classes=classes, steps=STEPS)
    insertion = insertion_curve(model, images, maps, classes=classes, steps=STEPS)
    return Quality(
        energy=float(energy.nanmean()),
        points=float(pointing_game(maps, garments.masks).float().mean()),
        deletion=float(area_under(deletion).nanmean()),
        insertion=float(area_under(insertion).nanmean()),
        drop=float(average_drop(model, images, maps, classes=classes).nanmean()),
        increase=float(average_increase(model, images, maps, classes=classes).nanmean()),
        road=float(road(model, images, maps, classes=classes).nanmean()),
        blank=float((maps.flatten(1).amax(dim=1) <= 0).sum()),
    )


def compare(model: nn.Module, garments: Garments) -> tuple[Table, dict[str, str]]:
    """Measures every method of the registry at every layer.

    Returns:
        ``(method, layer)`` to its numbers, the layer ``"model"`` for methods without one; and ``"method at layer"`` to
        why it was left out.
    """
    table: Table = {}
    left_out = {}
    images, labels = garments.images, garments.labels
    for method in available_methods():
        for layer in LAYERS:
            if (method, "model") in table:
                continue
            try:
                cams = compute_cams(model, images, layer, targets="label", methods=method, labels=labels)
            except MethodError as error:
                left_out[f"{method} at {layer}"] = str(error)
                continue
            for key, maps in cams.items():
                table[method, key.layer] = measured(model, garments, maps)
    return table, left_out


def report(table: Table) -> Iterator[str]:
    """The table's lines, the most energy inside first; a ``*`` marks what is worse than ``random``."""
    names = [field.name for field in fields(Quality)]
    yield f"{'method':<22}{'layer':<15}" + "".join(f"{name:>11}" for name in names)
    yield f"{'':<22}{'better is':<15}" + "".join(f"{better:>11}" for better in BETTER)
    for (method, layer), quality in sorted(table.items(), key=lambda row: -row[1].energy):
        *shares, blank = astuple(quality)
        *chances, _ = astuple(table["random", LAYERS[-1] if layer == "model" else layer])
        cells = ""
        for share, chance, better in zip(shares, chances, BETTER, strict=False):
            worse = share < chance if better == "high" else share > chance
            cells += f"{share:>10.3f}{'*' if worse else ' '}"
        yield f"{method:<22}{layer:<15}{cells}{blank:>10.0f}"
    yield f"* worse than random at the same layer (of maps without a layer: at {LAYERS[-1]})"


def main(arguments: list[str] | None = None) -> None:
    """Reads the options, trains, measures and prints."""
    parser = argparse.ArgumentParser(description="Compares CAM methods on drawn garments with known telling parts.")
    parser.add_argument("--pictures", type=positive, default=200, help="drawn test pictures")
    parser.add_argument("--train", type=positive, default=3000, help="drawn training pictures")
    parser.add_argument("--epochs", type=positive, default=5)
    parser.add_argument("--seed", type=int, default=0, help="of the network's weights and the order of its batches")
    parser.add_argument("--quick", action="store_true", help="some seconds, to see that it runs")
    options = read(parser, arguments)
    if options.quick:
        options.pictures, options.train, options.epochs = 10, 200, 1
    warnings.filterwarnings("ignore")
    begin = time.perf_counter()
    model = trained(Garments.drawn(options.train, TRAIN_SEED), options.epochs, options.seed)
    garments = Garments.drawn(options.pictures, TEST_SEED)
    with torch.no_grad():
        right = model(garments.images).argmax(dim=1) == garments.labels
    explained = garments[right] if bool(right.any()) else garments
    garment, masks = explained.images[:, 0] > 0, explained.masks
    print(f"drawn garments, not photographs: {options.train} to train on, {options.epochs} epochs")
    print(f"accuracy {float(right.float().mean()):.3f} on {len(right)} others; {len(masks)} of them are explained")
    inside = float((masks & garment).sum() / garment.sum())
    print(f"chance: the masks cover {float(masks.float().mean()):.3f} of the pictures, {inside:.3f} of the garments")
    print()
    table, left_out = compare(model, explained)
    print("\n".join(report(table)))
    for name, reason in left_out.items():
        print(f"left out: {name}: {reason}")
    print()
    print(f"seeds: training pictures {TRAIN_SEED}, test pictures {TEST_SEED}, network {options.seed}, metrics 0")
    versions = environment("lightning-gradcam", "torch", "numpy")
    seconds = time.perf_counter() - begin
    print(f"{versions}, {seconds:.0f} s")


if __name__ == "__main__":
    main()
