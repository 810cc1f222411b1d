"""Reruns a model on variants of its input or of a layer's output, several per forward pass if possible."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn

from lightning_gradcam.capture.calls import MapPlace
from lightning_gradcam.capture.inputs import Forward, Inputs, with_gradient
from lightning_gradcam.capture.layers import mixing_layers, named_layers
from lightning_gradcam.capture.layout import Layout
from lightning_gradcam.capture.memory import is_out_of_memory
from lightning_gradcam.errors import MethodError
from lightning_gradcam.targets import Scored

# Samples per forward pass; Score-CAM and similar methods have one variant for each channel.
_BATCH = 32

# An image, and a replacement for a layer's output.
Variant = tuple[Tensor, Tensor | None]


@dataclass(frozen=True, eq=False)
class RerunLayer:
    """The feature map explained by a method.

    Attributes:
        name: The layer's name.
        module: The layer.
        activation: Its output, detached.
        layout: The meaning of the output's axes.
        place: The explained call of the layer, and the explained feature map in its output.
    """

    name: str
    module: nn.Module
    activation: Tensor
    layout: Layout
    place: MapPlace


@dataclass(frozen=True, eq=False)
class RerunModel:
    """Everything needed for a rerun: the model, how to call it, its inputs, and the targets' choices.

    Attributes:
        module: The model.
        run: Maps inputs to the explained output.
        inputs: The batch.
        explained: Scores and choices by target name.
        whole_graph: Whether the graph must start at the input; see
            :func:`lightning_gradcam.capture.activations.capture`.
        axes: The meaning of the image's axes, if its shape is ambiguous; see
            :class:`~lightning_gradcam.capture.inputs.InputForm`.
        halve: Whether to halve the number of variants per forward pass if memory runs out; not possible if all ranks
            must run the same forward passes.
    """

    module: nn.Module
    run: Forward
    inputs: Inputs
    explained: Mapping[str, Scored]
    whole_graph: bool = False
    halve: bool = True
    axes: str = ""

    def forward(self, picture: Tensor, *, copies: int = 1) -> Any:
        """Returns the model's output for a different image, or for ``copies`` consecutive images."""
        if self.whole_graph and torch.is_grad_enabled() and not picture.requires_grad:
            picture = with_gradient(picture)
        # The model may modify its inputs in place.
        return self.run(self.inputs.fresh(picture.clone(), copies))

    def scores_of(
        self, variants: Iterable[Variant], replaced: Callable[[Tensor], AbstractContextManager[object]] | None = None
    ) -> Tensor:
        """Scores variants of the model's input or of a layer's output.

        If memory runs out, the number of variants per forward pass is halved for the rest of this call. The next call
        starts with the full number again.

        Args:
            variants: The variants, consumed lazily.
            replaced: A context in which a variant's second part replaces the layer's output.

        Returns:
            The scores of all targets and samples for each variant, ``[V, T, N]``.
        """
        # Copies that run together would share batch statistics.
        mixing = mixing_layers(named_layers(self.module))
        repeats = not mixing and all(explained.repeats for explained in self.explained.values())
        together = max(1, _BATCH // self.inputs.samples) if repeats else 1
        source, waiting, found = iter(variants), list[Variant](), list[Tensor]()
        with torch.no_grad():
            while waiting := waiting or list(islice(source, together)):
                size = min(together, len(waiting))
                try:
                    found.append(self._scored(waiting[:size], replaced))
                except (RuntimeError, MemoryError) as error:
                    short = is_out_of_memory(error)
                    if size == 1 or (short and not self.halve):
                        raise
                    # An input shared by all samples may happen to have one entry per sample; repeating it then fails.
                    together = (size + 1) // 2 if short else 1
                    # Retry outside this block: the error's traceback keeps this attempt's tensors alive.
                    continue
                del waiting[:size]
        return torch.cat(found)

    def _scored(
        self, group: Sequence[Variant], replaced: Callable[[Tensor], AbstractContextManager[object]] | None
    ) -> Tensor:
        pictures = torch.cat([picture for picture, _ in group])
        others = [other for _, other in group if other is not None]
        with replaced(torch.cat(others)) if replaced is not None else nullcontext():
            output = self.forward(pictures, copies=len(group))
        shape = len(group), self.inputs.samples
        scores = [explained.again(output, len(group)).reshape(shape) for explained in self.explained.values()]
        return full_precision(torch.stack(scores, dim=1))


def refused(why: str) -> MethodError:
    """Returns the error for a method that can't be used here; it names methods that can."""
    return MethodError(f"methods: {why}; use gradcam, hirescam or layercam here")


def full_precision(values: Tensor) -> Tensor:
    """Returns float64 tensors unchanged and all others as float32."""
    return values if values.dtype == torch.float64 else values.float()
