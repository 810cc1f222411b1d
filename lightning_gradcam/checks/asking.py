"""What the model is asked: its confidence in a class, of many changed pictures, chunk by chunk."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import torch
from torch import Tensor

from lightning_gradcam.capture.inputs import Forward
from lightning_gradcam.capture.memory import in_parts
from lightning_gradcam.errors import ConfigurationError, TargetError
from lightning_gradcam.targets.base import class_logits
from lightning_gradcam.targets.reading import OutputKind, described
from lightning_gradcam.targets.tracing import traced_output

# Standard deviations of the blurs that are tried, as shares of the picture's shorter side.
BLURS = (1 / 16, 1 / 8, 1 / 4)
# A picture has lost its class where the model keeps at most this share of what it knew above chance.
_LEFT = 0.1


class Counter:
    """Calls the model, and counts the pictures that it gets."""

    def __init__(self, run: Forward) -> None:
        self._run = run
        self.count = 0

    def __call__(self, values: Any) -> Any:
        """Returns the model's output."""
        self.count += len(values)
        return self._run(values)


@dataclass(eq=False)
class Asked:
    """Asks a model for probabilities.

    Attributes:
        run: From pictures ``[M, C, H, W]`` to the explained output.
        several: Each class is likely or not on its own: sigmoids, and no softmax.
        chunk: How many pictures go through the model at once.
        moved: Called with how many pictures went through it.
    """

    run: Forward
    several: bool
    chunk: int
    moved: Callable[[int], None] = lambda _: None
    kind: OutputKind | None = field(default=None, init=False)
    single: bool = field(default=False, init=False)

    def logits(self, pictures: Tensor) -> Tensor:
        """Returns the logits of all classes, float32 or float64 ``[M, K]`` on the CPU; a single one ``z`` is -z, z."""

        def part(start: int, stop: int) -> Tensor:
            # A model may change what it is given in place.
            own = pictures[start:stop].clone()
            output: Any
            with torch.no_grad():
                if self.kind is None:
                    output, self.kind = traced_output(self.run, own)
                    self.single = isinstance(output, Tensor) and (output.dim() == 1 or output.shape[1:] == (1,))
                else:
                    output = self.run(own)
                try:
                    found = class_logits(output, self.kind)
                except TargetError:
                    raise ConfigurationError(
                        f"model: returned {described(output)}; check_maps needs logits of classes [N, C], or a single"
                        " logit: name them with output_key=, or give forward="
                    ) from None
            self.moved(stop - start)
            return found.detach().cpu()

        found = torch.cat(list(in_parts(len(pictures), self.chunk, part)))
        return found if found.dtype == torch.float64 else found.float()

    def shown(self, pictures: Tensor) -> None:
        """Runs the model on pictures for what its batch norms keep of them, in chunks of nearly one size."""
        size = math.ceil(len(pictures) / math.ceil(len(pictures) / self.chunk))
        deque(in_parts(len(pictures), size, lambda start, stop: self.run(pictures[start:stop].clone())), maxlen=0)

    def probabilities(self, logits: Tensor) -> Tensor:
        """Returns what logits ``[M, K]`` say: their softmax, or the sigmoid of each."""
        return logits.sigmoid() if self.several or self.single else logits.softmax(dim=-1)

    def answers(self, pictures: Iterable[tuple[Tensor, list[int]]]) -> tuple[Tensor, Tensor]:
        """Asks about some classes of each picture; pictures are taken as they are needed.

        Args:
            pictures: Pictures ``[C, H, W]``, each with as many classes.

        Returns:
            The probability of the first class, float64 ``[M]``, and the logits of all, float64 ``[M, classes]``.
        """
        found = []
        for group in _groups(pictures, self.chunk):
            logits = self.logits(torch.stack([picture for picture, _ in group]))
            classes = torch.tensor([numbers for _, numbers in group])
            shares = self.probabilities(logits).gather(1, classes[:, :1])[:, 0]
            found.append((shares.double(), logits.gather(1, classes).double()))
        return torch.cat([shares for shares, _ in found]), torch.cat([logits for _, logits in found])


def emptied(pictures: Tensor) -> Tensor:
    """Returns each picture without what tells its class: blurred more and more, its mean colour, and zeros.

    Args:
        pictures: ``[N, C, H, W]``.

    Returns:
        ``[B, N, C, H, W]``; zeros are, after the usual normalisation, the data's mean colour.
    """
    side = min(pictures.shape[2:])
    blurred = [blur(pictures, share * side) for share in BLURS]
    mean = pictures.mean(dim=(2, 3), keepdim=True).expand_as(pictures)
    return torch.stack([*blurred, mean, torch.zeros_like(pictures)])


def blur(pictures: Tensor, sigma: float) -> Tensor:
    """Blurs with a Gaussian of any width; at the border, the weights inside of the picture count alone.

    Example:
        >>> blur(torch.tensor([[[[0.0, 0.0, 9.0]]]]), 100.0).round()
        tensor([[[[3., 3., 3.]]]])
    """
    for axis in (2, 3):
        places = torch.arange(pictures.shape[axis], dtype=torch.float64)
        bell = torch.exp(-0.5 * ((places[:, None] - places) / sigma) ** 2)
        bell = (bell / bell.sum(dim=1, keepdim=True)).to(pictures)
        pictures = (pictures.movedim(axis, -1) @ bell.T).movedim(-1, axis)
    return pictures


def without_class(confidence: Tensor, emptied_to: Tensor, chance: float) -> Tensor:
    """Returns which way of emptying each picture is the mildest after which the model no longer knows its class.

    Args:
        confidence: In the class of the whole picture, ``[N]``.
        emptied_to: After each way, mildest first, ``[B, N]``.
        chance: What a model has that knows nothing, such as one over the number of classes.

    Returns:
        Places in B, ``[N]``: the first that leaves at most a tenth of what the model knew above chance; where none
        does, the one that leaves least.

    Example:
        >>> without_class(torch.tensor([0.9, 0.9]), torch.tensor([[0.5, 0.6], [0.1, 0.8]]), 0.1).tolist()
        [1, 0]
    """
    gone = emptied_to <= chance + _LEFT * (confidence - chance).clamp_min(0)
    return torch.where(gone.any(dim=0), gone.int().argmax(dim=0), emptied_to.argmin(dim=0))


def dependence(asked: Asked, logits: Tensor) -> float:
    """How far the output moves, at most, from a picture to another or to an emptied one.

    Args:
        asked: Says how logits are read.
        logits: Of ``B`` versions of each picture, the whole one first, ``[B, N, K]``.

    Returns:
        The mean over pictures of the total variation distance (of several labels a sample, of the largest change of a
        probability): 0, where the output is the same for all, to 1.
    """
    shares = asked.probabilities(logits)
    whole, far = shares[0], []
    for place in range(logits.shape[1]):
        apart = (torch.cat([shares[1:, place], whole]) - whole[place]).abs()
        far.append(apart.amax() if asked.several or asked.single else apart.sum(dim=1).amax() / 2)
    return float(torch.stack(far).mean())


def knowledge(asked: Asked, logits: Tensor) -> tuple[float, float]:
    """Two signs of weights that have learnt something, whatever the scale of the logits.

    Random weights give every picture nearly the same logits, which emptying it hardly changes.

    Args:
        asked: Says how logits are read.
        logits: As :func:`dependence`.

    Returns:
        How far logits differ between pictures, as a share of what they have in common (root mean squares, after the
        mean over classes is taken off, as a softmax does; 0 for a single picture); and how much of the confidence in
        its most likely class each picture loses where it is emptied, on average.
    """
    centred = (logits - logits.mean(dim=-1, keepdim=True)).double()[0]
    common = centred.mean(dim=0)
    between = float((centred - common).square().mean().sqrt() / common.square().mean().sqrt().clamp_min(1e-12))
    shares = asked.probabilities(logits)
    classes = shares[0].argmax(dim=-1)
    sure = shares.gather(2, classes.expand(len(shares), -1)[..., None])[..., 0]
    return between, float((sure[0] - sure[1:].amin(dim=0)).clamp_min(0).mean())


def _groups(items: Iterable[tuple[Tensor, list[int]]], size: int) -> Iterator[list[tuple[Tensor, list[int]]]]:
    left = iter(items)
    while group := list(islice(left, size)):
        yield group
