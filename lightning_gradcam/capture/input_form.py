"""Between a model's own input, whatever its axes and numbers, and the picture that methods see and change."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from lightning_gradcam.capture.layout import picture_size
from lightning_gradcam.errors import MethodError


@dataclass(frozen=True, eq=False)
class InputForm:
    """How a model takes its picture.

    Attributes:
        own: The picture as the model takes it: ``[N, C, *S]``, ``[N, *S, C]``, ``[N, H, W]``, or no picture at all; of
            any dtype.

    Example:
        >>> form = InputForm(torch.zeros(2, 5, 7, 3, dtype=torch.uint8))
        >>> seen = form.seen(form.own)
        >>> tuple(seen.shape), seen.dtype
        ((2, 3, 5, 7), torch.float32)
        >>> form.restored(seen + 3.7)[0, 0, 0]
        tensor([4, 4, 4], dtype=torch.uint8)
    """

    own: Tensor

    def seen(self, values: Tensor) -> Tensor:
        """Returns the picture, or a gradient of its shape, as floating-point ``[N, C, *S]``.

        What is no picture keeps its axes.
        """
        numbers = values if values.is_floating_point() else values.float()
        if numbers.dim() == 3:
            return numbers[:, None]
        return numbers.movedim(-1, 1) if self._is_channels_last else numbers

    def restored(self, picture: Tensor) -> Tensor:
        """Returns a changed picture as the model takes it; whole numbers are rounded to, and stay in their range."""
        dtype = self.own.dtype
        own = picture
        if self.own.dim() == 3:
            own = picture[:, 0]
        elif self._is_channels_last:
            own = picture.movedim(1, -1)
        if dtype == torch.bool:
            return own > 0.5
        if not dtype.is_floating_point:
            limits = torch.iinfo(dtype)
            own = own.round().clamp(limits.min, limits.max)
        return own.to(dtype)

    def require(self, *, gradient: bool) -> None:
        """Refuses what a method in the input's space can't work with.

        Args:
            gradient: Whether it differentiates with respect to the input.

        Raises:
            MethodError: The input is no picture, or of whole numbers where a gradient is needed.
        """
        if picture_size(self.own) is None:
            raise MethodError(
                f"methods: a map of the input needs a picture [N, C, H, W], and the model's input is"
                f" {list(self.own.shape)}; use gradcam, hirescam or layercam, or name another input with picture="
            )
        if gradient and not self.own.is_floating_point():
            raise MethodError(
                f"methods: an input of {self.own.dtype} has no gradient; give pictures of floating-point numbers (the"
                " model may still scale them), or use gradcam, hirescam or layercam"
            )

    @property
    def _is_channels_last(self) -> bool:
        size = picture_size(self.own)
        return size is not None and size != tuple(self.own.shape[2:])
