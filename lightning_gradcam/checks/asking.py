"""Queries the model's confidence in a class for many modified images, in chunks."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import torch
from torch import Tensor

from lightning_gradcam.capture.inputs import Forward
from lightning_gradcam.capture.memory import in_parts
from lightning_gradcam.errors import ConfigurationError, TargetError
from lightning_gradcam.targets.base import class_logits
from lightning_gradcam.targets.reading import OutputKind, described, traced_output

# Standard deviations of the Gaussian blurs to try, as fractions of the image's shorter side.
BLURS = (1 / 16, 1 / 8, 1 / 4)
# An image has lost its class if at most this fraction of the model's confidence above chance remains.
_LEFT = 0.1


class Counter:
    """Calls the model and counts the images it receives."""

    def __init__(self, run: Forward) -> None:
        self._run = run
        self.count = 0

    def __call__(self, values: Any) -> Any:
        """Returns the model's output."""
        self.count += len(values)
        return self._run(values)


@dataclass(eq=False)
class Asked:
    """Queries a model for probabilities.

    Attributes:
        run: Maps images ``[M, C, H, W]`` to the explained output.
        several: Whether classes are independent; if so, sigmoids replace the softmax.
        chunk: Number of images per forward pass.
        moved: Function to call with the number of images processed.
    """

    run: Forward
    several: bool
    chunk: int
    moved: Callable[[int], None] = lambda _: None
    kind: OutputKind | None = field(default=None, init=False)
    single: bool = field(default=False, init=False)

    def logits(self, pictures: Tensor) -> Tensor:
        """Returns logits for all classes, float32 or float64 ``[M, K]`` on the CPU; a single logit z becomes -z, z."""

        def part(start: int, stop: int) -> Tensor:
            # A model may modify its input in place.
            own = pictures[start:stop].clone()
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
                        f"model: returned {described(output)}; check_maps needs class logits [N, C], or a single "
                        "logit; select them with output_key=, or pass forward="
                    ) from None
            self.moved(stop - start)
            return found.detach().cpu()

        found = torch.cat(list(in_parts(len(pictures), self.chunk, part)))
        return found if found.dtype == torch.float64 else found.float()

    def shown(self, pictures: Tensor) -> None:
        """Runs the model on images in chunks of similar size, to update its batch norm statistics."""
        size = math.ceil(len(pictures) / math.ceil(len(pictures) / self.chunk))
        deque(in_parts(len(pictures), size, lambda start, stop: self.run(pictures[start:stop].clone())), maxlen=0)

    def probabilities(self, logits: Tensor) -> Tensor:
        """Converts logits ``[M, K]`` to probabilities: their softmax, or the sigmoid of each."""
        return logits.sigmoid() if self.several or self.single else logits.softmax(dim=-1)

    def answers(self, pictures: Iterable[tuple[Tensor, list[int]]]) -> tuple[Tensor, Tensor]:
        """Queries some classes for each image; images are consumed lazily.

        Args:
            pictures: Images ``[C, H, W]``, each with the same number of classes.

        Returns:
            The probability of each image's first class, float64 ``[M]``, and the logits of all its classes, float64
            ``[M, classes]``.
        """
        found, left = [], iter(pictures)
        while group := list(islice(left, self.chunk)):
            logits = self.logits(torch.stack([picture for picture, _ in group]))
            classes = torch.tensor([numbers for _, numbers in group], device="cpu")
            shares = self.probabilities(logits).gather(1, classes[:, :1])[:, 0]
            found.append((shares.double(), logits.gather(1, classes).double()))
        return torch.cat([shares for shares, _ in found]), torch.cat([logits for _, logits in found])


def emptied(pictures: Tensor) -> Tensor:
    """Returns emptied versions of each image: increasingly blurred, its mean colour, and zeros.

    Args:
        pictures: The images, ``[N, C, H, W]``.

    Returns:
        ``[B, N, C, H, W]``. After the usual normalisation, zeros are the data's mean colour.
    """
    blurred = [blur(pictures, share * min(pictures.shape[2:])) for share in BLURS]
    mean = pictures.mean(dim=(2, 3), keepdim=True).expand_as(pictures)
    return torch.stack([*blurred, mean, torch.zeros_like(pictures)])


def blur(pictures: Tensor, sigma: float) -> Tensor:
    """Blurs with a Gaussian of any width; at the border, the weights inside the image are renormalised.

    Example:
        >>> blur(torch.tensor([[[[0.0, 0.0, 9.0]]]]), 100.0).round()
        tensor([[[[3., 3., 3.]]]])
    """
    for axis in (2, 3):
        places = torch.arange(pictures.shape[axis], dtype=torch.float64, device="cpu")
        bell = torch.exp(-0.5 * ((places[:, None] - places) / sigma) ** 2)
        bell = (bell / bell.sum(dim=1, keepdim=True)).to(pictures)
        pictures = (pictures.movedim(axis, -1) @ bell.T).movedim(-1, axis)
    return pictures


def without_class(confidence: Tensor, emptied_to: Tensor, chance: float) -> Tensor:
    """Returns the mildest way of emptying each image after which the model no longer recognises its class.

    Args:
        confidence: The confidence in each complete image's class, ``[N]``.
        emptied_to: The confidence after each way of emptying, mildest first, ``[B, N]``.
        chance: The confidence of an uninformed model, such as one divided by the number of classes.

    Returns:
        Indices into ``B``, ``[N]``: the first way that leaves at most a tenth of the confidence above chance, or else
        the way that leaves the least confidence.

    Example:
        >>> without_class(torch.tensor([0.9, 0.9]), torch.tensor([[0.5, 0.6], [0.1, 0.8]]), 0.1).tolist()
        [1, 0]
    """
    gone = emptied_to <= chance + _LEFT * (confidence - chance).clamp_min(0)
    return torch.where(gone.any(dim=0), gone.int().argmax(dim=0), emptied_to.argmin(dim=0))


def dependence(asked: Asked, logits: Tensor) -> float:
    """Returns how much the output can change between images, or between an image and its emptied versions.

    Args:
        asked: Converts logits to probabilities.
        logits: The logits for ``B`` versions of each image, the complete one first, ``[B, N, K]``.

    Returns:
        The largest total variation distance (with independent classes, the largest change in a probability), averaged
        over images: 0 if all outputs are equal, at most 1.
    """
    shares = asked.probabilities(logits)
    whole, far = shares[0], []
    for place in range(logits.shape[1]):
        apart = (torch.cat([shares[1:, place], whole]) - whole[place]).abs()
        far.append(apart.amax() if asked.several or asked.single else apart.sum(dim=1).amax() / 2)
    return float(torch.stack(far).mean())


def knowledge(asked: Asked, logits: Tensor) -> tuple[float, float]:
    """Returns two signs that the weights have learnt something, independent of the logits' scale.

    With random weights, the logits are nearly the same for every image, and hardly change if the image is emptied.

    Args:
        asked: Converts logits to probabilities.
        logits: As for :func:`dependence`.

    Returns:
        The differences between the images' logits relative to their common part (root mean squares after subtracting
        the mean over classes, which a softmax ignores; 0 for a single image), and the mean loss of confidence in each
        image's most likely class when the image is emptied.
    """
    centred = (logits - logits.mean(dim=-1, keepdim=True)).double()[0]
    common = centred.mean(dim=0)
    between = float((centred - common).square().mean().sqrt() / common.square().mean().sqrt().clamp_min(1e-12))
    shares = asked.probabilities(logits)
    classes = shares[0].argmax(dim=-1)
    sure = shares.gather(2, classes.expand(len(shares), -1)[..., None])[..., 0]
    return between, float((sure[0] - sure[1:].amin(dim=0)).clamp_min(0).mean())
