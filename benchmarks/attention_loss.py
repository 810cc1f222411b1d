"""Measures what `AttentionLoss` adds to a training step, against the same loss written by hand for that model.

    pip install -e ".[dev]"
    python benchmarks/attention_loss.py --threads 2

A step is a forward, cross entropy, a backward and SGD, on random pictures with masks. In each round, every rival takes
one step, in an order that rotates; ratios are medians of the rounds' own ratios. The rivals:

- ``plain``: the step without a loss on the maps.
- ``by hand``: a hook that keeps the layer's activation, ``torch.autograd.grad`` with ``create_graph``, Grad-CAM, the
  ReLU, bilinear resizing, and the share outside of the mask. It checks nothing.
- ``ours``: ``AttentionLoss(layer)``.

First the losses and gradients of both are compared; where they differ, the run stops with exit status 1.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional
from torchvision.models import resnet18

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "examples"))

from shortcut import TagClassifier

from benchmarks.common import environment, positive, read
from lightning_gradcam import AttentionLoss

WARM_UP, OF_HAND, WEIGHT = 3, 1.05, 0.5
Loss = Callable[[nn.Module, Tensor, Tensor, Tensor], Tensor]


def plain(model: nn.Module, x: Tensor, y: Tensor, _masks: Tensor) -> Tensor:
    """Cross entropy alone."""
    return functional.cross_entropy(model(x), y)


def by_hand(layer: str) -> Loss:
    """What a specialist would write for a layer of feature maps."""

    def loss(model: nn.Module, x: Tensor, y: Tensor, masks: Tensor) -> Tensor:
        kept: list[Tensor] = []
        hook = model.get_submodule(layer).register_forward_hook(lambda _module, _args, output: kept.append(output))
        logits = model(x)
        hook.remove()
        (gradients,) = torch.autograd.grad(logits.gather(1, y[:, None]).sum(), kept, create_graph=True)
        weights = gradients.mean(dim=(2, 3), keepdim=True)
        maps = (weights * kept[0]).sum(dim=1, keepdim=True).relu()
        maps = functional.interpolate(maps, masks.shape[1:], mode="bilinear")[:, 0]
        total = maps.sum(dim=(1, 2))
        outside = 1 - (maps * masks).sum(dim=(1, 2)) / total.clamp(min=1e-12)
        shown = total > 0
        value = (outside * shown).sum() / shown.sum().clamp(min=1)
        return functional.cross_entropy(logits, y) + WEIGHT * value

    return loss


def ours(layer: str) -> Loss:
    """The package's."""
    attention = AttentionLoss(layer)

    def loss(model: nn.Module, x: Tensor, y: Tensor, masks: Tensor) -> Tensor:
        with attention.watching(model):
            logits = model(x)
        value: Tensor = attention(logits, y, masks=masks)
        return functional.cross_entropy(logits, y) + WEIGHT * value

    return loss


def check(model: nn.Module, losses: dict[str, Loss], batch: tuple[Tensor, Tensor, Tensor]) -> None:
    """Compares the loss by hand and ours, and their gradients."""
    found = []
    for name in ("by hand", "ours"):
        copy = deepcopy(model).double()
        value = losses[name](copy, batch[0].double(), *batch[1:])
        value.backward()  # type: ignore[no-untyped-call]
        gradients = [p.grad.flatten() for p in copy.parameters() if p.grad is not None]
        found.append(torch.cat([value.detach()[None], *gradients]))
    off = float((found[0] - found[1]).abs().max() / found[0].abs().max())
    print(f"loss and gradients agree with those by hand up to {off:.0e}")
    if not off < 1e-8:
        raise SystemExit("they differ; nothing is timed")


def measure(model: nn.Module, losses: dict[str, Loss], batch: tuple[Tensor, Tensor, Tensor], rounds: int) -> None:
    """Times a step of each in every round, and prints the table."""
    models = {name: deepcopy(model) for name in losses}
    optimizers = {name: torch.optim.SGD(own.parameters(), lr=1e-3) for name, own in models.items()}
    seconds: dict[str, list[float]] = {name: [] for name in losses}
    for number in range(WARM_UP + rounds):
        turn = number % len(losses)
        for name in [*losses][turn:] + [*losses][:turn]:
            begin = time.perf_counter()
            optimizers[name].zero_grad()
            losses[name](models[name], *batch).backward()  # type: ignore[no-untyped-call]
            optimizers[name].step()
            seconds[name].append(time.perf_counter() - begin)
    kept = {name: values[WARM_UP:] for name, values in seconds.items()}
    print(f"{'':12}{'median ms':>10}{'of plain':>10}{'of hand':>10}")
    for name, values in kept.items():
        ratios = [statistics.median(a / b for a, b in zip(values, kept[o], strict=True)) for o in ("plain", "by hand")]
        print(f"{name:12}{1000 * statistics.median(values):>10.1f}{ratios[0]:>10.3f}{ratios[1]:>10.3f}")
    print(f"{ratios[1]:.3f}  {'met' if ratios[1] <= OF_HAND else 'MISSED'}  at most {OF_HAND} of the loss by hand")


def main(arguments: list[str] | None = None) -> None:
    """Reads the options, checks, measures and prints."""
    parser = argparse.ArgumentParser(description="Times training steps with AttentionLoss.")
    parser.add_argument("--rounds", type=positive, default=20, help="rounds that count")
    parser.add_argument("--small", action="store_true", help="tiny batches and pictures, to see that it runs")
    options = read(parser, arguments)
    for build, layer, count, size in (
        (lambda: resnet18(weights=None), "layer4", 8, 224),
        (TagClassifier, "network.relu2", 64, 44),
    ):
        torch.manual_seed(0)
        count, size = (2, size // 2) if options.small else (count, size)
        masks = torch.zeros(count, size, size, dtype=torch.bool)
        masks[:, : size // 2] = True
        batch = torch.rand(count, 3, size, size), torch.arange(count) % 10, masks
        model = build()
        print(f"\n{type(model).__name__}, {count} x {size}x{size}, {layer}")
        losses: dict[str, Loss] = {"plain": plain, "by hand": by_hand(layer), "ours": ours(layer)}
        check(model, losses, batch)
        measure(model, losses, batch, options.rounds)
    print(f"\n{environment('lightning-gradcam', 'torch', 'torchvision')}")


if __name__ == "__main__":
    main()
