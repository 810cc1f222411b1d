"""What is asked of a model, besides the layers: one object, from the caller to the forward."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from lightning_gradcam.capture.calls import layer_of
from lightning_gradcam.capture.inputs import Forward
from lightning_gradcam.methods import Method
from lightning_gradcam.targets import Target


@dataclass(frozen=True, eq=False)
class Request:
    """What is asked of a model, besides the layers.

    Attributes:
        targets: What is explained.
        methods: How, by name.
        layouts: What the user says of layouts, by layer name; ``""`` means all.
        run: From inputs to the explained output.
        relu: Keep only what speaks for the target.
        batch_size: How many samples go through the model at once; ``None``: all.
        check: Make sure that a gradient of zero is not one by construction; once is enough for a model.
        copies: The model is known to change a layer's output in place; it is found out if not given.
        keep_output: Keep the model's output; it can be larger than all maps.
        halve: Take half as many samples, or variants of them, at once if memory runs out.
        gradients: Put the gradients into numbers, too.
        trial: Explain the first two samples alone, and check the labels of all: whether it works is asked, not what the
            maps are.
        direct: ``run`` calls the model itself, with the inputs as they are.
        moves: Make sure once that the layers' places are the picture's; without, only where the model is looked at
            anyway.
    """

    targets: Sequence[Target]
    methods: Mapping[str, Method]
    layouts: Mapping[str, str]
    run: Forward
    relu: bool = True
    batch_size: int | None = None
    check: bool = True
    copies: bool = False
    keep_output: bool = True
    halve: bool = True
    gradients: bool = False
    trial: bool = False
    direct: bool = False
    moves: bool = False

    def layout_of(self, layer: str) -> str | None:
        """Returns what the user says of a layer's layout; ``None``: nothing."""
        return self.layouts.get(layer, self.layouts.get(layer_of(layer), self.layouts.get("")))
