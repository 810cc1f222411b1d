"""Chooses a run's probes: those given, those from the resumed checkpoint, or newly drawn ones."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lightning_gradcam.capture.layout import ends_in_channels
from lightning_gradcam.errors import LightningGradCAMError, ProbeError
from lightning_gradcam.guard.data import isolated
from lightning_gradcam.probes.dataset import Drawn, draw
from lightning_gradcam.probes.folder import Preparation, read_folder
from lightning_gradcam.probes.labels import chosen_names
from lightning_gradcam.probes.options import ProbeOptions
from lightning_gradcam.probes.paths import Key, any_picture, nested
from lightning_gradcam.probes.probe_set import ProbeSet
from lightning_gradcam.probes.samplers import sampled
from lightning_gradcam.probes.streaming import Passing
from lightning_gradcam.probes.wrapped import find_class_names, find_transform, has_indices

_ONE_SIZE = "images of several sizes are archived at one size, so their maps can't be compared with earlier ones"


def obtain_probes(
    options: ProbeOptions,
    find_loader: Callable[[], Any],
    *,
    resumed: Mapping[str, Any],
    archived: Callable[[str], ProbeSet] = ProbeSet.load,
    redraw: bool = True,
    passing: Passing | None = None,
    batches: int | None = None,
) -> tuple[Drawn, str | None]:
    """Returns the run's probes and the batch that contains them.

    Args:
        options: The user's choice.
        find_loader: Returns the dataloader (``dataset``, ``collate_fn``) to draw from; called only if needed.
        resumed: The checkpoint's state (``indices``, ``fingerprint``, ``archive``); empty without a checkpoint.
        archived: Reads the probes from the archive in a folder; not called without a checkpoint.
        redraw: Whether the resumed run's indices belong to the loader's data set. ``False``: use the archived inputs
            unchanged.
        passing: Samples collected from passing batches, for data that can't be indexed.
        batches: Number of the loader's first batches to draw from; ``None``: all.

    Returns:
        The probes with their batch, and a note for the user if they are not the expected ones.

    Raises:
        ProbeError: The probes can't be drawn.
        UnindexedError: The probes can only be collected from passing batches.
        ProbeFileError: A saved probe set can't be read.
    """
    remark = None
    # Autograd would permanently reject tensors created under Lightning's inference mode.
    with torch.inference_mode(False):
        if options.given is not None:
            drawn = _given(options, find_loader)
            if resumed and resumed["fingerprint"] != drawn.probes.fingerprint:
                remark = "the given probes differ from the checkpoint's, so its earlier maps can't be compared"
        elif passing is not None:
            drawn, remark = _passed(options, find_loader, passing)
        elif resumed.get("transferred"):
            drawn = replace(_recalled(options, resumed, archived), transferred=True)
        elif resumed:
            drawn, remark = _drawn_again(options, find_loader, resumed, archived, redraw=redraw, batches=batches)
        else:
            drawn, remark = _fresh(options, find_loader(), batches)
    names, why = chosen_names(options.class_names, drawn.probes.class_names, drawn.probes.labels)
    if names != drawn.probes.class_names:
        drawn = replace(drawn, probes=replace(drawn.probes, class_names=names))
    if why is not None and why not in (drawn.remark or ""):
        remark = "; ".join(filter(None, [remark, why]))
    return drawn, remark


def _given(options: ProbeOptions, find_loader: Callable[[], Any]) -> Drawn:
    if isinstance(options.given, ProbeSet):
        return _batched(options.given, options)
    assert options.given is not None
    path = Path(options.given)
    if not path.is_dir():
        return _batched(ProbeSet.load(path), options)
    # The images need the model's preprocessing, which is in the validation data set's transform.
    loader = _found(find_loader)
    dataset = getattr(loader, "dataset", None)
    transform = find_transform(dataset)
    if transform is None and options.mean is not None:
        raise ProbeError(
            "mean, std: these undo a normalisation for display, but the validation data set has no transform= that"
            f" applies it to the images in {str(path)!r}; pass probes=ProbeSet.from_folder({str(path)!r}, mean=...,"
            " std=..., size=...), which applies it, or a file written by `lightning-gradcam probes draw --folder`"
        )
    grey = transform is not None and has_indices(dataset) and _draw(options, loader, [0]).probes.inputs.shape[1] == 1
    how = Preparation(transform, None, options.mean, options.std, "L" if grey else "RGB")
    with isolated(dataset, transform):
        probes = read_folder(path, replace(how, class_names=options.class_names or find_class_names(dataset)))
    return _batched(probes if transform is not None else _as_samples(probes, options, loader), options)


def _as_samples(probes: ProbeSet, options: ProbeOptions, loader: Any) -> ProbeSet:
    """Converts images scaled to 0…1 to the form of a data set's samples: integers, or channels last."""
    try:
        sample = _draw(options, loader, [0]).probes.inputs
    except Exception:  # there is no data set, or it can't be indexed and raises any error
        return probes
    inputs = probes.inputs
    if sample.dtype == torch.uint8:
        inputs = (inputs * 255).round().to(torch.uint8)
    return replace(probes, inputs=inputs.movedim(1, -1) if ends_in_channels(sample.shape) else inputs)


def _passed(options: ProbeOptions, find_loader: Callable[[], Any], passing: Passing) -> tuple[Drawn, str | None]:
    # Loaders from other libraries have no data set.
    drawn, few = passing.drawn(getattr(_found(find_loader), "dataset", None)), None
    if not passing.complete and options.num_probes is not None and not options.fewer:
        few = (
            f"num_probes: got {options.num_probes}, but the loader yielded only {len(passing)} samples; all of them "
            "are used"
        )
    return drawn, few


def _found(find_loader: Callable[[], Any]) -> Any:
    try:
        return find_loader()
    except ProbeError:
        return None


def _drawn_again(
    options: ProbeOptions,
    find_loader: Callable[[], Any],
    resumed: Mapping[str, Any],
    archived: Callable[[str], ProbeSet],
    *,
    redraw: bool,
    batches: int | None,
) -> tuple[Drawn, str | None]:
    if not redraw:
        try:
            drawn = _recalled(options, resumed, archived)
            return drawn, f"the checkpoint's {_ONE_SIZE}" if resumed.get("form") == "apart" else None
        except LightningGradCAMError:
            changed = "the checkpoint's indices belong to a different data set"
    elif resumed["indices"] is None:
        changed = "the checkpoint's probes were given, not drawn"
    else:
        try:
            drawn = _draw(options, find_loader(), resumed["indices"])
            if drawn.probes.fingerprint == resumed["fingerprint"]:
                return drawn, None
            changed = "the data set has different inputs at the checkpoint's indices"
        except Exception as error:  # a data set whose files have changed may raise anything
            changed = f"the checkpoint's probes can't be drawn again ({type(error).__name__}: {error})"
    try:
        used = f"; their {_ONE_SIZE}" if resumed.get("form") == "apart" else ""
        return _recalled(options, resumed, archived), f"{changed}; the archived inputs are used{used}"
    except LightningGradCAMError as error:
        fresh, few = _fresh(options, find_loader(), batches)
        why = (
            f"{changed}, and the checkpoint's archive can't be read ({error}); new probes are drawn, so maps can't be "
            "compared"
        )
        return fresh, f"{why}; {few}" if few else why


def _fresh(options: ProbeOptions, loader: Any, batches: int | None) -> tuple[Drawn, str | None]:
    among = sampled(loader, seed=options.seed, batches=batches)
    # Requesting more samples than the data set contains is an error. A sampler that omits samples may be unexpected, so
    # that is only a note.
    few = options.num_probes is not None and len(among) < options.num_probes <= len(loader.dataset)
    drawn = _draw(replace(options, num_probes=len(among)) if few else options, loader, None, among)
    remark = f"num_probes: got {options.num_probes}, but the loader has only {len(among)} samples; all of them are used"
    return drawn, remark if few else None


def _draw(
    options: ProbeOptions, loader: Any, indices: Sequence[int] | None, among: Sequence[int] | None = None
) -> Drawn:
    collate_fn = getattr(loader, "collate_fn", None)
    return draw(loader.dataset, options, indices=indices, among=among, collate_fn=collate_fn)


def _recalled(options: ProbeOptions, resumed: Mapping[str, Any], archived: Callable[[str], ProbeSet]) -> Drawn:
    """Returns the probes from the resumed run's archive, in the form that its model accepted."""
    return replace(_batched(archived(resumed["archive"]), options, resumed.get("form", "")), rebuilt=True)


def _batched(probes: ProbeSet, options: ProbeOptions, form: str = "") -> Drawn:
    labels = probes.values if probes.labels is None else probes.labels
    pictures = probes.inputs.unbind()
    inputs = list(pictures) if form == "list" else pictures if form == "tuple" else probes.inputs
    return Drawn(probes, rebuilt_batch(inputs, labels, options.input_key, options.label_key))


def rebuilt_batch(inputs: Any, labels: Tensor | None, input_key: Key | None, label_key: Key | None) -> Any:
    """Returns a batch in the form that a module's transfer hooks expect, for probes that no data set provided."""
    if callable(input_key) and input_key is not any_picture:
        # The original batch structure is unknown, so pass the plain tensor.
        return inputs
    if isinstance(label_key, str) and label_key.isdecimal():
        label_key = int(label_key)
    if isinstance(input_key, Sequence):
        batch = nested(input_key, inputs)
        if isinstance(batch, list):
            at = label_key if isinstance(label_key, int) else 1
            batch += [None] * (at + 1 - len(batch))
            batch[at] = labels if batch[at] is None else batch[at]
            return batch
        return batch if labels is None else {**batch, "label" if label_key is None else str(label_key): labels}
    place = input_key if isinstance(input_key, int) else 0
    places = {place: inputs}
    if labels is not None:
        places[label_key if isinstance(label_key, int) else (1 if place != 1 else 0)] = labels
    return [places.get(number) for number in range(max(places) + 1)]
