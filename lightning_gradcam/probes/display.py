"""Converts preprocessed inputs back to displayable pixels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from lightning_gradcam.capture.layout import ends_in_channels
from lightning_gradcam.errors import ProbeError

Pixels = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Normalization:
    """The per-channel mean and standard deviation used to normalise the inputs, and their source."""

    mean: tuple[float, ...]
    std: tuple[float, ...]
    source: str


def normalization(mean: float | Sequence[float] | None, std: float | Sequence[float] | None) -> Normalization | None:
    """Reads the user's ``mean`` and ``std``; a single number is used for all channels.

    Returns:
        ``None`` if neither is given.

    Raises:
        ProbeError: Only one is given, their lengths differ, or a deviation is not positive.
    """
    if mean is None and std is None:
        return None
    if mean is None or std is None:
        raise ProbeError(f"mean, std: got mean={mean!r} and std={std!r}; pass both or neither")
    means = (float(mean),) if isinstance(mean, (int, float)) else tuple(map(float, mean))
    stds = (float(std),) if isinstance(std, (int, float)) else tuple(map(float, std))
    if len(means) != len(stds) or not means or min(stds) <= 0:
        raise ProbeError(
            f"mean, std: got mean={mean!r} and std={std!r}; pass the same number of means and positive standard "
            "deviations: one each, or one per channel"
        )
    return Normalization(means, stds, "mean and std as given")


def find_normalization(transform: Any) -> Normalization | None:
    """Finds a ``Normalize`` in a transform, including inside compositions, without importing torchvision.

    Returns:
        Its mean and standard deviation; mean 0 and deviation 1 if the transform only scales values to 0…1; ``None`` if
        the transform reveals neither.
    """
    steps = _steps(transform)
    for step in reversed(steps):
        if type(step).__name__ == "Normalize" and hasattr(step, "mean") and hasattr(step, "std"):
            mean, std = _numbers(step.mean), _numbers(step.std)
            return Normalization(mean, std, "Normalize undone")
    if any(_scales(step) for step in steps):
        return Normalization((0.0,), (1.0,), "as loaded")
    return None


def to_pixels(inputs: Tensor, normalized: Normalization | None) -> tuple[Pixels, str]:
    """Converts inputs to images, or clips and volumes to frames.

    Args:
        inputs: Images ``[N, C, H, W]`` or ``[N, H, W]``, clips or volumes ``[N, C, T, H, W]``; float or uint8. 1, 3 or
            4 channels may be last. One channel is shown in grey, three or four in colour (the fourth is dropped), any
            other number as the mean over channels.
        normalized: The normalisation to undo; ``None`` stretches each image between its minimum and maximum, and a clip
            between those over all its frames.

    Returns:
        uint8 ``[N, H, W, 3]`` or ``[N, T, H, W, 3]``, and a caption that states how the pixels were recovered.

    Raises:
        ProbeError: The inputs are not images, or ``normalized`` has a different number of channels.
    """
    pixels = inputs[:, None] if inputs.dim() == 3 else inputs
    if pixels.dim() not in (4, 5):
        raise ProbeError(
            f"probes: got inputs of shape {list(inputs.shape)}; images are [N, C, H, W] or [N, H, W], clips and "
            "volumes [N, C, T, H, W]; if the images are another entry of the batch, select it with input_key=; for "
            "anything else, pass a ProbeSet with its own display pixels"
        )
    pixels = pixels.movedim(-1, 1) if ends_in_channels(pixels.shape) else pixels
    channels, clips = pixels.shape[1], pixels.dim() == 5
    if pixels.dtype == torch.uint8:
        scaled, how = pixels.double() / 255, "as loaded"
    elif normalized is not None:
        if len(normalized.mean) not in (1, channels):
            valid = "1" if channels == 1 else f"1 or {channels}"
            order = " (a clip's channels come before its frames: [N, C, T, H, W])" if clips else ""
            raise ProbeError(
                f"mean, std: got {len(normalized.mean)} values for inputs of {channels} channels; pass {valid}{order}"
            )
        along = (-1, *[1] * (pixels.dim() - 2))
        mean, std = (
            torch.tensor(v, dtype=torch.float64, device="cpu").view(along) for v in (normalized.mean, normalized.std)
        )
        scaled, how = pixels.double() * std + mean, normalized.source
    else:
        stretched = "each clip or volume min-max stretched" if clips else "each image min-max stretched"
        scaled, how = _stretched(pixels.double()), stretched
    if channels in (3, 4):
        scaled = scaled[:, :3]
    elif channels != 1:
        scaled, how = _stretched(scaled.mean(1, keepdim=True)), f"mean of {channels} channels, min-max stretched"
    rounded = scaled.nan_to_num(0.0).clamp(0, 1).mul(255).round().to(torch.uint8).movedim(1, -1)
    return np.ascontiguousarray(rounded.expand(*rounded.shape[:-1], 3).numpy()), how


def displayed(inputs: Tensor, normalized: Normalization | None) -> tuple[Pixels, str]:
    """Converts inputs to images before it is known how the model interprets their axes; see :func:`to_pixels`.

    Args:
        inputs: As in :func:`to_pixels`; signals ``[N, L]``, shown as one row; frames ``[N, T, C, H, W]`` if
            ``normalized`` has one value for each of their channels.
        normalized: The normalisation to undo.
    """
    if inputs.dim() == 2:
        return to_pixels(inputs[:, None], normalized)
    values = 1 if normalized is None else len(normalized.mean)
    if inputs.dim() == 5 and values not in (1, inputs.shape[1]) and values == inputs.shape[2]:
        return to_pixels(inputs.movedim(1, 2), normalized)
    return to_pixels(inputs, normalized)


def choose(found: Sequence[Normalization | None], given: Normalization | None) -> Normalization | None:
    """Returns the normalisation to undo: a detected ``Normalize``, else the user's values, else a detected scaling.

    A transform that only scales to 0…1 does not rule out a later normalisation on the device.
    """
    known = [scale for scale in found if scale is not None]
    undone = next((scale for scale in known if scale.source == "Normalize undone"), None)
    return undone or given or next(iter(known), None)


def _scales(step: Any) -> bool:
    name = type(step).__name__
    return name in ("ToTensor", "ConvertImageDtype") or (name == "ToDtype" and bool(getattr(step, "scale", False)))


def _stretched(pixels: Tensor) -> Tensor:
    finite, inf, own = pixels.isfinite(), float("inf"), tuple(range(1, pixels.dim()))
    low = pixels.where(finite, torch.tensor(inf, dtype=pixels.dtype, device="cpu")).amin(own, keepdim=True)
    high = pixels.where(finite, torch.tensor(-inf, dtype=pixels.dtype, device="cpu")).amax(own, keepdim=True)
    return (pixels - low) / (high - low).clamp(min=1e-12)


def _steps(transform: Any) -> list[Any]:
    steps, queue = [], [transform]
    while queue:
        step = queue.pop(0)
        inner = getattr(step, "transforms", None)
        if isinstance(inner, (list, tuple, torch.nn.ModuleList)):
            queue = [*inner, *queue]
        elif isinstance(step, torch.nn.Sequential):
            queue = [*step, *queue]
        elif type(step).__name__ == "StandardTransform":
            # torchvision's VisionDataset keeps the image's transform inside this pair.
            queue = [step.transform, *queue]
        elif step is not None:
            steps.append(step)
    return steps


def _numbers(values: Any) -> tuple[float, ...]:
    return tuple(float(value) for value in torch.as_tensor(values, device="cpu").flatten())
