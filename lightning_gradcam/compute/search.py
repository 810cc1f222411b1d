"""Which layers can be explained: the look at a model that finds them, with a few of the samples."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from lightning_gradcam.capture.inputs import Inputs, with_gradient
from lightning_gradcam.capture.inspection import Survey, mixed
from lightning_gradcam.capture.known import KnownLayouts
from lightning_gradcam.capture.layers import LISTING, is_channels_first, named_layers, unwrapped
from lightning_gradcam.capture.layout import Layout, check_places, input_size
from lightning_gradcam.capture.obstacles import obstacle
from lightning_gradcam.capture.shapes import find_layout
from lightning_gradcam.compute.request import Request
from lightning_gradcam.errors import MOST, LayerError, listed
from lightning_gradcam.targets import Given
from lightning_gradcam.targets.reading import is_whole_numbers, whole_numbers

# Characters that a few names of layers need.
_ROOM = 60
# Number of samples that a look takes: a single one's axis can't be told from others of one place.
TRIED = 2
_TOKENS = (nn.Linear, nn.LayerNorm)
_PLACES = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


@dataclass(eq=False)
class Search:
    """The look at a model with two of the samples; it is taken where it is needed first.

    Attributes:
        model: The model, in evaluation mode.
        asked: What is asked of it.
        inputs: The batch.
        given: What targets may look at besides the output.
    """

    model: nn.Module
    asked: Request
    inputs: Inputs
    given: Given
    _searching: bool = field(default=False, init=False)
    _tokens: bool = field(default=False, init=False)

    @property
    def survey(self) -> Survey:
        """A look at the model with two of the samples; only where it is needed."""
        return self._look[0]

    def axes(self, layouts: Mapping[str, Layout]) -> str:
        """Returns what the input's axes mean where its layers show more than its shape; ``""`` where they do not.

        Args:
            layouts: Layer name to layout.
        """
        return self.survey.axes if any(layout.fold or len(layout.grid) == 1 for layout in layouts.values()) else ""

    @cached_property
    def _look(self) -> tuple[Survey, Inputs, Given]:
        """The survey, its samples, and what targets may look at of these."""
        try:
            return self._surveyed(self.inputs.part(0, 2), self.given.part(0, min(2, self.given.samples)))
        except Exception:
            # An input that all samples share can happen to have as many entries as there are samples, and a model of
            # bags may take no other number.
            return self._surveyed(self.inputs, self.given)

    def _surveyed(self, inputs: Inputs, given: Given, *first: Callable[[Any], object]) -> tuple[Survey, Inputs, Given]:
        """Looks at the model; ``first`` is called with the output of the first forward."""
        waiting = list(first)

        def run(picture: Tensor | None) -> Any:
            output = self.asked.run(inputs.fresh(picture))
            while waiting:
                waiting.pop(0)(output)
            return output

        def forward() -> Any:
            # Where the search follows the graph, it begins at the picture: weights may be frozen.
            return run(with_gradient(inputs.picture) if torch.is_grad_enabled() else None)

        survey = Survey(
            self.model,
            forward,
            samples=inputs.samples,
            picture=input_size(inputs.picture),
            given=self.asked.layouts,
            own=inputs.picture,
            again=run,
            graph=self._searching,
            tokens=self._tokens,
        )
        return survey, inputs, given

    def needs_look(self, modules: Mapping[str, nn.Module]) -> bool:
        """Whether the layout of one of these layers will probably need a look at the model: it may give tokens.

        Args:
            modules: Layer name to module.
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
        """Looks at the model with all of the samples.

        Args:
            done: Called after the first forward.

        Returns:
            The output of this forward, with its graph.
        """
        outputs: list[Any] = []

        self._tokens = True
        self.__dict__["_look"] = self._surveyed(self.inputs, self.given, outputs.append, lambda _: done())
        return outputs[0]

    @cached_property
    def _search(self) -> tuple[Survey, Given]:
        """The survey that is asked what the targets depend on; of all samples where a callable can't do with two.

        Raises:
            Exception: What a callable target raises, as it came.
        """
        survey, inputs, given = self._look
        with suppress(Exception):
            self._try(inputs, given)
            return survey, given
        self._try(self.inputs, self.given)
        return self._surveyed(self.inputs, self.given)[0], self.given

    def _try(self, inputs: Inputs, given: Given) -> None:
        """Calls callable targets with the model as it is: in a search they may fail because the weights are others."""
        if any(target.select.is_particular for target in self.asked.targets):
            with torch.no_grad():
                self._particular(self.asked.run(inputs.fresh()), given)

    def _particular(self, output: Any, given: Given) -> list[Tensor]:
        """The scores of the targets that may look at a part of the output alone."""
        return [t.select.explain(output, given, t.name).scores for t in self.asked.targets if t.select.is_particular]

    def auto(self) -> str:
        """Returns the layer that ``"auto"`` means."""
        self._searching = True
        try:
            return self._search[0].auto(self._meant)
        except LayerError:
            if why := obstacle(self.model):
                raise LayerError(f"layers: 'auto' finds no layer to explain: {why}") from None
            if any(method.needs == "gradients" for method in self.asked.methods.values()):
                with torch.no_grad():
                    output = self.asked.run(self._look[1].fresh())
                if is_whole_numbers(output):
                    raise whole_numbers(output) from None
            raise
        finally:
            self._searching = False

    def calls(self, name: str) -> int:
        """Returns how often the forward calls a layer."""
        return self.survey.calls(name)

    def _meant(self, output: Any) -> list[Tensor]:
        """Numbers that depend on all that the targets may look at, of the survey's samples."""
        try:
            own = self._particular(output, self._search[1])
        except Exception:  # under other weights a detector may find nothing, and a callable count on finding something
            own = []
        return mixed(own if len(own) == len(self.asked.targets) else output)

    def beside(self, error: LayerError) -> LayerError:
        """Returns an error about a layer with the layers that have a feature map, where it has room for them.

        All of them, or the last five where these take too much room.
        """
        head = f"{error}; layers with a feature map here: "
        room = MOST - len(head)
        try:
            names = list(self.survey.spatial()) if room >= _ROOM else []
        except Exception as failure:  # the model itself fails; what was wrong before is what counts
            return LayerError(f"{head}{f'unknown ({type(failure).__name__}: {failure})'[:room]}")
        whole = ", ".join(names)
        if len(whole) > room:
            tail = f" (the last of {len(names)}; `{LISTING}` lists all)"
            whole = f"{listed(names[:-6:-1], room=room - len(tail))}{tail}"
        return LayerError(head + whole) if names else error

    def is_reached(self, layer: str) -> bool:
        """Whether any score can depend on a layer's places, whatever the weights are; also where that can't be told."""
        survey = self._search[0]
        return bool(survey.alive(self._meant, [layer])) or not survey.has_map(layer)

    def instead_of(self, layer: str, *, later: bool) -> str | None:
        """Returns the nearest layer with a gradient, before a layer or ``later`` in the forward; ``None``: no such."""
        return self._search[0].instead_of(layer, self._meant, later=later)

    def layout_of(self, name: str, module: nn.Module, activation: Tensor, *, single: bool = False) -> Layout:
        """Returns what the axes of a layer's activation mean.

        Args:
            name: The layer's.
            module: The layer.
            activation: Its output.
            single: A single place will do: it is one of several levels.

        Raises:
            LayerError: It has no places, or what the user says of it does not fit.
        """
        first = activation.dim() > 3 and is_channels_first(unwrapped(module), activation.shape)
        given, samples = self.asked.layout_of(name), self.inputs.samples
        # Signals, and frames that are folded into the batch: the shapes alone do not tell.
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
            # Nothing but the modules that ran tells: its axes hold for any number of samples.
            seen = self._seen_layout(name, activation, given)
            if "L" in seen.axes and len(seen.grid) > 1 and self._other_tokens(activation, seen):
                raise LayerError(
                    f"layers: {name!r} gives {list(activation.shape)} for {self.inputs.samples} samples, and tokens"
                    f" {seen} for the first of them; every batch must give the same number of tokens"
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
        """Returns the layout in the survey's forward, or in one before that."""
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
        """Whether the model has been looked at."""
        return "_look" in self.__dict__

    @property
    def searched(self) -> bool:
        """Whether it has been asked what the targets depend on."""
        return "_search" in self.__dict__

    def _other_tokens(self, activation: Tensor, layout: Layout) -> bool:
        sizes = dict(zip(layout.axes, activation.shape, strict=True))
        frames, left = divmod(sizes["N"], self.inputs.samples)
        return left > 0 or (frames != 1 and not layout.fold) or sizes["L"] != layout.tokens
