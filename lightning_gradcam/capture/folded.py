"""Frames, slices or patches that a model folds into the batch: which rows of a layer's output are which frame's.

The order of the rows is tried out and not guessed: one frame of one sample is changed, and the rows that change are its
own. Where modules before the layer mix frames, those of the first folded layer hold as long as the rows stay the same.
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

# Of a row's numbers, relative to the largest row's; a changed frame changes them by far more.
_PRECISION = 1e-5
# From a part of the input to the rows of each layer's output that change with it.
_Changed = Callable[[tuple[Any, ...]], Mapping[str, set[int]]]


@dataclass(frozen=True)
class Fold:
    """How frames are ordered in the batch.

    Attributes:
        axis: The input's axis that they come from, 1 or 2.
        frames: How many a sample has.
        order: ``"NT"``: a sample's frames follow each other; ``"TN"``: the first frames of all samples come first.
    """

    axis: int
    frames: int
    order: str

    def rows(self, samples: int) -> set[int]:
        """Returns the rows of the first sample, where there are ``samples``."""
        step = 1 if self.order == "NT" else samples
        return {frame * step for frame in range(self.frames)}


def foldable(shape: Sequence[int], picture: Sequence[int], samples: int) -> dict[int, int]:
    """Returns the input's axes that could be folded into a layer's batch, and their lengths.

    Args:
        shape: The layer's output.
        picture: The input's shape, ``[N, T, C, H, W]``, ``[N, C, T, H, W]``, ``[N, T, H, W, C]`` or ``[N, T, H, W]``.
        samples: How many there are.

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
    """Finds out by trial which frame each row of the folded layers' outputs belongs to.

    Args:
        model: The model, in evaluation mode.
        layers: Its layers, by name.
        calls: What ran, in order; of a layer that ran several times the last call counts.
        picture: The input of one sample or more, ``[N, …]``.
        forward: From another picture to the model's output.

    Returns:
        Layer to fold; layers of which nothing was found out are left out.
    """
    samples, shape = len(picture), tuple(picture.shape)
    last = {seen.name: seen for seen in calls}
    possible = {name: found for name, seen in last.items() if (found := foldable(seen.shape, shape, samples))}
    if not possible:
        return {}
    changed = partial(_changed_rows, {name: layers[name] for name in possible}, picture, forward)
    folds = _by_rows(changed, possible, samples)
    if not folds:
        # Dead units or a gate that begins at zero may hide the frame.
        with awakened(model):
            folds = _by_rows(changed, possible, samples)
    return folds | _handed_on(calls, folds, changed((0,)), samples) if folds else {}


def _by_rows(changed: _Changed, possible: Mapping[str, Mapping[int, int]], samples: int) -> dict[str, Fold]:
    """Returns the layers in which the second frame of the first sample changes its own row alone."""
    found = dict[str, Fold]()
    for axis, frames in {(axis, frames) for axes in possible.values() for axis, frames in axes.items()}:
        place = (0, 1) if axis == 1 else (0, slice(None), 1)
        for name, rows in changed(place).items():
            if len(rows) == 1 and possible[name].get(axis) == frames and rows <= {1, samples}:
                # Of one sample, both orders are the same.
                found[name] = Fold(axis, frames, "NT" if rows == {1} else "TN")
    return found


def _handed_on(
    calls: Sequence[Seen], folds: Mapping[str, Fold], changed: Mapping[str, set[int]], samples: int
) -> dict[str, Fold]:
    """Returns the layers that mix frames behind a layer with a known fold, and still have its rows."""
    found: dict[str, Fold] = {}
    current: Fold | None = None
    for seen in calls:
        current = folds.get(seen.name, current)
        if current is None:
            continue
        if seen.shape[0] != samples * current.frames:
            # Other rows may come back as many, and be windows then.
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
    """Returns other values of the same kind, without drawing global random numbers."""
    generator = torch.Generator().manual_seed(0)
    if not part.is_floating_point():
        return torch.randint(0, 2 if part.dtype == torch.bool else 127, part.shape, generator=generator).to(part)
    drawn = torch.randn(part.shape, generator=generator).to(part)
    spread = part.nan_to_num(0.0, 0.0, 0.0).std() if part.numel() > 1 else torch.zeros(())
    return part + drawn * torch.where(spread > 0, spread, 1).to(part)


def _numbers(layers: Mapping[str, nn.Module], forward: Callable[[], Any]) -> dict[str, Tensor]:
    """Returns a few numbers of every row of each layer's last output, ``[R, 3]``: outputs are too large to keep."""
    found: dict[str, Tensor] = {}

    def keep(name: str, _module: nn.Module, _args: Any, output: Any) -> None:
        main = main_tensor(output)
        if main is not None and main[0].dim() > 1:
            flat = main[0].detach().flatten(1).float().nan_to_num(0.0, 0.0, 0.0)
            weights = torch.arange(flat.shape[1], device=flat.device).cos()
            found[name] = torch.stack([flat.mean(1), flat.abs().mean(1), (flat * weights).mean(1)], 1).cpu()

    with ExitStack() as stack, torch.no_grad():
        for name, module in layers.items():
            stack.callback(module.register_forward_hook(partial(keep, name)).remove)
        forward()
    return found
