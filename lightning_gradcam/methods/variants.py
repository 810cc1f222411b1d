"""Runs a model again, on variants of its input or of a layer's output, several in one forward where that is allowed."""

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

# Samples a forward; Score-CAM and its like have as many variants as the layer has channels.
_BATCH = 32

# A picture, and a replacement for a layer's output.
Variant = tuple[Tensor, Tensor | None]


@dataclass(frozen=True, eq=False)
class RerunLayer:
    """The feature map that a method explains.

    Attributes:
        name: The layer's name.
        module: The layer.
        activation: Its output, detached.
        layout: The meaning of its axes.
        place: Which of the layer's calls, and of the feature maps that this call returns, is explained.
    """

    name: str
    module: nn.Module
    activation: Tensor
    layout: Layout
    place: MapPlace


@dataclass(frozen=True, eq=False)
class RerunModel:
    """What is run again: the model, how it is called, with what, and the choices that every target has made.

    Attributes:
        module: The model.
        run: From inputs to the explained output.
        inputs: The batch.
        explained: Target name to its choices.
        whole_graph: The model needs its graph from the input on; see
            :func:`lightning_gradcam.capture.activations.capture`.
        axes: What the picture's axes mean, where its shape does not tell; see
            :class:`~lightning_gradcam.capture.inputs.InputForm`.
        halve: Run half as many variants at once if memory runs out; ranks that have to run the same
            forwards can't.
    """

    module: nn.Module
    run: Forward
    inputs: Inputs
    explained: Mapping[str, Scored]
    whole_graph: bool = False
    halve: bool = True
    axes: str = ""

    def forward(self, picture: Tensor, *, copies: int = 1) -> Any:
        """Returns what the model makes of another picture, or of ``copies`` of them, one after the other."""
        if self.whole_graph and torch.is_grad_enabled() and not picture.requires_grad:
            picture = with_gradient(picture)
        # The model may change its inputs in place.
        return self.run(self.inputs.fresh(picture.clone(), copies))

    def scores_of(
        self, variants: Iterable[Variant], replaced: Callable[[Tensor], AbstractContextManager[object]] | None = None
    ) -> Tensor:
        """Scores variants of what the model is given.

        Args:
            variants: Taken as they are needed.
            replaced: Puts the second of a variant's two in its place, inside its ``with``.

        If memory runs out, half as many variants are run at once for the rest of this call; the next call
        begins with all again.

        Returns:
            ``[V, T, N]``.
        """
        # Copies that are run together would lend each other their statistics.
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
                    # An input that all samples share can happen to have as many entries as there are samples.
                    together = (size + 1) // 2 if short else 1
                    # The next attempt is outside of this block: the error's traceback holds the tensors of this one.
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
    """Returns the error of a method that can't work here; most others can."""
    return MethodError(f"methods: {why}; use gradcam, hirescam or layercam here")


def full_precision(values: Tensor) -> Tensor:
    """Returns float64 as it is and everything else in float32."""
    return values if values.dtype == torch.float64 else values.float()
