"""Computes one explanation: the shared forward pass, its checks, and the methods that rerun the model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from math import isfinite, nan

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import CheckpointError

from lightning_gradcam.compute.blank import without_nothing
from lightning_gradcam.compute.checks import (
    check_dependence,
    check_moves,
    explains_classes,
    remark_on_labels,
    remark_on_names,
    remark_on_pictures,
    remark_on_score,
)
from lightning_gradcam.compute.forward import Shared, checked_maps, shared_forward
from lightning_gradcam.compute.search import Search
from lightning_gradcam.errors import CaptureError
from lightning_gradcam.methods import MODEL, relu
from lightning_gradcam.methods.rerun import Rerun
from lightning_gradcam.methods.variants import RerunLayer, RerunModel, full_precision
from lightning_gradcam.record.cams import CamKey, Cams
from lightning_gradcam.targets import class_probabilities, probability_of
from lightning_gradcam.targets.base import explained_score
from lightning_gradcam.targets.labels import check_classes, no_class_in

_LIKELIEST = 10


def explain_layers(search: Search, modules: Mapping[str, nn.Module]) -> Cams:
    """Computes the maps for the given layers; see :func:`lightning_gradcam.compute_cams`.

    Args:
        search: The model, the request and the samples.
        modules: Modules by layer name.
    """
    asked = search.asked
    first = shared_forward(search, modules)
    given, layouts = first.given, first.layouts
    of_classes = explains_classes(asked.targets)
    sums: dict[CamKey, float] = {}
    if asked.check:
        if of_classes:
            check_classes(first.output, given.labels, given.names)
        # Transfer all sums at once, because each transfer waits for the device.
        totals = torch.stack([values.sum() for values in first.maps.values()]).tolist() if first.maps else []
        sums = dict(zip(first.maps, totals, strict=True))
        check_dependence(search, layouts, first.maps, sums)
        if of_classes:
            remark_on_score(given)
            remark_on_names(first.output, given)
            remark_on_labels(first.output, given)
        remark_on_pictures(search, modules, layouts)
    again = any(method.needs in ("model", "rerun") for method in asked.methods.values())
    axes = search.axes(layouts) if asked.check or again or first.seen else ""
    if first.seen:
        check_moves(search, first.seen, axes)
    found, causes = {**first.maps}, {**first.causes}
    for key, values in _run_again(search, modules, first, axes).items() if again else ():
        found[key], codes = without_nothing(values, first.explained[key.target].zero)
        if codes is not None:
            causes[key] = codes
    # If a sum is finite, so are its terms, and there is nothing to mark.
    finite = {name: bool(sums) and isfinite(float(e.scores.sum())) for name, e in first.explained.items()}
    maps: dict[CamKey, Tensor] = {}
    for key in (CamKey(x, m, t.name) for x in [*modules, MODEL] for t in asked.targets for m in asked.methods):
        if key in found:
            sure = finite[key.target] and isfinite(sums.get(key, nan))
            marked = found[key] if sure else _marked(found[key], first.explained[key.target].scores)
            maps[key] = relu(marked) if asked.relu else marked
    # A callable may accept an output without one row per sample, for instance one row per bag or per window.
    rows = isinstance(first.output, Tensor) and first.output.shape[:1] == (search.inputs.samples,)
    classes = rows and all(target.select.has_classes for target in asked.targets)
    classes = classes and no_class_in(first.output, given.labels) is None
    shares = class_probabilities(first.output, given.chances, given.kind) if classes else None
    likeliest, confidence = (None, None) if shares is None else _likeliest(shares)
    return Cams(
        maps,
        {name: full_precision(e.scores.detach()) for name, e in first.explained.items()},
        {name: e.classes for name, e in first.explained.items()},
        first.output,
        None if likeliest is None or confidence is None else _predicted(likeliest[:, 0], confidence[:, 0]),
        None if confidence is None else confidence[:, 0],
        layouts,
        first.copies,
        {} if shares is None else {n: probability_of(shares, e.classes) for n, e in first.explained.items()},
        likeliest=likeliest,
        likeliest_confidence=confidence,
        gradients=first.gradients,
        levels={(layer, name): c.names(name) for layer, c in first.chosen.items() for name in c.places},
        causes=causes,
        score=explained_score(given.score, given.kind) if of_classes else given.score,
        axes=axes,
    )


def _run_again(search: Search, modules: Mapping[str, nn.Module], first: Shared, axes: str) -> dict[CamKey, Tensor]:
    """Returns the maps from methods that rerun the model."""
    asked, inputs = search.asked, search.inputs
    model = RerunModel(search.model, asked.run, inputs, first.explained, first.whole_graph, asked.halve, axes)
    shape, found = (len(first.explained), inputs.samples), dict[CamKey, Tensor]()
    for name, method in asked.methods.items():
        if method.needs == "model":
            whole = checked_maps(method.function(Rerun(model)), MODEL, name, shape, places=True)
            found.update(zip((CamKey(MODEL, name, target) for target in first.explained), whole, strict=True))
        for layer, choice in first.chosen.items() if method.needs == "rerun" else ():
            parts: dict[int, Tensor] = {}
            for number in choice.used():
                unit = choice.units[number]
                assert unit.layout is not None
                at = RerunLayer(layer, modules[layer], unit.activation, unit.layout, unit.place)
                try:
                    maps = method.function(Rerun(model, at))
                except (CaptureError, CheckpointError):
                    if model.whole_graph:
                        raise
                    # Without a gradient from the first forward pass, it is unknown whether the model drops the graph.
                    model = replace(model, whole_graph=True)
                    maps = method.function(Rerun(model, at))
                parts[number] = checked_maps(maps, layer, name, shape, places=True)
            for row, target in enumerate(first.explained):
                own = {number: maps[row] for number, maps in parts.items()}
                found[CamKey(layer, name, target)] = choice.merged(own, target)
    return found


def _marked(maps: Tensor, scores: Tensor) -> Tensor:
    """Sets maps of samples with a non-finite score to NaN; a ReLU may block their gradient and leave plain zeros.

    Infinite values are also set to NaN: the ReLU that follows would turn negative infinity into a valid-looking zero.
    """
    finite = scores.isfinite().reshape(-1, *[1] * (maps.dim() - 1))
    return torch.where(finite & maps.isfinite(), maps, torch.nan)


def _predicted(classes: Tensor, confidence: Tensor) -> Tensor:
    """Returns the predicted classes; -1 where the output is NaN, whose largest value is not a prediction."""
    return torch.where(confidence.isnan(), -1, classes)


def _likeliest(shares: Tensor) -> tuple[Tensor, Tensor]:
    """Returns the most likely classes and their probabilities ``[N, k]``; ties keep the class order (unlike `topk`)."""
    if shares.device.type == "cpu" and shares.shape[1] > _LIKELIEST:
        # A full sort of thousands of classes takes twenty times as long.
        values, indices = shares.topk(_LIKELIEST + 1)
        if bool((values.diff(dim=1) < 0).all()):
            return indices[:, :_LIKELIEST], values[:, :_LIKELIEST]
    values, indices = shares.sort(dim=1, descending=True, stable=True)
    return indices[:, :_LIKELIEST], values[:, :_LIKELIEST]
