"""Whether a layer's places are the picture's, and its rows the samples': tried out by changing parts of the picture.

Two forwards of two samples show that all is well. Only where they do not, up to eight more find out what the model does
to the picture before the layer. What can't be told for certain is passed over: attention and large receptive fields
spread each change over all places.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import permutations
from typing import Any

import torch
from torch import Tensor, nn

from lightning_gradcam.capture.activations import floating_tensors, level_maps
from lightning_gradcam.capture.calls import MapPlace
from lightning_gradcam.capture.inputs import Forward, InputForm, Inputs
from lightning_gradcam.capture.layout import Layout

TOP_LEFT, TOP_RIGHT, BOTTOM_LEFT, BOTTOM_RIGHT = CORNERS = range(4)
CORNER_NAMES = ("top left", "top right", "bottom left", "bottom right")
# Where a change of each corner shows, by what the model does to the picture first.
_TURNS = {
    (1, 0, 3, 2): "mirrored from left to right",
    (2, 3, 0, 1): "mirrored from top to bottom",
    (3, 2, 1, 0): "turned by 180 degrees",
    (0, 2, 1, 3): "turned on its side, its rows made columns,",
    (3, 1, 2, 0): "turned on its side and by 180 degrees",
    (1, 3, 0, 2): "turned by 90 degrees clockwise",
    (2, 0, 3, 1): "turned by 90 degrees counterclockwise",
}
# Smaller changes are rounding; of the sum over all places.
_ROUNDING = 1e-3
# Two samples that differ by a smaller share of what they are can't be told apart.
_ALIKE = 0.01
# A corner's change has to be larger in its own quarter than in others, by this factor, before any is believed.
_CLEAR = 1.5
# A part of the picture that matters less than this share of another is not seen.
_UNSEEN = 1 / 30
# No place of a layer is ever less than this share of its mean, unless nothing reaches it.
_UNREACHED = 1e-6


@dataclass(frozen=True, eq=False)
class LayerMap:
    """One feature map that is explained.

    Attributes:
        module: The layer.
        at: Which of its maps it is.
        layout: The meaning of its axes.
        seen: Those of the first two samples, as the explanation's own forward gave them, ``[2, C, *S]``.
    """

    module: nn.Module
    at: MapPlace
    layout: Layout
    seen: Tensor


@dataclass(frozen=True)
class Move:
    """What was found out about a layer.

    Attributes:
        kind: ``"samples"``: its rows are other samples'; ``"turned"``: its places are turned or mirrored; ``"part"``:
            it sees a part of the picture; ``"border"``: some of its places are no part of the picture.
        what: In words.
    """

    kind: str
    what: str


class Trial:
    """Runs the model on changed pictures.

    Args:
        run: From inputs to the output.
        inputs: The samples; the first two are taken.
        axes: What the picture's axes mean, as of :class:`InputForm`.
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
        self._inputs_alone = len(floating_tensors(self._inputs.fresh())) <= 1

    @property
    def alone(self) -> bool:
        """Whether the picture is the only floating-point input: no mask can hide a part of it."""
        return self._inputs_alone

    def changed(self, sample: int, *regions: tuple[slice, slice], seed: int = 0) -> Tensor:
        """Returns a sample whose picture is another one in some regions, ``[1, C, *S]``."""
        picture = self.pair[sample : sample + 1]
        generator = torch.Generator().manual_seed(seed)
        # Noise alone is averaged away by strides, and a step alone by norms.
        noise = torch.randn(picture.shape, generator=generator).to(picture) + 1
        mask = torch.zeros(self.size, dtype=torch.bool, device=picture.device)
        for rows, columns in regions:
            mask[rows, columns] = True
        return torch.where(mask, picture + noise * self._step, picture)

    def maps(self, places: Mapping[str, LayerMap], first: Tensor, second: Tensor) -> tuple[dict[str, Tensor], Any]:
        """Returns the feature maps ``[2, C, *S]`` of two samples, and the model's output."""
        found, calls = dict[str, Tensor](), dict[nn.Module, int]()

        def hook(module: nn.Module, _args: Any, output: Any) -> None:
            call = calls.get(module, 0)
            calls[module] = call + 1
            levels = level_maps(output)
            for name, place in places.items():
                if levels is not None and place.module is module and place.at.call == call:
                    rows = place.layout.rows(levels[0][place.at.tensor].detach())
                    found[name] = rows.float().nan_to_num(0.0, 0.0, 0.0)

        picture = self._form.restored(torch.cat([first, second]))
        with ExitStack() as stack, torch.no_grad():
            for module in {place.module for place in places.values()}:
                stack.callback(module.register_forward_hook(hook).remove)
            output = self._run(self._inputs.fresh(picture.clone(), copies=2 if self.single else 1))
        return found, output


def find_moves(trial: Trial, places: Mapping[str, LayerMap]) -> dict[str, Move]:
    """Finds the layers whose places or rows are not what they seem.

    Args:
        trial: Runs the model.
        places: What is explained, by layer name.

    Returns:
        Layer to what was found; layers that are as they seem, or of which nothing is certain, are left out.
    """
    height, width = trial.size
    looked = {name: place for name, place in places.items() if _is_picture(place.layout, trial.size)}
    if min(height, width) < 8 or not looked:
        return {}
    suspects = _suspects(trial, looked)
    if not suspects:
        return {}
    one, two = (trial.pair[at : at + 1] for at in (0, 1))
    plain, output = trial.maps(suspects, one, two)
    swapped, other = trial.maps(suspects, two, one)
    found = dict[str, Move]()
    for name in suspects:
        if not trial.single and _follows_content(plain[name], swapped[name], output, other):
            found[name] = Move("samples", "the samples are sorted or grouped inside the model")
    left = {name: place for name, place in suspects.items() if name not in found}
    # Twice, with other noise and another sample: what is no accident shows both times.
    for name, told in _told(trial, left, plain, sample=0).items():
        if told is not None:
            found[name] = told
    left = {name: place for name, place in left.items() if name in found}
    if left:
        again = _told(trial, left, plain, sample=1)
        found = {name: move for name, move in found.items() if name not in left or again.get(name) == move}
    return found


def _is_picture(layout: Layout, size: Sequence[int]) -> bool:
    """Whether the last two axes of the places should be the picture's."""
    if layout.fold or len(layout.grid) < 2 or min(layout.grid[-2:]) < 3:
        return False
    h, w = layout.grid[-2:]
    # A spectrum of a signal, for instance, has other proportions.
    return any(abs(h * b - w * a) <= 2 * max(a, b) for a, b in (tuple(size), tuple(size)[::-1]))


def _regions(size: Sequence[int]) -> tuple[list[tuple[slice, slice]], ...]:
    """Returns a region above, slightly left; one below, slightly right; and a frame around the picture."""
    h, w = size
    above = [(slice(0, h // 4), slice(w // 8, w * 5 // 8))]
    below = [(slice(h - h // 4, h), slice(w * 3 // 8, w * 7 // 8))]
    a, b, all_ = max(h // 16, 1), max(w // 16, 1), slice(None)
    frame = [(slice(0, a), all_), (slice(h - a, h), all_), (all_, slice(0, b)), (all_, slice(w - b, w))]
    return above, below, frame


def _suspects(trial: Trial, places: Mapping[str, LayerMap]) -> dict[str, LayerMap]:
    """Two forwards: returns the layers that do not plainly show each change where it was made."""
    above, below, frame = _regions(trial.size)
    first, _ = trial.maps(places, trial.changed(0, *above), trial.pair[1:2])
    second, _ = trial.maps(places, trial.changed(1, *frame), trial.changed(0, *below))
    found = dict[str, LayerMap]()
    for name, place in places.items():
        base = place.seen.float().nan_to_num(0.0, 0.0, 0.0)
        base = base if len(base) == 2 else base.repeat(2, *[1] * (base.dim() - 1))
        one, two = first.get(name), second.get(name)
        if one is None or two is None or one.shape != base.shape or two.shape != base.shape:
            continue
        stays = _apart(one[1], base[1]) <= 0.1 * _apart(one[0], one[1])
        ordered = trial.single or (stays and _apart(two[1], base[0]) <= _apart(two[0], base[0]))
        top, bottom, around = _change(one[0], base[0]), _change(two[1], base[0]), _change(two[0], base[1])
        if not ordered or not _in_place(top, bottom) or not _reaches_all_sides(around):
            found[name] = place
    return found


def _in_place(top: Tensor, bottom: Tensor) -> bool:
    """Whether the changes above and below, left and right, are where they were made."""
    sums = float(top.mean()), float(bottom.mean())
    if min(sums) * 8 <= max(sums) or not max(sums):
        return False
    h, w = top.shape
    rest = _ROUNDING * max(sums)
    ratio = ((top + rest) / (bottom + rest)).log()
    y = torch.linspace(-1, 1, h, device=top.device)[:, None]
    x = torch.linspace(-1, 1, w, device=top.device)[None]
    down, right = float((ratio * y).mean() / (y * y).mean()), float((ratio * x).mean() / (x * x).mean())
    # Made at an angle of 18 degrees to the vertical; each turn would move it by 36 or more.
    return down < right < 0


def _reaches_all_sides(change: Tensor) -> bool:
    least = _ROUNDING * float(change.mean())
    return least > 0 and all(float(side.max()) > least for side in (change[0], change[-1], change[:, 0], change[:, -1]))


def _apart(one: Tensor, two: Tensor) -> float:
    return float((one - two).abs().mean())


def _change(one: Tensor, two: Tensor) -> Tensor:
    """Returns how much each place changes, ``[h, w]``; frames and slices together."""
    change = (one - two).abs().double().sum(0)
    return change.flatten(0, -3).sum(0) if change.dim() > 2 else change


def _follows_content(plain: Tensor, swapped: Tensor, output: Any, other: Any) -> bool:
    """Whether two samples, given in the other order, come in the same order as before, and their outputs do not."""
    if plain.shape != swapped.shape or len(plain) != 2 or not _stays(plain, swapped):
        return False
    outputs = [next((t for t in floating_tensors(o) if t.dim() and len(t) == 2), None) for o in (output, other)]
    if outputs[0] is None or outputs[1] is None or outputs[0].shape != outputs[1].shape:
        return False
    return _stays(outputs[0].float(), outputs[1].float().flip(0))


def _stays(one: Tensor, two: Tensor) -> bool:
    """Whether two rows are the same, and not those of each other; not so where both are alike."""
    apart = _apart(one[0], one[1])
    return apart > _ALIKE * float(one.abs().mean()) and _apart(one, two) <= _ROUNDING * apart


def _told(
    trial: Trial, places: Mapping[str, LayerMap], plain: Mapping[str, Tensor], *, sample: int
) -> dict[str, Move | None]:
    """Changes each corner, the frame and the whole picture; says of each layer what is certain."""
    if not places:
        return {}
    h, w = trial.size
    ys, xs = (slice(0, h * 3 // 8), slice(h - h * 3 // 8, h)), (slice(0, w * 3 // 8), slice(w - w * 3 // 8, w))
    whole = [(slice(None), slice(None))]
    changes = [[(rows, columns)] for rows in ys for columns in xs] + [_regions(trial.size)[2], whole]
    pictures = [trial.changed(sample, *regions, seed=1 + sample) for regions in changes]
    base = {name: plain[name][0 if trial.single else sample] for name in places}
    found: dict[str, list[Tensor]] = {name: [] for name in places}
    for one, two in zip(pictures[::2], pictures[1::2], strict=True):
        maps, _ = trial.maps(places, one, two)
        for name in places:
            found[name] += [_change(maps[name][at], base[name]) for at in (0, 1)]
    return {name: _meaning(changes, alone=trial.alone) for name, changes in found.items()}


def _meaning(changes: Sequence[Tensor], *, alone: bool) -> Move | None:
    *corners, frame, whole = changes
    if not float(whole.mean()):
        return None
    quarters = torch.stack([torch.stack([q.mean() for q in _quarters(corner)]) for corner in corners])
    strengths = quarters.mean(1)
    unseen = [k for k in CORNERS if float(strengths[k]) < _UNSEEN * float(strengths.max())]
    if not unseen:
        turn = _turn(quarters)
        if turn in _TURNS:
            return Move("turned", f"the picture is {_TURNS[turn]} inside the model")
    if not alone:
        return None
    sides = {"top": whole[0], "bottom": whole[-1], "left": whole[:, 0], "right": whole[:, -1]}
    bare = [name for name, side in sides.items() if float(side.max()) <= _UNREACHED * float(whole.mean())]
    if bare:
        where = " and ".join([", ".join(bare[:-1]), bare[-1]] if bare[1:] else bare)
        return Move("border", f"nothing in the picture changes its places at the {where}")
    even = torch.stack([q.mean() for q in _quarters(whole)])
    if unseen and float(even.min()) * 3 > float(even.max()):
        named = ", ".join(CORNER_NAMES[k] for k in unseen)
        return Move("part", f"the picture's {named} hardly change it")
    if float(frame.mean()) <= _UNREACHED * float(whole.mean()):
        return Move("part", "the outermost 1/16 of the picture on each side does not change it")
    return None


def _quarters(change: Tensor) -> list[Tensor]:
    h, w = change.shape
    rows, columns = (slice(0, h // 2), slice(h - h // 2, h)), (slice(0, w // 2), slice(w - w // 2, w))
    return [change[r, c] for r in rows for c in columns]


def _turn(quarters: Tensor) -> tuple[int, ...] | None:
    """Returns in which quarter of the layer each corner's change shows most; ``None`` where that is not plain."""
    logs = (quarters + 1e-9 * quarters.max()).log()
    # How much a corner changes at all, and a quarter is changed at all, does not count.
    logs = logs - logs.mean(0) - logs.mean(1, keepdim=True) + logs.mean()
    best = max(permutations(CORNERS), key=lambda order: float(logs[list(CORNERS), list(order)].sum()))
    own = logs[list(CORNERS), list(best)]
    others = logs.clone()
    others[list(CORNERS), list(best)] = -torch.inf
    clear = torch.minimum(own - others.amax(1), own - others.amax(0)[list(best)])
    return best if float(clear.min().exp()) > _CLEAR else None
