"""Checks whether the explained weights are those that were validated."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from lightning_gradcam.callbacks.host import Callback, Host, kinds

if TYPE_CHECKING:
    from pytorch_lightning import Trainer

# Maximum number of values read along each axis of a parameter: enough to detect any optimizer step or average, in any
# memory layout.
_PLACES = 4


class ValidatedWeights:
    """A sample of the weights at the end of a validation.

    They are compared by content: a swap through ``.data`` changes no version counter, and weights that are moved or
    copied without being changed count as the same.
    """

    def __init__(self) -> None:
        self._seen: list[bytes] = []
        self._told = False

    def remember(self, host: Host) -> None:
        """Stores a sample of the weights at the validation's last batch."""
        # If the weights are sharded, each forward pass changes which of them a rank holds.
        self._seen = [] if self._told or host.shards else _some_of(host.module)

    def gone(self, host: Host) -> bool:
        """Whether the weights have changed since :meth:`remember`; after that, nothing is compared again."""
        self._told = self._told or (bool(self._seen) and _some_of(host.module) not in (self._seen, []))
        found, self._seen = self._told and bool(self._seen), []
        return found


def _some_of(module: nn.Module) -> list[bytes]:
    """Returns a sample of every parameter's values, bit for bit; empty if any of them can't be read."""
    groups = dict[tuple[torch.device, torch.dtype], list[Tensor]]()
    try:
        for parameter in module.parameters():
            if not is_lazy(parameter):
                some = parameter.detach()[tuple(slice(None, None, -(-n // _PLACES) or 1) for n in parameter.shape)]
                groups.setdefault((some.device, some.dtype), []).append(some.reshape(-1))
        # One copy per device, because each copy waits for the device.
        return [torch.cat(group).cpu().view(torch.uint8).numpy().tobytes() for group in groups.values()]
    except Exception:  # a quantised or otherwise wrapped parameter may raise anything
        return []


def averages_before(trainer: Trainer, callback: Callback) -> bool:
    """Whether a callback listed earlier validates averaged weights and swaps them out when validation ends.

    Lightning's ``WeightAveraging`` and ``EMAWeightAveraging`` do so in ``on_validation_epoch_end``.
    """
    return any("WeightAveraging" in kinds(other) for other in _earlier(trainer, callback))


def how_they_changed(trainer: Trainer, callback: Callback, hook: str) -> str:
    """Returns a warning that the weights have changed since the validation's last batch.

    Args:
        trainer: The trainer.
        callback: The callback that explained the changed weights.
        hook: The hook in which it did so.
    """
    before = " and ".join(
        type(other).__name__
        for other in _earlier(trainer, callback)
        if getattr(getattr(other, hook), "__qualname__", "").split(".")[0] not in ("Callback", "ProbeCallback")
    )
    return (
        "the maps do not explain the validated weights: the weights changed after the last batch and before this "
        "callback ran (perhaps because an EMA callback swapped its weights out); "
        + (f"list this callback before {before}" if before else f"change them later, at {hook[:-10]}_end")
    )


def _earlier(trainer: Trainer, callback: Callback) -> list[Any]:
    callbacks: list[Any] = trainer.callbacks  # type: ignore[attr-defined]
    return callbacks[: callbacks.index(callback)] if callback in callbacks else []
