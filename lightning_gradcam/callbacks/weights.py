"""Whether the weights that are explained are those that were validated."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from lightning_gradcam.callbacks.host import Host

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
    """Returns some numbers of every parameter, bit by bit; none where a parameter does not show them."""
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
