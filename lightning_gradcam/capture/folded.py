"""Frames, slices or patches that a model folds into the batch: finds the frame of each row of a layer's output.

The order of the rows is measured, not guessed: when one frame of one sample changes, the rows that change belong to it.
If earlier modules mix frames, the order at the first folded layer is used as long as the rows stay the same.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from lightning_gradcam.capture.awaken import awakened
from lightning_gradcam.capture.tensors import main_tensor
from lightning_gradcam.capture.trail import Seen

# Tolerance for a row's numbers, relative to the largest row; a changed frame changes them far more.
_PRECISION = 1e-5
# Maps a part of the input to the rows of each layer's output that change with it.
_Changed = Callable[[tuple[Any, ...]], Mapping[str, set[int]]]


@dataclass(frozen=True)
class Fold:
    """The order of frames in the batch.

    Attributes:
        axis: The input axis that contains the frames, 1 or 2.
        frames: Number of frames in each sample.
        order: ``"NT"``: frames are ordered sample by sample; ``"TN"``: the first frames of all samples come first.
    """

    axis: int
    frames: int
    order: str

    def rows(self, samples: int) -> set[int]:
        """Returns the rows of the first of ``samples`` samples."""
        step = 1 if self.order == "NT" else samples
        return {frame * step for frame in range(self.frames)}


def foldable(shape: Sequence[int], picture: Sequence[int], samples: int) -> dict[int, int]:
    """Returns the input axes that could be folded into a layer's batch, with their lengths.

    Args:
        shape: The shape of the layer's output.
        picture: The input's shape, ``[N, T, C, H, W]``, ``[N, C, T, H, W]``, ``[N, T, H, W, C]`` or ``[N, T, H, W]``.
        samples: Number of samples.

    Example:
        >>> foldable((10, 8, 16, 16), (2, 5, 3, 32, 32), 2), foldable((8, 8, 16, 16), (2, 5, 3, 32, 32), 2)
        ({1: 5}, {})
    """
    if len(shape) not in (3, 4) or len(picture) not in (4, 5):
        return {}
    axes = (1, 2) if len(picture) == 5 else (1,)
    return {axis: picture[axis] for axis in axes if picture[axis] > 1 and shape[0] == samples * picture[axis]}


def find_folds(
    model: nn.Module,
    layers: Mapping[str, nn.Module],
    calls: Sequence[Seen],
    picture: Tensor,
    forward: Callable[[Tensor], Any],
) -> dict[str, Fold]:
    """Determines experimentally which frame each row of the folded layers' outputs belongs to.

    Args:
        model: The model, in evaluation mode.
        layers: Its layers, by name.
        calls: The calls in order; if a layer was called several times, its last call counts.
        picture: The input of one or more samples, ``[N, …]``.
        forward: Maps an input of this shape to the model's output.

    Returns:
        Folds by layer name; layers without a result are omitted.
    """
    samples, shape = len(picture), tuple(picture.shape)
    last = {seen.name: seen for seen in calls}
    possible = {name: found for name, seen in last.items() if (found := foldable(seen.shape, shape, samples))}
    if not possible:
        return {}
    changed = partial(_changed_rows, {name: layers[name] for name in possible}, picture, forward)
    folds = _by_rows(changed, possible, samples)
    if not folds:
        # Dead units or a zero-initialised gate may hide the frame.
        with awakened(model):
            folds = _by_rows(changed, possible, samples)
    return folds | _handed_on(calls, folds, changed((0,)), samples) if folds else {}


def _by_rows(changed: _Changed, possible: Mapping[str, Mapping[int, int]], samples: int) -> dict[str, Fold]:
    """Returns the layers in which the second frame of the first sample changes only its own row."""
    found = dict[str, Fold]()
    for axis, frames in {(axis, frames) for axes in possible.values() for axis, frames in axes.items()}:
        place = (0, 1) if axis == 1 else (0, slice(None), 1)
        for name, rows in changed(place).items():
            if len(rows) == 1 and possible[name].get(axis) == frames and rows <= {1, samples}:
                # With one sample, both orders are the same.
                found[name] = Fold(axis, frames, "NT" if rows == {1} else "TN")
    return found


def _handed_on(
    calls: Sequence[Seen], folds: Mapping[str, Fold], changed: Mapping[str, set[int]], samples: int
) -> dict[str, Fold]:
    """Returns the layers that mix frames after a layer with a known fold but still have its rows."""
    found: dict[str, Fold] = {}
    current: Fold | None = None
    for seen in calls:
        current = folds.get(seen.name, current)
        if current is None:
            continue
        if seen.shape[0] != samples * current.frames:
            # Later layers may have the same number of rows again, but these may then be windows.
            current = None if len(seen.shape) > 3 else current
        elif changed.get(seen.name, {-1}) <= current.rows(samples):
            found[seen.name] = current
    return found


def _changed_rows(
    layers: Mapping[str, nn.Module], picture: Tensor, forward: Callable[[Tensor], Any], place: tuple[Any, ...]
) -> dict[str, set[int]]:
    """Returns which rows of each layer's output change with a part of the input."""
    other = picture.detach().clone()
    other[place] = _another(other[place])
    one = _numbers(layers, lambda: forward(picture.detach().clone()))
    two = _numbers(layers, lambda: forward(other.clone()))
    found = {}
    for name, numbers in one.items():
        if name in two and two[name].shape == numbers.shape:
            far = (numbers - two[name]).abs() > _PRECISION * numbers.abs().amax(0).maximum(two[name].abs().amax(0))
            found[name] = set(far.any(1).nonzero()[:, 0].tolist())
    return found


def _another(part: Tensor) -> Tensor:
    """Returns different values of the same kind, without using global random numbers."""
    generator = torch.Generator().manual_seed(0)
    if not part.is_floating_point():
        return torch.randint(
            0, 2 if part.dtype == torch.bool else 127, part.shape, generator=generator, device="cpu"
        ).to(part)
    drawn = torch.randn(part.shape, generator=generator, device="cpu").to(part)
    spread = part.nan_to_num(0.0, 0.0, 0.0).std() if part.numel() > 1 else torch.zeros((), device="cpu")
    return part + drawn * torch.where(spread > 0, spread, 1).to(part)


def _numbers(layers: Mapping[str, nn.Module], forward: Callable[[], Any]) -> dict[str, Tensor]:
    """Returns three numbers for each row of each layer's last output, ``[R, 3]``; outputs are too large to keep."""
    found: dict[str, Tensor] = {}

    def keep(name: str, _module: nn.Module, _args: Any, output: Any) -> None:
        main = main_tensor(output)
        if main is not None and main.dim() > 1:
            flat = main.detach().flatten(1).float().nan_to_num(0.0, 0.0, 0.0)
            weights = torch.arange(flat.shape[1], device=flat.device).cos()
            found[name] = torch.stack([flat.mean(1), flat.abs().mean(1), (flat * weights).mean(1)], 1).cpu()

    with ExitStack() as stack, torch.no_grad():
        for name, module in layers.items():
            stack.callback(module.register_forward_hook(partial(keep, name)).remove)
        forward()
    return found
