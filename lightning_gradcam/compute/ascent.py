"""Gradient ascent in input space: starting images and step directions, as pure functions of images."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from lightning_gradcam.capture.layout import input_size
from lightning_gradcam.compute.callers import check_whole
from lightning_gradcam.errors import ConfigurationError, did_you_mean

Parametrisation = Literal["pixels", "fourier"]

# The book chapter's step size: 10 for 200x200 pixels in three colours.
_STEP, _VALUES = 10.0, 200 * 200 * 3
_LOW, _HIGH = 0.4, 0.6
# Neighbouring seeds must yield different starts for all filters; this exceeds any number of channels.
_FILTERS = 1_000_003


@dataclass(frozen=True)
class Ascent:
    """Settings for gradient ascent; the defaults are those of the book chapter.

    François Chollet and Matthew Watson, *Deep Learning with Python*, 3rd edition, chapter 10 (listings 10.1 to 10.23).
    The chapter's text, like this class, divides the gradient by the norm of the whole tensor. Its printed listing calls
    Keras's ``normalize``, which divides each pixel by its own norm over the colours.

    Attributes:
        steps: Number of steps.
        step_size: Length of a step, as the L2 norm of the change to the whole image. ``None`` (default): 10 for 200x200
            pixels in three colours, as in the chapter; for other sizes, scaled so that each value changes equally (root
            mean square): ``10 * sqrt(values / 120000)``, 0.81 for 28x28 in greyscale.
        border: Number of positions at each edge of the feature map to exclude from the maximised mean. On a map that is
            too small, fewer are excluded so that its centre remains: one for 4x4, none for 2x2.
        seed: Random seed for the starts and the jitter.
        jitter: Maximum random shift of the image before each step, in pixels, with wrap-around. Fine noise that fits
            only one position averages out.
        total_variation: Weight of the direction that reduces differences between neighbouring pixels, relative to the
            filter's own direction; both have length 1. Useful values are about 0.1 to 1.
        parametrisation: ``"pixels"`` (default), or ``"fourier"``: the ascent's parameters are the image's spectrum,
            with each frequency divided by the square root of its wavelength, so that coarse shapes appear before fine
            noise (after Olah et al., "Feature Visualization", Distill 2017). In pixel space, each frequency of the
            gradient is multiplied by its wavelength, and each frequency of the start by its square root.
        value_range: The values of black and white in the model's inputs. Starts are drawn between 0.4 and 0.6 of this
            range, and the default step size is proportional to its width. If channels differ, normalise in ``forward``
            instead.

    Raises:
        ConfigurationError: A value is out of range.

    Example:
        >>> Ascent().step_length((3, 200, 200))
        10.0
        >>> round(Ascent().step_length((1, 28, 28)), 3)
        0.808
    """

    steps: int = 30
    step_size: float | None = None
    border: int = 2
    seed: int = 0
    jitter: int = 0
    total_variation: float = 0.0
    parametrisation: Parametrisation = "pixels"
    value_range: tuple[float, float] = (0.0, 1.0)

    def __post_init__(self) -> None:
        for name, least in (("steps", 1), ("border", 0), ("seed", 0), ("jitter", 0)):
            check_whole(name, getattr(self, name), least)
        if self.step_size is not None and not (_is_number(self.step_size) and self.step_size > 0):
            raise ConfigurationError(
                f"step_size: got {self.step_size!r}; pass a value greater than 0, or None for the default"
            )
        if not _is_number(self.total_variation) or self.total_variation < 0:
            raise ConfigurationError(f"total_variation: got {self.total_variation!r}; pass a weight, 0 or more")
        if self.parametrisation not in get_args(Parametrisation):
            raise ConfigurationError(
                f"parametrisation: got {self.parametrisation!r}"
                f"{did_you_mean(str(self.parametrisation), get_args(Parametrisation))}"
            )
        limits = tuple(self.value_range) if isinstance(self.value_range, Sequence) else ()
        if len(limits) != 2 or not all(map(_is_number, limits)) or limits[0] >= limits[1]:
            raise ConfigurationError(
                f"value_range: got {self.value_range!r}; pass the values of black and white in the inputs, such as "
                "(0.0, 1.0)"
            )
        object.__setattr__(self, "value_range", limits)

    @property
    def span(self) -> float:
        """White minus black."""
        return self.value_range[1] - self.value_range[0]

    def step_length(self, shape: Sequence[int]) -> float:
        """Returns the length of a step for images of this shape (given without the batch axis)."""
        if self.step_size is not None:
            return self.step_size
        return _STEP * self.span * math.sqrt(math.prod(shape) / _VALUES)

    def described(self, shape: Sequence[int]) -> str:
        """Describes in one line how patterns of this shape are found, for a sheet's header.

        Example:
            >>> Ascent(jitter=2).described((1, 28, 28))
            'gradient ascent: 30 steps of 0.808, border 2, jitter 2, seed 0'
        """
        parts = [f"gradient ascent: {self.steps} steps of {self.step_length(shape):.3g}", f"border {self.border}"]
        if self.parametrisation != "pixels":
            parts.append(f"{self.parametrisation} parametrisation")
        if self.jitter:
            parts.append(f"jitter {self.jitter}")
        if self.total_variation:
            parts.append(f"total variation {self.total_variation:g}")
        return ", ".join([*parts, f"seed {self.seed}"])

    def start(self, filters: Sequence[int], shape: Sequence[int], dtype: torch.dtype) -> Tensor:
        """Returns each filter's start, ``[F, *shape]`` on the CPU, independent of the other filters requested."""
        starts = []
        for number in filters:
            generator = torch.Generator().manual_seed((self.seed * _FILTERS + number) % 2**63)
            # Always in float64, so that starts agree up to rounding for all dtypes.
            starts.append(torch.rand(tuple(shape), generator=generator, dtype=torch.float64, device="cpu"))
        noise = torch.stack(starts)
        if self.parametrisation == "fourier":
            noise = weighted_by_wavelength(noise, spatial_axes(shape), power=0.5)
            flat = noise.flatten(1)
            low, high = (of.reshape(-1, *[1] * len(shape)) for of in (flat.amin(1), flat.amax(1)))
            noise = (noise - low) / (high - low).clamp_min(torch.finfo(noise.dtype).tiny)
        black = self.value_range[0]
        return (black + self.span * (_LOW + (_HIGH - _LOW) * noise)).to(dtype)

    def moves(self, axes: int) -> list[tuple[int, ...]]:
        """Returns the number of pixels by which all images are shifted before each step, along each spatial axis."""
        generator = torch.Generator().manual_seed(self.seed)
        drawn = torch.randint(-self.jitter, self.jitter + 1, (self.steps, axes), generator=generator, device="cpu")
        return [tuple(move) for move in drawn.tolist()]

    def direction(self, gradients: Tensor, pictures: Tensor) -> Tensor:
        """Returns each image's step direction, with L2 norm 1; zero if its gradient is zero.

        Args:
            gradients: Gradients of the maximised values, ``[F, *shape]``, each at its own scale.
            pictures: The images, of the same shape.
        """
        axes = spatial_axes(pictures.shape[1:])
        way = unit(gradients)
        if self.total_variation:
            moved = (gradients != 0).flatten(1).any(1).reshape(-1, *[1] * (gradients.dim() - 1))
            way = way - self.total_variation * unit(rise(pictures, axes)) * moved
        if self.parametrisation == "fourier":
            way = weighted_by_wavelength(way, axes, power=1.0)
        return unit(way) if self.total_variation or self.parametrisation == "fourier" else way


def spatial_axes(shape: Sequence[int]) -> tuple[int, ...]:
    """Returns the spatial axes of a batch of images of this shape (given without the batch axis).

    Example:
        >>> spatial_axes((3, 32, 32)), spatial_axes((32, 32, 3)), spatial_axes((28, 28))
        ((2, 3), (1, 2), (1, 2))
    """
    sizes = tuple(shape) if isinstance(shape, Sequence) and not isinstance(shape, str) else ()
    whole = all(isinstance(s, int) and not isinstance(s, bool) and s > 0 for s in sizes)
    batch = (1, *sizes)
    size = input_size(torch.empty(batch, device="meta")) if whole else None
    if size is None:
        raise ConfigurationError(
            f"shape: got {shape!r:.60}; pass the shape of one image without the batch axis, such as (3, 224, 224)"
        )
    # Channels come after the batch axis, or last.
    first = 1 if batch[1 : 1 + len(size)] == size and (len(batch) == 3 or batch[2:] != size) else 2
    return tuple(range(first, first + len(size)))


def unit(values: Tensor) -> Tensor:
    """Divides each sample ``[F, ...]`` by its total L2 norm; zeros stay zero."""
    # Divide by the largest value first: the squares of small gradients would underflow.
    for norm in (torch.linalg.vector_norm(values.flatten(1), math.inf, dim=1), None):
        found = torch.linalg.vector_norm(values.flatten(1), dim=1) if norm is None else norm
        values = values / torch.where(found == 0, 1, found).reshape(-1, *[1] * (values.dim() - 1))
    return values


def variation(pictures: Tensor, axes: Sequence[int]) -> Tensor:
    """Returns each image's total variation ``[F]``: the sum of absolute differences between neighbours."""
    return torch.stack([pictures.diff(dim=axis).abs().flatten(1).sum(1) for axis in axes]).sum(0)


def rise(pictures: Tensor, axes: Sequence[int]) -> Tensor:
    """Returns the gradient of :func:`variation`: for each pixel, the number of smaller minus larger neighbours."""
    total = torch.zeros_like(pictures)
    for axis in axes:
        signs = pictures.diff(dim=axis).sign()
        size = signs.shape[axis]
        total.narrow(axis, 1, size).add_(signs)
        total.narrow(axis, 0, size).sub_(signs)
    return total


def weighted_by_wavelength(pictures: Tensor, axes: Sequence[int], *, power: float) -> Tensor:
    """Multiplies each frequency of images by a power of its wavelength; the mean counts as the longest wave.

    If an image is computed from parameters with this function and some power, a step along the parameters' gradient
    equals, in pixels, a step along the gradient weighted with twice that power: once on the way to the parameters and
    once on the way back.

    Args:
        pictures: The images, ``[F, ...]``.
        axes: The spatial axes.
        power: The power of the wavelength.
    """
    sizes = [pictures.shape[axis] for axis in axes]
    squares = torch.zeros([1] * pictures.dim(), dtype=pictures.dtype, device=pictures.device)
    for axis, size in zip(axes, sizes, strict=True):
        last = axis == axes[-1]
        frequencies = torch.fft.rfftfreq(size) if last else torch.fft.fftfreq(size)
        along = [-1 if place == axis else 1 for place in range(pictures.dim())]
        squares = squares + frequencies.to(squares).square().reshape(along)
    waves = 1 / squares.sqrt().clamp_min(1 / max(sizes))
    spectrum = torch.fft.rfftn(pictures, dim=tuple(axes))
    weighted: Tensor = torch.fft.irfftn(spectrum * waves**power, s=sizes, dim=tuple(axes))
    return weighted


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
