"""Operations after which places are no longer the picture's: a learned warp of the picture, and a spectrum.

What they do depends on the weights, so that changing the picture shows nothing certain; that they ran does.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

_SAME = 0.999


class Operations(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Notes, of one forward, where the picture was resampled and which spectra were not yet transformed back.

    Args:
        picture: The picture as the model is given it, ``[N, C, H, W]``.

    Example:
        >>> with Operations(torch.zeros(1, 3, 8, 8)) as operations:
        ...     spectrum = torch.fft.rfft2(torch.zeros(1, 4, 6, 8))
        >>> operations.is_spectrum((1, 16, 6, 5)), operations.is_spectrum((1, 16, 6, 8)), operations.warped
        (True, False, False)
    """

    def __init__(self, picture: Tensor) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.warped = False
        self._picture = picture
        self._spectra: list[tuple[int, ...]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        name = func.overloadpacket.__name__
        if name in ("grid_sampler_2d", "cudnn_grid_sampler", "grid_sampler"):
            self.warped = self.warped or _is_same_picture(args[0], self._picture)
        elif name == "_fft_r2c" and len(args[1]) == 2:
            self._spectra.append(tuple(made.shape[-2:]))
        elif name == "_fft_c2r" and self._spectra:
            self._spectra.pop()
        return made

    def is_spectrum(self, shape: Sequence[int]) -> bool:
        """Whether a feature map ``[N, C, h, w]`` made now has the places of a spectrum."""
        return tuple(shape[-2:]) in self._spectra


def _is_same_picture(one: Tensor, picture: Tensor) -> bool:
    """Whether a tensor is the picture, up to a scale and an offset of each channel."""
    if one.shape != picture.shape:
        return False
    flat = torch.stack([one.detach().double(), picture.detach().double()]).flatten(3)
    flat = flat - flat.mean(3, keepdim=True)
    both, sizes = (flat[0] * flat[1]).sum(2), flat.norm(dim=3).prod(0)
    return bool((both >= _SAME * sizes).all())
