"""The request for an explanation, apart from the layers: one object from the caller to the forward."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from lightning_gradcam.capture.calls import layer_of
from lightning_gradcam.capture.inputs import Forward
from lightning_gradcam.methods.registry import Method
from lightning_gradcam.targets.resolve import Target


@dataclass(frozen=True, eq=False)
class Request:
    """The request for an explanation, apart from the layers.

    Attributes:
        targets: The targets to explain.
        methods: The methods, by name.
        layouts: The user's layouts by layer name; ``""`` means all layers.
        run: Maps inputs to the explained output.
        relu: Keep only positive evidence for the target.
        batch_size: Number of samples per forward; ``None`` means all.
        check: Check that a zero gradient is not zero by construction; once is enough for a model.
        copies: Whether the model modifies a layer's output in place; detected if not given.
        keep_output: Keep the model's output; it can be larger than all maps.
        halve: Halve the number of samples or variants per forward if memory runs out.
        gradients: Also compute gradient statistics.
        trial: Only explain the first two samples and check all labels, to find out whether it works.
        direct: Whether ``run`` calls the model itself with unchanged inputs.
        moves: Check once that the layers' positions match the image's; otherwise this is only checked if the model is
            surveyed anyway.
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
        """Returns the user's layout for a layer, or ``None``."""
        return self.layouts.get(layer, self.layouts.get(layer_of(layer), self.layouts.get("")))
