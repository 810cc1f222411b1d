"""Interprets how a layer changes when different parts of the input image are changed.

Attention and large receptive fields spread each change over all positions. Therefore only positions where one change
exceeds the others count, and unclear results are ignored.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import permutations
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d

from lightning_gradcam.capture.tensors import floating_tensors

_CORNERS = range(4)
_CORNER_NAMES = ("top left", "top right", "bottom left", "bottom right")
# Where a change in each corner appears, for each transformation of the image.
_TURNS = {
    (1, 0, 3, 2): "mirrored from left to right",
    (2, 3, 0, 1): "mirrored from top to bottom",
    (3, 2, 1, 0): "turned by 180 degrees",
    (0, 2, 1, 3): "transposed (rows become columns)",
    (3, 1, 2, 0): "transposed and turned by 180 degrees",
    (1, 3, 0, 2): "turned by 90 degrees clockwise",
    (2, 0, 3, 1): "turned by 90 degrees counterclockwise",
}
# Changes below this fraction of the mean change are rounding error.
_ROUNDING = 1e-3
# Two samples with a smaller relative difference can't be told apart.
_ALIKE = 0.01
# No result is trusted unless a corner's change is larger in its quarter than in the others by this factor.
_CLEAR = 1.5
# How much better all changes must fit shifted positions than their own. Without a shift, no fit improves by 1.05.
_SHIFTED = 1.2
# A part of the image whose effect is below this fraction of another part's counts as not seen.
_UNSEEN = 1 / 30
# A position's change is below this fraction of the mean only if no part of the image reaches it.
_UNREACHED = 1e-6


@dataclass(frozen=True)
class Move:
    """Why a layer's positions or rows do not correspond to those of the input.

    Attributes:
        kind: ``"samples"``: its rows belong to other samples; ``"turned"``: its positions are rotated or mirrored;
            ``"shifted"``: they are shifted; ``"part"``: it sees only a part of the image; ``"border"``: some of its
            positions lie outside the image; ``"warp"``: the image is resampled before it; ``"spectrum"``: its positions
            are frequencies.
        what: A description in words.
    """

    kind: str
    what: str


def in_place(top: Tensor, bottom: Tensor) -> bool:
    """Whether the changes at the top, bottom, left and right appear where they were made."""
    sums = float(top.mean()), float(bottom.mean())
    if min(sums) * 8 <= max(sums) or not max(sums):
        return False
    h, w = top.shape
    rest = _ROUNDING * max(sums)
    ratio = ((top + rest) / (bottom + rest)).log()
    y = torch.linspace(-1, 1, h, device=top.device)[:, None]
    x = torch.linspace(-1, 1, w, device=top.device)[None]
    down, right = float((ratio * y).mean() / (y * y).mean()), float((ratio * x).mean() / (x * x).mean())
    # The changes lie on an axis 18 degrees from the vertical; each turn would move it by 36 degrees or more.
    return down < right < 0


def reaches_all_sides(change: Tensor) -> bool:
    """Whether a change ``[h, w]`` reaches the outermost positions on all four sides."""
    least = _ROUNDING * float(change.mean())
    return least > 0 and all(float(side.max()) > least for side in (change[0], change[-1], change[:, 0], change[:, -1]))


def apart(one: Tensor, two: Tensor) -> float:
    """Returns the mean absolute difference of two tensors."""
    return float((one - two).abs().mean())


def change(one: Tensor, two: Tensor) -> Tensor:
    """Returns how much each position changes, ``[h, w]``, summed over all frames and slices."""
    sizes = (one - two).abs().double().sum(0)
    return sizes.flatten(0, -3).sum(0) if sizes.dim() > 2 else sizes


def follows_content(plain: Tensor, swapped: Tensor, output: Any, other: Any) -> bool:
    """Whether swapping two samples swaps their outputs but not the layer's rows."""
    if plain.shape != swapped.shape or len(plain) != 2 or not _stays(plain, swapped):
        return False
    outputs = [next((t for t in floating_tensors(o) if t.dim() and len(t) == 2), None) for o in (output, other)]
    if outputs[0] is None or outputs[1] is None or outputs[0].shape != outputs[1].shape:
        return False
    return _stays(outputs[0].float(), outputs[1].float().flip(0))


def are_exchanged(plain: Tensor, first: Tensor, second: Tensor) -> bool:
    """Whether a change of either sample, ``first`` or ``second``, changes only the other sample's row of the layer."""
    if not plain.shape == first.shape == second.shape or len(plain) != 2:
        return False
    return all(
        apart(other[at], plain[at]) <= _ROUNDING * apart(other[1 - at], plain[1 - at])
        and apart(other[1 - at], plain[1 - at]) > 0
        for at, other in enumerate((first, second))
    )


def _stays(one: Tensor, two: Tensor) -> bool:
    """Whether two rows are unchanged rather than swapped; false if the two rows are alike."""
    size = apart(one[0], one[1])
    return size > _ALIKE * float(one.abs().mean()) and apart(one, two) <= _ROUNDING * size


def meaning(changes: Sequence[Tensor], *, alone: bool) -> Move | None:
    """Returns what the changes establish about a layer.

    Args:
        changes: How much each position changes, ``[h, w]``, when the top left, top right, bottom left or bottom right
            of the image changes, then a frame around it, then all of it.
        alone: Whether the image is the only input, so that no mask can hide a part of it.

    Returns:
        What the model does to the image before the layer; ``None`` if that is not certain.
    """
    *corners, frame, whole = changes
    if not float(whole.mean()):
        return None
    quarters = torch.stack([torch.stack([q.mean() for q in _quarters(corner)]) for corner in corners])
    strengths = quarters.mean(1)
    unseen = [k for k in _CORNERS if float(strengths[k]) < _UNSEEN * float(strengths.max())]
    if not unseen:
        turn = _turn(quarters)
        if turn in _TURNS:
            return Move("turned", f"the image is {_TURNS[turn]} inside the model")
    if not alone:
        return None
    sides = {"top": whole[0], "bottom": whole[-1], "left": whole[:, 0], "right": whole[:, -1]}
    bare = [name for name, side in sides.items() if float(side.max()) <= _UNREACHED * float(whole.mean())]
    if bare:
        where = " and ".join([", ".join(bare[:-1]), bare[-1]] if bare[1:] else bare)
        return Move("border", f"its values at the {where} of the map do not depend on the image")
    even = torch.stack([q.mean() for q in _quarters(whole)])
    if unseen and float(even.min()) * 3 > float(even.max()):
        named = ", ".join(_CORNER_NAMES[k] for k in unseen)
        return Move("part", f"changes at the image's {named} hardly affect the layer")
    if float(frame.mean()) <= _UNREACHED * float(whole.mean()):
        return Move("part", "the outermost 1/16 of the image on each side does not affect the layer")
    return None


def shifted(changes: Sequence[Tensor], masks: Sequence[Tensor]) -> Move | None:
    """Returns a move if all changes appear at the same offset from their origin, wrapping around at the edges.

    Args:
        changes: How much each position changes, ``[h, w]``.
        masks: Where the image was changed, 1 or 0 ``[H, W]``.
    """
    gains = []
    for change, mask in zip(changes, masks, strict=True):
        made = adaptive_avg_pool2d(mask.to(change)[None], (change.shape[0], change.shape[1]))[0]
        # How well the measured change fits each shift of the change that was made, [h, w].
        fit = torch.fft.irfft2(torch.fft.rfft2(change) * torch.fft.rfft2(made).conj(), s=change.shape)
        gains.append(fit / fit[0, 0].clamp(min=torch.finfo(fit.dtype).tiny))
    if float(torch.stack(gains).amin(0).max()) <= _SHIFTED:
        return None
    return Move("shifted", "the image is shifted inside the model (torch.roll)")


def _quarters(change: Tensor) -> list[Tensor]:
    h, w = change.shape
    rows, columns = (slice(0, h // 2), slice(h - h // 2, h)), (slice(0, w // 2), slice(w - w // 2, w))
    return [change[r, c] for r in rows for c in columns]


def _turn(quarters: Tensor) -> tuple[int, ...] | None:
    """Returns the quarter of the layer in which each corner's change is largest; ``None`` if that is not clear."""
    logs = (quarters + 1e-9 * quarters.max()).log()
    # Normalise away how strong each corner's change is and how much each quarter changes overall.
    logs = logs - logs.mean(0) - logs.mean(1, keepdim=True) + logs.mean()
    best = max(permutations(_CORNERS), key=lambda order: float(logs[list(_CORNERS), list(order)].sum()))
    own = logs[list(_CORNERS), list(best)]
    others = logs.clone()
    others[list(_CORNERS), list(best)] = -torch.inf
    clear = torch.minimum(own - others.amax(1), own - others.amax(0)[list(best)])
    return best if float(clear.min().exp()) > _CLEAR else None
