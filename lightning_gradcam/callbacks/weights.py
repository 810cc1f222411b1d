"""Whether the weights that are explained are those that were validated."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from lightning_gradcam.callbacks.host import Callback, Host, kinds

if TYPE_CHECKING:
    from pytorch_lightning import Trainer

# Of each axis of each parameter: enough for any optimizer step or average to show, in any layout of memory.
_PLACES = 4


class ValidatedWeights:
    """Numbers of the weights that a validation has ended with.

    They are compared by content: a swap through ``.data`` changes no version counter, and weights that are moved or
    copied without being changed are the same weights.
    """

    def __init__(self) -> None:
        self._seen: list[bytes] = []
        self._told = False

    def remember(self, host: Host) -> None:
        """Keeps some of the numbers, at the validation's last batch."""
        # Which of them a rank holds changes with each forward, where they are sharded.
        self._seen = [] if self._told or host.shards else _some_of(host.module)

    def gone(self, host: Host) -> bool:
        """Whether the numbers are others by now; once that is so, it is not asked again."""
        self._told = self._told or (bool(self._seen) and _some_of(host.module) not in (self._seen, []))
        found, self._seen = self._told and bool(self._seen), []
        return found


def _some_of(module: nn.Module) -> list[bytes]:
    """Returns some numbers of every parameter, bit by bit; none if a parameter does not show them."""
    groups = dict[tuple[torch.device, torch.dtype], list[Tensor]]()
    try:
        for parameter in module.parameters():
            if not is_lazy(parameter):
                some = parameter.detach()[tuple(slice(None, None, -(-n // _PLACES) or 1) for n in parameter.shape)]
                groups.setdefault((some.device, some.dtype), []).append(some.reshape(-1))
        # One copy from each device: each waits for it.
        return [torch.cat(group).cpu().view(torch.uint8).numpy().tobytes() for group in groups.values()]
    except Exception:  # whatever a quantised or otherwise wrapped parameter raises
        return []


def averages_before(trainer: Trainer, callback: Callback) -> bool:
    """Whether a callback listed earlier validates averaged weights, and takes them away when validation ends.

    Lightning's ``WeightAveraging`` and ``EMAWeightAveraging`` do, at ``on_validation_epoch_end``.
    """
    return any("WeightAveraging" in kinds(other) for other in _earlier(trainer, callback))


def called_before(trainer: Trainer, callback: Callback, hook: str) -> list[str]:
    """Returns the classes of the callbacks listed earlier that do something in a hook; this package's are left out."""
    return [
        type(other).__name__
        for other in _earlier(trainer, callback)
        if getattr(getattr(other, hook), "__qualname__", "").split(".")[0] not in ("Callback", "ProbeCallback")
    ]


def _earlier(trainer: Trainer, callback: Callback) -> list[Any]:
    callbacks: list[Any] = trainer.callbacks  # type: ignore[attr-defined]
    return callbacks[: callbacks.index(callback)] if callback in callbacks else []
