"""Tests whether a function of images, such as a transfer hook, leaves each part of an image in its place.

The approach is that of :mod:`lightning_gradcam.capture.moved`: parts of the images are changed, and each change must
appear in the result where it was made. Here, no layer spreads the changes, so every image is judged separately.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress

import torch
from torch import Tensor

from lightning_gradcam.capture.changes import change, meaning, shifted
from lightning_gradcam.capture.inputs import InputForm
from lightning_gradcam.capture.layout import input_size
from lightning_gradcam.capture.moved import mask_of, replaced, told_by

# Places of smaller images can't be told apart.
_LEAST_SIDE = 8
# The most images and numbers to judge: eight photographs of 224 x 224 pixels, because the function runs up to 13 times.
_MOST, _NUMBERS = 8, 8 * 3 * 224 * 224


def few(images: Tensor) -> int:
    """Returns how many of the images can be judged in a fraction of a second: at most eight, at least one."""
    return max(1, min(_MOST, len(images), _NUMBERS // max(images[0].numel(), 1)))


def image_moves(run: Callable[[Tensor], Tensor], images: Tensor) -> dict[int, str]:
    """Finds the images whose parts a function moves, crops or pads.

    Args:
        run: Maps images to the images that the model receives. It must draw the same random numbers at each call.
        images: ``[N, C, *S]`` or ``[N, *S, C]``, of any dtype; for other shapes, nothing is found.

    Returns:
        A mapping from the index of each such image to what happens to it: ``"turned"``, ``"shifted"``, ``"part"`` or
        ``"border"`` (see :class:`~lightning_gradcam.capture.changes.Move`). Unclear cases are omitted.

    Example:
        >>> images = torch.rand(2, 3, 16, 16)
        >>> image_moves(lambda x: x * 2 - 1, images), image_moves(lambda x: x.flip(3), images)
        ({}, {0: 'turned', 1: 'turned'})
    """
    size = input_size(images) if images.dim() > 3 else None
    if size is None or min(size[-2:]) < _LEAST_SIDE:
        return {}
    form = InputForm(images)
    own = form.seen(images)
    made = _made(run, images)
    if made is None or (made.shape == own.shape and bool(torch.equal(made, own))):
        return {}
    once = _found(run, form, own, made, seed=1)
    # Repeat with other noise: a real effect appears both times.
    again = _found(run, form, own, made, seed=2) if once else {}
    return {number: kind for number, kind in once.items() if again.get(number) == kind}


def _found(run: Callable[[Tensor], Tensor], form: InputForm, own: Tensor, base: Tensor, *, seed: int) -> dict[int, str]:
    finite = own.nan_to_num(0.0, 0.0, 0.0)
    spread = finite.std()
    # Towards the middle: bytes at the limits could not change further.
    step = torch.where(spread > 0, spread, 1) * torch.where(finite > finite.mean(), -1, 1)
    masks = [mask_of(own.shape[-2:], *regions) for regions in told_by(own.shape[-2:])]
    changed = [_made(run, form.restored(replaced(own, mask, step, seed=seed))) for mask in masks]
    made = [each for each in changed if each is not None and each.shape == base.shape]
    if len(made) < len(masks):
        return {}
    found: dict[int, str] = {}
    for number in range(len(own)):
        ends = [each[number] for each in made]
        if _in_place(ends, masks, base[number]):
            continue
        seen = [change(end, base[number]) for end in ends]
        # Not the whole image, which fits every shift.
        move = shifted(seen[:-1], masks[:-1]) or meaning(seen, alone=True)
        if move is not None:
            found[number] = move.kind
    return found


def _in_place(ends: Sequence[Tensor], masks: Sequence[Tensor], base: Tensor) -> bool:
    """Whether each pixel depends on itself only, so that black borders and erased parts are no moves.

    The last change is that of the whole image; the others are the same change in a part of it.
    """
    return base.shape[-2:] == masks[0].shape and all(
        torch.equal(end, torch.where(mask.to(base.device), ends[-1], base))
        for end, mask in zip(ends[:-1], masks[:-1], strict=True)
    )


def _made(run: Callable[[Tensor], Tensor], images: Tensor) -> Tensor | None:
    """Returns what a function makes of images, ``[N, C, *S]``; ``None`` if that is not as many images."""
    with suppress(Exception), torch.no_grad():
        made = run(images.clone())
        if len(made) == len(images) and input_size(made) is not None:
            return InputForm(made).seen(made).nan_to_num(0.0, 0.0, 0.0)
    return None
