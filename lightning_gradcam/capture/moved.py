"""Tests whether a layer's positions and rows match the image's and the samples', by changing parts of the image.

Normally, two forward passes of two samples confirm the match. Otherwise up to ten more forward passes find out what
the model does to the image before the layer. Uncertain results are ignored, because attention and large receptive
fields spread each change over all positions.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from lightning_gradcam.capture.calls import MapPlace
from lightning_gradcam.capture.changes import (
    Move,
    apart,
    are_exchanged,
    change,
    follows_content,
    in_place,
    meaning,
    reaches_all_sides,
    shifted,
)
from lightning_gradcam.capture.inputs import Forward, InputForm, Inputs
from lightning_gradcam.capture.layout import Layout
from lightning_gradcam.capture.shapes import same_proportions
from lightning_gradcam.capture.tensors import floating_tensors, level_maps

# Minimum correlation between the image and the resampled tensor.
_SAME = 0.999


@dataclass(frozen=True, eq=False)
class LayerMap:
    """One feature map to explain.

    Attributes:
        module: The layer.
        at: The map's call and index in the layer.
        layout: The meaning of the map's axes.
        seen: The maps of the first two samples from the explanation's own forward pass, ``[2, C, *S]``.
    """

    module: nn.Module
    at: MapPlace
    layout: Layout
    seen: Tensor


class Operations(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Records whether a forward pass resampled the image, and which spectra it has not yet transformed back.

    After a learned warp of the image, or in a spectrum, positions no longer correspond to the image. The effect of such
    operations depends on the weights, so changing the image proves nothing. The fact that they ran is sufficient.

    Args:
        picture: The model's input image, ``[N, C, H, W]``.

    Example:
        >>> with Operations(torch.zeros(1, 3, 8, 8)) as operations:
        ...     spectrum = torch.fft.rfft2(torch.zeros(1, 4, 6, 8))
        >>> operations.move((1, 16, 6, 5)).kind, operations.move((1, 16, 6, 8))
        ('spectrum', None)
    """

    def __init__(self, picture: Tensor) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._warped = False
        self._picture = picture
        self._spectra: list[tuple[int, ...]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        name = func.overloadpacket.__name__
        if name in ("grid_sampler_2d", "cudnn_grid_sampler", "grid_sampler"):
            self._warped = self._warped or _is_same_picture(args[0], self._picture)
        elif name == "_fft_r2c" and len(args[1]) == 2:
            self._spectra.append(tuple(made.shape[-2:]))
        elif name == "_fft_c2r" and self._spectra:
            self._spectra.pop()
        return made

    def move(self, shape: Sequence[int]) -> Move | None:
        """Returns how the operations so far moved the positions of a feature map ``[N, C, h, w]`` computed now."""
        if tuple(shape[-2:]) in self._spectra:
            return Move(
                "spectrum", "its locations are frequencies, as it lies between a Fourier transform and its inverse"
            )
        return Move("warp", "the model resamples the image (grid_sample) before it") if self._warped else None


def _is_same_picture(one: Tensor, picture: Tensor) -> bool:
    """Whether a tensor is the image, up to a scale and an offset for each channel."""
    if one.shape != picture.shape:
        return False
    flat = torch.stack([one.detach().double(), picture.detach().double()]).flatten(3)
    flat = flat - flat.mean(3, keepdim=True)
    both, sizes = (flat[0] * flat[1]).sum(2), flat.norm(dim=3).prod(0)
    return bool((both >= _SAME * sizes).all())


class Trial:
    """Runs the model on changed images.

    Args:
        run: Maps inputs to the output.
        inputs: The samples; only the first two are used.
        axes: The meaning of the image's axes, as in :class:`InputForm`.
    """

    def __init__(self, run: Forward, inputs: Inputs, axes: str = "") -> None:
        self._run, self._inputs = run, inputs.part(0, 2)
        self.single = inputs.samples == 1
        own = self._inputs.picture.detach()
        self._form = InputForm(own, axes)
        seen = self._form.seen(own)
        self.size = tuple(seen.shape[-2:])
        self.pair = seen.repeat(2, *[1] * (seen.dim() - 1)) if self.single else seen
        finite = self.pair.nan_to_num(0.0, 0.0, 0.0)
        spread = finite.std()
        self._step = torch.where(spread > 0, spread, 1)
        self.alone = len(floating_tensors(self._inputs.fresh())) <= 1
        """Whether the image is the only floating-point input, so that no mask can hide a part of it."""

    def changed(self, sample: int, *regions: tuple[slice, slice], seed: int = 0) -> Tensor:
        """Returns a sample with some regions of its image replaced, or all of it, ``[1, C, *S]``."""
        mask = self.mask(*regions or [(slice(None), slice(None))])
        return replaced(self.pair[sample : sample + 1], mask, self._step, seed=seed)

    def mask(self, *regions: tuple[slice, slice]) -> Tensor:
        """Returns the mask of some regions, ``[H, W]``."""
        return mask_of(self.size, *regions)

    def maps(
        self, places: Mapping[str, LayerMap], first: Tensor, second: Tensor, moves: dict[str, Move] | None = None
    ) -> tuple[dict[str, Tensor], Any]:
        """Returns the feature maps ``[2, C, *S]`` of two samples, and the model's output.

        Args:
            places: The maps to return, by layer name.
            first: A sample ``[1, C, *S]``.
            second: A second sample of the same shape.
            moves: If given, filled with what the operations in this forward pass show about each layer.
        """
        found, calls = dict[str, Tensor](), Counter[nn.Module]()
        picture = self._form.restored(torch.cat([first, second]))
        operations = None if moves is None else Operations(picture)

        def hook(module: nn.Module, _args: Any, output: Any) -> None:
            calls[module] += 1
            levels = level_maps(output)
            for name, place in places.items():
                if levels is not None and place.module is module and place.at.call == calls[module] - 1:
                    rows = place.layout.rows(levels[0][place.at.tensor].detach())
                    found[name] = rows.float().nan_to_num(0.0, 0.0, 0.0)
                    if moves is not None and operations is not None and (move := operations.move(rows.shape)):
                        moves[name] = move

        with ExitStack() as stack, torch.no_grad():
            for module in {place.module for place in places.values()}:
                stack.callback(module.register_forward_hook(hook).remove)
            stack.enter_context(nullcontext() if operations is None else operations)
            output = self._run(self._inputs.fresh(picture.clone(), copies=2 if self.single else 1))
        return found, output


def replaced(picture: Tensor, mask: Tensor, step: Tensor, *, seed: int) -> Tensor:
    """Returns images ``[N, C, *S]`` with other values where the mask ``[H, W]`` is true.

    Args:
        picture: The images.
        mask: Where they change.
        step: How much they change; one value, or one for each pixel.
        seed: The random seed of the change.
    """
    generator = torch.Generator().manual_seed(seed)
    # Strides average away pure noise, and norms remove a pure step.
    noise = torch.randn(picture.shape, generator=generator, device="cpu").to(picture) + 1
    return torch.where(mask.to(picture.device), picture + noise * step, picture)


def mask_of(size: Sequence[int], *regions: tuple[slice, slice]) -> Tensor:
    """Returns the mask of some regions, ``[H, W]``."""
    mask = torch.zeros(tuple(size), dtype=torch.bool, device="cpu")
    for rows, columns in regions:
        mask[rows, columns] = True
    return mask


def told_by(size: Sequence[int]) -> list[list[tuple[slice, slice]]]:
    """Returns the regions whose changes show what happens to an image: each corner, a frame, and the whole image."""
    h, w = size
    ys, xs = (slice(0, h * 3 // 8), slice(h - h * 3 // 8, h)), (slice(0, w * 3 // 8), slice(w - w * 3 // 8, w))
    whole = [(slice(None), slice(None))]
    return [*([(rows, columns)] for rows in ys for columns in xs), _regions(size)[2], whole]


def find_moves(trial: Trial, places: Mapping[str, LayerMap]) -> dict[str, Move]:
    """Finds the layers whose positions or rows do not match the image's positions or the samples.

    Args:
        trial: Runs the model.
        places: The feature maps to explain, by layer name.

    Returns:
        Findings by layer name; layers that match, or for which nothing is certain, are omitted.
    """
    if min(trial.size) < 8:
        return {}
    found = dict[str, Move]()
    if not (suspects := _suspects(trial, places, found)):
        return found
    one, two = (trial.pair[at : at + 1] for at in (0, 1))
    plain, output = trial.maps(suspects, one, two)
    if not trial.single:
        swapped, other = trial.maps(suspects, two, one)
        changed = [trial.maps(suspects, *pair)[0] for pair in ((trial.changed(0), two), (one, trial.changed(1)))]
        for name in suspects:
            if follows_content(plain[name], swapped[name], output, other):
                found[name] = Move("samples", "the samples are sorted or grouped inside the model")
            elif are_exchanged(plain[name], *(maps[name] for maps in changed)):
                found[name] = Move("samples", "the samples are in another order inside the model")
    left = {name: place for name, place in suspects.items() if name not in found}
    # Repeat with different noise and a different sample: a real effect appears both times.
    once = {name: move for name, move in _told(trial, left, plain, sample=0).items() if move is not None}
    again = _told(trial, {name: left[name] for name in once}, plain, sample=1)
    return found | {name: move for name, move in once.items() if again[name] == move}


def _is_picture(layout: Layout, size: Sequence[int]) -> bool:
    """Whether the last two spatial axes should be the image's."""
    if layout.fold or len(layout.grid) < 2 or min(layout.grid[-2:]) < 3:
        return False
    # The spectrum of a signal, for instance, has other proportions.
    return any(same_proportions(layout.grid, turned) for turned in (size, size[::-1]))


def _regions(size: Sequence[int]) -> tuple[list[tuple[slice, slice]], ...]:
    """Returns a region at the top, slightly left; one at the bottom, slightly right; and a frame around the image."""
    h, w = size
    above = [(slice(0, h // 4), slice(w // 8, w * 5 // 8))]
    below = [(slice(h - h // 4, h), slice(w * 3 // 8, w * 7 // 8))]
    a, b, all_ = max(h // 16, 1), max(w // 16, 1), slice(None)
    frame = [(slice(0, a), all_), (slice(h - a, h), all_), (all_, slice(0, b)), (all_, slice(w - b, w))]
    return above, below, frame


def _suspects(trial: Trial, places: Mapping[str, LayerMap], moves: dict[str, Move]) -> dict[str, LayerMap]:
    """Runs two forward passes and returns the layers that do not clearly show each change where it was made.

    Adds what the operations show about each layer to ``moves``.
    """
    above, below, frame = _regions(trial.size)
    first, _ = trial.maps(places, trial.changed(0, *above), trial.pair[1:2], moves)
    looked = {n: place for n, place in places.items() if n not in moves and _is_picture(place.layout, trial.size)}
    if not looked:
        return {}
    places = looked
    second, _ = trial.maps(places, trial.changed(1, *frame), trial.changed(0, *below))
    masks = [trial.mask(*regions) for regions in (above, below, frame)]
    found = dict[str, LayerMap]()
    for name, place in places.items():
        base = place.seen.float().nan_to_num(0.0, 0.0, 0.0)
        base = base if len(base) == 2 else base.repeat(2, *[1] * (base.dim() - 1))
        one, two = first.get(name), second.get(name)
        if one is None or two is None or one.shape != base.shape or two.shape != base.shape:
            continue
        stays = apart(one[1], base[1]) <= 0.1 * apart(one[0], one[1])
        ordered = trial.single or (stays and apart(two[1], base[0]) <= apart(two[0], base[0]))
        top, bottom, around = changes = change(one[0], base[0]), change(two[1], base[0]), change(two[0], base[1])
        if not (ordered and in_place(top, bottom) and reaches_all_sides(around)) or shifted(changes, masks):
            found[name] = place
    return found


def _told(
    trial: Trial, places: Mapping[str, LayerMap], plain: Mapping[str, Tensor], *, sample: int
) -> dict[str, Move | None]:
    """Changes each corner, the frame and the whole image; returns what is certain about each layer."""
    if not places:
        return {}
    changes = told_by(trial.size)
    pictures = [trial.changed(sample, *regions, seed=1 + sample) for regions in changes]
    base = {name: plain[name][0 if trial.single else sample] for name in places}
    found: dict[str, list[Tensor]] = {name: [] for name in places}
    for one, two in zip(pictures[::2], pictures[1::2], strict=True):
        maps, _ = trial.maps(places, one, two)
        for name in places:
            found[name] += [change(maps[name][at], base[name]) for at in (0, 1)]
    # All regions except the whole image, which fits every shift.
    masks = [trial.mask(*regions) for regions in changes[:-1]]
    return {name: shifted(seen[:-1], masks) or meaning(seen, alone=trial.alone) for name, seen in found.items()}
