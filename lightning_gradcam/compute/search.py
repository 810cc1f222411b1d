"""Finds the layers that can be explained, by surveying the model with a few samples."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from lightning_gradcam.capture.inputs import Inputs
from lightning_gradcam.capture.inspection import Survey, mixed
from lightning_gradcam.capture.known import KnownLayouts
from lightning_gradcam.capture.layers import LISTING, is_channels_first, named_layers, obstacle, unwrapped
from lightning_gradcam.capture.layout import Layout, check_places, input_size
from lightning_gradcam.capture.shapes import find_layout
from lightning_gradcam.compute.callers import Request
from lightning_gradcam.errors import MOST, LayerError, listed
from lightning_gradcam.targets import Given
from lightning_gradcam.targets.reading import is_whole_numbers, whole_numbers

# Minimum number of characters for listing a few layer names.
_ROOM = 60
# Number of samples for a survey: with one, the sample axis can't be distinguished from other axes of length one.
TRIED = 2
_TOKENS = (nn.Linear, nn.LayerNorm)
_PLACES = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


@dataclass(eq=False)
class Search:
    """A survey of the model with two samples, run when first needed.

    Attributes:
        model: The model, in evaluation mode.
        asked: The request.
        inputs: The batch.
        given: The targets' additional data.
    """

    model: nn.Module
    asked: Request
    inputs: Inputs
    given: Given
    _searching: bool = field(default=False, init=False)
    _tokens: bool = field(default=False, init=False)

    @property
    def survey(self) -> Survey:
        """The survey of the model with two samples, run when first needed."""
        return self._look[0]

    def axes(self, layouts: Mapping[str, Layout]) -> str:
        """Returns the meaning of the input's axes if the layers reveal more than its shape; otherwise ``""``.

        Args:
            layouts: Layouts by layer name.
        """
        return self.survey.axes if any(layout.fold or len(layout.grid) == 1 for layout in layouts.values()) else ""

    @cached_property
    def _look(self) -> tuple[Survey, Inputs, Given]:
        """The survey, its samples, and the targets' additional data for these."""
        try:
            return self._surveyed(self.inputs.part(0, 2), self.given.part(0, min(2, self.given.samples)))
        except Exception:
            # Two samples may fail: an input shared by all samples may happen to have one entry per sample, and a model
            # for bags may accept only the given number.
            return self._surveyed(self.inputs, self.given)

    def _surveyed(self, inputs: Inputs, given: Given, *first: Callable[[Any], object]) -> tuple[Survey, Inputs, Given]:
        """Surveys the model; calls ``first`` with the output of the first forward pass."""
        waiting = list(first)

        def run(picture: Tensor) -> Any:
            output = self.asked.run(inputs.fresh(picture))
            while waiting:
                waiting.pop(0)(output)
            return output

        layouts = self.asked.layouts
        survey = Survey(self.model, run, inputs.picture, layouts, graph=self._searching, tokens=self._tokens)
        return survey, inputs, given

    def needs_look(self, modules: Mapping[str, nn.Module]) -> bool:
        """Whether any of these layers may output tokens, so its layout probably needs a survey.

        Args:
            modules: Modules by layer name.
        """
        unknown = [list(module.modules()) for name, module in modules.items() if self.asked.layout_of(name) is None]
        return (
            not self.looked
            and self.inputs.samples <= TRIED
            and any(
                any(isinstance(part, _TOKENS) for part in parts)
                and not any(isinstance(part, _PLACES) for part in parts)
                for parts in unknown
            )
        )

    def look(self, done: Callable[[], None]) -> Any:
        """Surveys the model with all samples.

        Args:
            done: Called after the first forward pass.

        Returns:
            The output of this forward pass, attached to its graph.
        """
        outputs: list[Any] = []

        self._tokens = True
        self.__dict__["_look"] = self._surveyed(self.inputs, self.given, outputs.append, lambda _: done())
        return outputs[0]

    @cached_property
    def _search(self) -> tuple[Survey, Given]:
        """The survey used to find what the targets depend on; it uses all samples if a callable fails with two.

        Raises:
            Exception: The unchanged exception from a callable target.
        """
        survey, inputs, given = self._look
        with suppress(Exception):
            self._try(inputs, given)
            return survey, given
        self._try(self.inputs, self.given)
        return self._surveyed(self.inputs, self.given)[0], self.given

    def _try(self, inputs: Inputs, given: Given) -> None:
        """Calls callable targets with the original weights: with a search's other weights, they may fail."""
        if any(target.select.is_particular for target in self.asked.targets):
            with torch.no_grad():
                self._particular(self.asked.run(inputs.fresh()), given)

    def _particular(self, output: Any, given: Given) -> list[Tensor]:
        """Returns the scores for the targets that may use only a part of the output."""
        return [t.select.explain(output, given, t.name).scores for t in self.asked.targets if t.select.is_particular]

    def auto(self) -> str:
        """Returns the layer that ``"auto"`` selects."""
        self._searching = True
        try:
            return self._search[0].auto(self._meant)
        except LayerError:
            if why := obstacle(self.model):
                raise LayerError(f"layers: 'auto' found no layer to explain: {why}") from None
            if any(method.needs == "gradients" for method in self.asked.methods.values()):
                with torch.no_grad():
                    output = self.asked.run(self._look[1].fresh())
                if is_whole_numbers(output):
                    raise whole_numbers(output) from None
            raise
        finally:
            self._searching = False

    def calls(self, name: str) -> int:
        """Returns the number of calls of a layer in one forward pass."""
        return self.survey.calls(name)

    def _meant(self, output: Any) -> list[Tensor]:
        """Returns numbers that depend on everything the targets may use, for the survey's samples."""
        try:
            own = self._particular(output, self._search[1])
        except Exception:  # with other weights, a detector may find nothing while a callable expects a detection
            own = []
        return mixed(own if len(own) == len(self.asked.targets) else output)

    def beside(self, error: LayerError) -> LayerError:
        """Appends the layers that have a feature map to an error about a layer, if there is room.

        It lists all of them, or at most the last five if the full list is too long.
        """
        head = f"{error}; layers with a feature map here: "
        room = MOST - len(head)
        try:
            names = list(self.survey.spatial) if room >= _ROOM else []
        except Exception as failure:  # the model itself fails; keep the original error
            return LayerError(f"{head}{f'unknown ({type(failure).__name__}: {failure})'[:room]}")
        whole = ", ".join(names)
        if len(whole) > room:
            tail = f" (the last of {len(names)}; `{LISTING}` lists all)"
            whole = f"{listed(names[:-6:-1], room=room - len(tail))}{tail}"
        return LayerError(head + whole) if names else error

    def is_reached(self, layer: str) -> bool:
        """Whether any score can depend on a layer's positions, with any weights; true if unknown."""
        survey = self._search[0]
        return bool(survey.alive(self._meant, [layer])) or not survey.has_map(layer)

    def instead_of(self, layer: str, *, later: bool) -> str | None:
        """Returns the nearest layer with a gradient before ``layer`` (after it if ``later``), or ``None``."""
        return self._search[0].instead_of(layer, self._meant, later=later)

    def layout_of(self, name: str, module: nn.Module, activation: Tensor, *, single: bool = False) -> Layout:
        """Returns the layout of a layer's activation.

        Args:
            name: The layer's name.
            module: The layer.
            activation: The layer's output.
            single: Whether to accept a single position, for instance because the layer has several levels.

        Raises:
            LayerError: The activation has no spatial axes, or the user's layout does not match it.
        """
        first = activation.dim() > 3 and is_channels_first(unwrapped(module), activation.shape)
        given, samples = self.asked.layout_of(name), self.inputs.samples
        # For signals and frames folded into the batch, shapes alone are ambiguous.
        signal = self.inputs.picture.dim() < 4 and activation.dim() == 3
        layout = None
        if given is not None or activation.dim() <= 2 or not (signal or activation.shape[0] != samples):
            layout = find_layout(
                name,
                activation.shape,
                last=False if first else None,
                sure=True,
                samples=samples,
                picture=input_size(self.inputs.picture),
                given=given,
            )
        if layout is None:
            # The survey's layout depends only on the modules that ran, so its axes are valid for any number of samples.
            seen = self._seen_layout(name, activation, given)
            if "L" in seen.axes and len(seen.grid) > 1 and self._other_tokens(activation, seen):
                raise LayerError(
                    f"layers: {name!r} returns {list(activation.shape)} for {self.inputs.samples} samples, but the "
                    f"first samples had the layout {seen}; every batch must have the same number of tokens"
                )
            shape = [size for size, axis in zip(activation.shape, seen.axes, strict=True) if axis not in "NCL"]
            layout = seen if "L" in seen.axes else replace(seen, grid=tuple(shape))
            if seen.fold:
                layout = replace(seen, grid=(activation.shape[0] // samples, *(shape or seen.grid[1:])))
            elif len(seen.grid) == 1:
                layout = replace(seen, grid=tuple(activation.shape[2:]))
        if not single:
            check_places(name, activation.shape, layout)
        return layout

    def _seen_layout(self, name: str, activation: Tensor, given: str | None) -> Layout:
        """Returns the layout from this survey, or from an earlier one."""
        self._tokens = activation.dim() == 3
        if not self._tokens or not self.asked.direct or not self.inputs.is_single:
            return self.survey.layout(name)
        key = (name, given, tuple(self.inputs.picture.shape[1:]), activation.shape[2])
        layout = self._known.get(key)
        if layout is None or self._other_tokens(activation, layout):
            layout = self.survey.layout(name)
            if "L" in layout.axes and len(layout.grid) > 1 and not layout.fold:
                self._known.add(key, layout)
        return layout

    @cached_property
    def _known(self) -> KnownLayouts:
        return KnownLayouts(self.model, named_layers(self.model))

    @property
    def looked(self) -> bool:
        """Whether the model has been surveyed."""
        return "_look" in self.__dict__

    @property
    def searched(self) -> bool:
        """Whether the targets' dependencies have been determined."""
        return "_search" in self.__dict__

    def _other_tokens(self, activation: Tensor, layout: Layout) -> bool:
        sizes = dict(zip(layout.axes, activation.shape, strict=True))
        frames, left = divmod(sizes["N"], self.inputs.samples)
        return left > 0 or (frames != 1 and not layout.fold) or sizes["L"] != layout.tokens
