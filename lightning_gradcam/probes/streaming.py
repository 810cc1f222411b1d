"""Probes from data that can't be indexed: the first samples, copied before the model receives them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from lightning_gradcam.capture.tensors import mapped
from lightning_gradcam.probes.batches import differ_in_size, is_listed, join_listed, join_parts, part_of, part_of_listed
from lightning_gradcam.probes.dataset import Drawn, drawn_from
from lightning_gradcam.probes.entries import entry_of, input_of
from lightning_gradcam.probes.options import DEFAULT_PROBES, ProbeOptions


class Passing:
    """Collects samples from passing batches until there are enough.

    Args:
        options: The user's choice: the number of samples wanted, and how to read the batches.

    Example:
        >>> passing = Passing(ProbeOptions(num_probes=3))
        >>> for batch in ([torch.zeros(2, 1, 4, 4), torch.tensor([0, 1])], [torch.ones(2, 1, 4, 4), torch.zeros(2)]):
        ...     passing.take(batch)
        >>> len(passing), passing.complete
        (3, True)
    """

    def __init__(self, options: ProbeOptions) -> None:
        self._options = options
        self._count = options.num_probes or DEFAULT_PROBES
        self._input_key = options.input_key
        self._batches: list[Any] = []
        self._sizes: list[int] = []
        self._shape: tuple[int, ...] = ()

    def __len__(self) -> int:
        return sum(self._sizes)

    @property
    def complete(self) -> bool:
        """Whether enough samples have been collected."""
        return len(self) >= self._count

    def take(self, batch: Any) -> None:
        """Copies the samples that are still needed to the CPU; none if their size differs from the first.

        Raises:
            ProbeError: The batch has no tensor at the input's position.
        """
        # Without a batch, the validation step fetches its batches itself.
        if batch is None or self.complete:
            return
        entry = entry_of(batch, self._input_key)
        if is_listed(entry, batch) and differ_in_size(entry):
            for place in range(len(entry)):
                self.take(part_of_listed(batch, place, place + 1, len(entry)))
            return
        picture = input_of(batch, self._input_key)
        found = len(picture)
        wanted = min(self._count - len(self), found)
        shape = tuple(picture.shape[1:])
        # Samples that differ in size from the first can't share a batch with it.
        if wanted > 0 and shape == (self._shape or shape):
            self._shape = shape
            # Autograd would permanently reject tensors created under Lightning's inference mode.
            with torch.inference_mode(False):
                part = part_of_listed if is_listed(entry, batch) else part_of
                self._batches.append(mapped(_copied, part(batch, 0, wanted, found)))
            self._sizes.append(wanted)

    def drawn(self, dataset: Any) -> Drawn:
        """Returns the probes in the order in which they were collected.

        Args:
            dataset: Their data set, for its class names and normalisation.
        """
        first = self._batches[0]
        join = join_listed if is_listed(entry_of(first, self._input_key), first) else join_parts
        return replace(drawn_from(dataset, join(self._batches, self._sizes), self._options), transferred=True)


def _copied(leaf: Any) -> Any:
    return leaf.detach().to("cpu", copy=True) if isinstance(leaf, Tensor) else leaf
