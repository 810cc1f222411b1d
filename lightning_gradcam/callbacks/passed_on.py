"""Checks whether a validation step passes a batch's images to ``forward()`` unchanged, as the probes are passed."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.hooks import RemovableHandle

from lightning_gradcam.callbacks.host import Host, rank_zero_warn
from lightning_gradcam.callbacks.options import RunOptions
from lightning_gradcam.capture.tensors import flattened
from lightning_gradcam.probes.entries import input_of

# Largest difference, of the largest value, that a cast to half precision makes.
_ROUNDING = 1e-2


@dataclass(eq=False)
class _Compared:
    """A forward pre-hook that compares a module's inputs with a batch's images.

    It holds nothing else, because a step may copy or pickle its module, and the hook with it. A copy compares nothing.

    Attributes:
        images: The first two images.
        samples: Number of images in the batch.
        same: Whether they were among the inputs.
        other: Whether the inputs held other images in their place.
    """

    images: Tensor
    samples: int
    same: bool = False
    other: bool = False

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "images": self.images[:0].clone(), "samples": -1}

    def __call__(self, module: Any, args: Any, kwargs: Any) -> None:
        # When compiled, this would become part of the user's step. Other callbacks call the module outside of the step.
        if torch.compiler.is_compiling() or module._current_fx_name not in ("validation_step", "test_step"):
            return
        # The user's step must not fail because of us.
        with suppress(Exception), torch.no_grad():
            for found in flattened((args, kwargs))[0]:
                if isinstance(found, Tensor) and found.dim() == self.images.dim() and len(found) == self.samples:
                    same = _are_same(found[:2], self.images)
                    self.same, self.other = self.same or same, self.other or not same


class PassedOn:
    """Watches ``forward()`` during one validation or test batch.

    Nothing can be concluded if the step calls a part of the module instead of ``forward()``, or if none of its inputs
    can be the batch's images.

    Args:
        options: The callback's options.
    """

    def __init__(self, options: RunOptions) -> None:
        # Probes given by the user may have been prepared for `forward()` in the same way as the step does it.
        self._wanted = options.forward_fn is None and options.probes.given is None
        self._key = options.probes.input_key
        self._hook: RemovableHandle | None = None
        self._compared: _Compared | None = None
        self._step = ""

    def watch(self, host: Host, batch: Any, place: int) -> None:
        """Starts watching if this is the first loader's first batch.

        Args:
            host: The trainer.
            batch: The batch, on the device, after the transfer hooks.
            place: The dataloader's index among several.
        """
        self.settle()
        # A training step may augment; a compiled module would be compiled again because of the hook.
        made = [getattr(host.module, name, None) for name in ("_compiled_call_impl", "_compiler_ctx")]
        compiled = any(found is not None for found in made)
        if not self._wanted or place or host.trainer.training or host.shards or compiled:
            return
        self._wanted = False
        with suppress(Exception):  # a batch of an unknown kind may raise anything; drawing the probes reports it
            images = input_of(batch, self._key)
            if images.dim() > 2:
                self._step = "test_step" if host.stage == "test" else "validation_step"
                # A step may change them in place.
                self._compared = _Compared(images[:2].detach().clone(), len(images))
                self._hook = host.module.register_forward_pre_hook(self._compared, with_kwargs=True)

    def settle(self) -> None:
        """Stops watching, and warns if ``forward()`` received images that differ from the batch's."""
        compared, self._compared = self._compared, None
        if self._hook is not None:
            self._hook.remove()
            self._hook = None
        if compared is not None and compared.other and not compared.same:
            rank_zero_warn(
                f"lightning-gradcam: {self._step} does not pass the batch's images to forward() unchanged (it may "
                "normalise or crop them). Probes go from the batch through the transfer hooks to forward(), so the "
                "maps explain different inputs from the validated ones. Change the images in forward() or "
                "on_after_batch_transfer, or pass forward_fn=(module, batch) -> logits that applies the same change"
            )


def _are_same(one: Tensor, two: Tensor) -> bool:
    if one.shape != two.shape:
        return False
    numbers = one.to(two.device).float(), two.float()
    most = float(numbers[1].nan_to_num(0.0, 0.0, 0.0).abs().max())
    return torch.allclose(*numbers, rtol=_ROUNDING, atol=_ROUNDING * most, equal_nan=True)
