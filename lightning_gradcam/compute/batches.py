"""Explains many samples part by part, in bounded memory."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from itertools import chain
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_unflatten

from lightning_gradcam.capture.calls import layer_of
from lightning_gradcam.capture.inputs import Forward, Inputs
from lightning_gradcam.capture.layers import LISTING, LayerSpec, mixing_layers, named_layers, resolve_layers
from lightning_gradcam.capture.layout import Layout
from lightning_gradcam.capture.memory import in_parts, is_out_of_memory
from lightning_gradcam.compute.callers import Request, eager
from lightning_gradcam.compute.explanation import explain_layers
from lightning_gradcam.compute.search import TRIED, Search
from lightning_gradcam.errors import ConfigurationError, LayerError, did_you_mean
from lightning_gradcam.probes.batches import one_size
from lightning_gradcam.record.cams import CamKey, Cams
from lightning_gradcam.record.gradients import joined
from lightning_gradcam.targets import Given, Target
from lightning_gradcam.targets.classes import Class, Contrast
from lightning_gradcam.targets.labels import check_classes
from lightning_gradcam.warn import warn

_CHANNELS_FIRST = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.BatchNorm2d, nn.BatchNorm3d)


class _Found(Protocol):
    """A part's result, whose layouts apply to all parts."""

    @property
    def layouts(self) -> Mapping[str, Layout]: ...


F = TypeVar("F", bound=_Found)


def explain_in_parts(
    model: nn.Module, layers: LayerSpec, load: Callable[[int, int], Inputs], given: Given, asked: Request
) -> Cams:
    """Explains samples part by part; the caller guards the model and sets evaluation mode.

    Args:
        model: The model.
        layers: As in :func:`compute_cams`.
        load: Returns the inputs for the samples between a start and a stop index.
        given: The targets' additional data, for all samples.
        asked: The request.

    Returns:
        The maps for all samples, in order; for a trial, those for the first two samples.
    """

    def explained(search: Search, modules: Mapping[str, nn.Module]) -> Cams:
        found = explain_layers(search, modules)
        if asked.trial and search.given.samples < given.samples:
            check_rest(found.output, given, asked.targets)
        return found if asked.keep_output else replace(found, output=None)

    return _joined(in_searched_parts(model, layers, load, given, asked, explained))


def in_searched_parts(
    model: nn.Module,
    layers: LayerSpec,
    load: Callable[[int, int], Inputs],
    given: Given,
    asked: Request,
    call: Callable[[Search, Mapping[str, nn.Module]], F],
) -> list[F]:
    """Calls a function for consecutive parts of the samples; later parts reuse the layers and layouts found earlier.

    Args:
        model: The model.
        layers: As in :func:`compute_cams`.
        load: Returns the inputs for the samples between a start and a stop index.
        given: The targets' additional data, for all samples.
        asked: The request.
        call: Maps a part and its modules by layer name to a result.
    """
    if not given.samples:
        raise ConfigurationError("inputs: got an empty batch; pass at least one sample")
    given.check()
    available = named_layers(model)
    if asked.check:
        check_model(available, given.samples, asked.layouts)
    modules: Mapping[str, nn.Module] | None = None
    tried: Inputs | None = None
    known = asked

    def output_of(place: int) -> Any:
        with torch.no_grad():
            return asked.run(load(place, place + 1).fresh())

    def part_of(start: int, stop: int) -> F:
        nonlocal modules, tried, known
        part = given if stop - start == given.samples else given.part(start, stop, output_of)
        tried = load(start, stop)
        search = Search(model, known, tried, part)
        try:
            if modules is None:
                modules = resolve_layers(model, layers, auto=search.auto, calls=search.calls, available=available)
                if asked.check:
                    check_layouts(modules, asked)
            found = call(search, modules)
        except LayerError as error:
            raise search.beside(error) from None
        # A final part with a single sample may not reveal these findings again.
        layouts = {**known.layouts, **{name: str(layout) for name, layout in found.layouts.items()}}
        known = replace(known, layouts=layouts, copies=isinstance(found, Cams) and found.overwritten, moves=False)
        return found

    # Make the parts of a batch as equal as possible.
    total = min(given.samples, TRIED) if asked.trial else given.samples
    size = -(-total // -(-total // min(asked.batch_size or total, total)))

    def one_bag(error: Exception) -> bool:
        return tried is not None and _takes_one_bag(tried, asked.run, error)

    with eager(model):
        return list(in_parts(total, size, part_of, halve=asked.halve, alone=one_bag))


def _takes_one_bag(inputs: Inputs, run: Forward, error: Exception) -> bool:
    """Whether a model that failed on several bags or clips works on one, because it squeezes the batch axis."""

    def works(part: Inputs) -> bool:
        with suppress(Exception), torch.no_grad():
            run(part.fresh())
            return True
        return False

    if inputs.picture.dim() != 5 or inputs.samples == 1 or is_out_of_memory(error):
        return False
    # Run all samples again: if the model works on them, the failure has a different cause, which must be reported.
    return works(inputs.part(0, 1)) and not works(inputs)


def check_rest(output: Any, given: Given, targets: Sequence[Target]) -> None:
    """Rejects labels of any sample that are not among the model's classes, without running the model.

    Args:
        output: The model's output for some of the samples.
        given: The targets' additional data, for all samples.
        targets: The explained targets.

    Raises:
        TargetError: A label is not among the model's classes, or is missing where one is needed.
    """
    of_classes = [target for target in targets if isinstance(target.select, (Class, Contrast))]
    if not of_classes or not isinstance(output, Tensor) or not len(output):
        return
    # To read the labels, these targets only need the output's number of classes.
    whole = output[:1].expand(given.samples, *output.shape[1:])
    check_classes(whole, given.labels, given.names)
    for target in of_classes:
        target.explain(whole, given)


def check_model(available: Mapping[str, nn.Module], samples: int, layouts: Mapping[str, str]) -> None:
    """Rejects layouts for unknown layers, and warns if samples influence each other.

    Args:
        available: The model's layers, by name.
        samples: Number of samples.
        layouts: The user's layouts.

    Raises:
        LayerError: A layer does not exist.
    """
    for name in layouts:
        if name and name not in available and layer_of(name) not in available:
            raise LayerError(f"layout: layer {name!r:.80} not found{did_you_mean(name, available, listing=LISTING)}")
    if samples > 1 and (mixing := mixing_layers(available)):
        warn(
            f"model: {', '.join(map(repr, mixing))} do not keep running statistics, so samples influence each other "
            "even in evaluation mode: a sample's map depends on the rest of its batch, and on batch_size. Use "
            "track_running_stats=True, or explain one sample at a time"
        )


def check_layouts(modules: Mapping[str, nn.Module], asked: Request) -> None:
    """Rejects a layout from the user that conflicts with the module's class."""
    for name, module in modules.items():
        spec, kind = asked.layout_of(name), type(module)
        if spec and kind in _CHANNELS_FIRST and not spec.startswith(("NC", "(NT)C", "(TN)C")):
            raise ConfigurationError(
                f"layout: {spec!r} does not fit {name!r}, a {kind.__name__}, whose channels come first; leave layout= "
                f"out, or specify the layers that it is meant for: layout={{'layer': {spec!r}}}"
            )


def _joined(parts: Sequence[Cams]) -> Cams:
    if len(parts) == 1:
        return parts[0]
    samples = [len(next(iter(part.scores.values()))) for part in parts]

    def whole(name: str) -> Any:
        """Joins one field of all parts: tensors by key, a single tensor, or ``None``."""
        values = [getattr(part, name) for part in parts]
        if isinstance(values[0], Mapping):
            return {key: torch.cat([value[key] for value in values]) for key in values[0]}
        known = [value for value in values if value is not None]
        return torch.cat(known) if known else None

    fields = ("scores", "classes", "predicted", "confidence", "confidences", "likeliest", "likeliest_confidence")
    return replace(
        parts[0],
        # Images of different sizes are explained one by one.
        maps={key: one_size([part.maps[key] for part in parts]) for key in parts[0].maps},
        output=_joined_output([part.output for part in parts], samples),
        # Use the layer's own name where a part depends on a single level.
        levels={
            key: tuple(chain.from_iterable(p.levels.get(key, key[:1] * n) for p, n in zip(parts, samples, strict=True)))
            for key in dict.fromkeys(key for part in parts for key in part.levels)
        },
        gradients={key: joined([part.gradients[key] for part in parts]) for key in parts[0].gradients},
        causes=_joined_causes(parts, samples),
        **{name: whole(name) for name in fields},
    )


def _joined_causes(parts: Sequence[Cams], samples: Sequence[int]) -> dict[CamKey, Tensor]:
    """Joins causes; a part without a blank map contributes zeros."""
    found = {}
    for key, known in {key: known for part in parts for key, known in part.causes.items()}.items():
        every = [p.causes.get(key, known.new_zeros(n)) for p, n in zip(parts, samples, strict=True)]
        found[key] = torch.cat(every)
    return found


def _joined_output(outputs: Sequence[Any], samples: Sequence[int]) -> Any:
    """Joins outputs along the sample axis; returns a list unless all leaves are tensors with one row per sample."""
    flat = [tree_flatten(output) for output in outputs]
    fits = all(structure == flat[0][1] for _, structure in flat) and all(
        isinstance(leaf, Tensor) and leaf.dim() and len(leaf) == count
        for (leaves, _), count in zip(flat, samples, strict=True)
        for leaf in leaves
    )
    if not fits:
        return list(outputs)
    whole = [torch.cat(leaves) for leaves in zip(*(leaves for leaves, _ in flat), strict=True)]
    return tree_unflatten(whole, flat[0][1])
