"""Draws probes from a data set by index, without iterating a dataloader."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import default_collate

from lightning_gradcam.capture.tensors import entries_of
from lightning_gradcam.errors import LightningGradCAMError, ProbeError
from lightning_gradcam.guard.data import isolated
from lightning_gradcam.probes.batches import Apart, differ_in_size, is_listed, origins
from lightning_gradcam.probes.display import choose, displayed, find_normalization, normalization
from lightning_gradcam.probes.entries import entry_of, label_of, split_batch
from lightning_gradcam.probes.labels import chosen_names, class_in, may_be_renumbered, read_labels, rival
from lightning_gradcam.probes.options import DEFAULT_PROBES, ProbeOptions
from lightning_gradcam.probes.paths import Key, tensors_in
from lightning_gradcam.probes.probe_set import ProbeSet
from lightning_gradcam.probes.samplers import UnindexedError, balanced, balanced_of, check_indices, looked_up
from lightning_gradcam.probes.wrapped import (
    counted_from_one,
    find_class_names,
    find_labels,
    find_masks,
    has_indices,
    named_differently,
    nested_datasets,
    noting_reads,
)


@dataclass(frozen=True)
class Drawn:
    """Probes, and the collated batch that contains them, for a data module's transfer hooks.

    Attributes:
        probes: The probes.
        batch: The collated batch.
        transferred: Whether the transfer hooks have been applied to it.
        remark: A note for the user on why the batch's labels or the data set's class names are not used, or on
            other entries that could be labels; ``None`` if there is nothing to say.
        rebuilt: Whether the batch was rebuilt from archived probes; the other entries of the original batch are
            unknown.
        from_one: The data set's largest label if its labels begin at 1; see
            :func:`~lightning_gradcam.probes.wrapped.counted_from_one`.
    """

    probes: ProbeSet
    batch: Any
    transferred: bool = False
    remark: str | None = None
    rebuilt: bool = False
    from_one: int | None = None

    def form(self, input_key: Key | None) -> str:
        """Returns how the batch stores its images: one of ``FORMS``, or ``""`` if they are one tensor.

        Args:
            input_key: Location of the images in the batch.
        """
        if isinstance(self.batch, Apart):
            return "apart"
        entry = entry_of(self.batch, input_key)
        return "" if not is_listed(entry, self.batch) else "tuple" if isinstance(entry, tuple) else "list"


def draw_probes(
    dataset: Any,
    num_probes: int | None = None,
    *,
    indices: Sequence[int] | None = None,
    collate_fn: Callable[[list[Any]], Any] | None = None,
    **options: Any,
) -> Drawn:
    """Draws a fixed probe set; see :func:`draw`.

    Args:
        dataset: A map-style data set of tuples, dicts or tensors.
        num_probes: Number of probes to draw; default: 8, or all samples if there are fewer.
        indices: Use these samples, in this order, instead of drawing.
        collate_fn: Function from samples to a batch; default: torch's own.
        **options: The fields of :class:`~lightning_gradcam.probes.options.ProbeOptions`.
    """
    return draw(dataset, ProbeOptions(num_probes=num_probes, **options), indices=indices, collate_fn=collate_fn)


def draw(
    dataset: Any,
    options: ProbeOptions,
    *,
    indices: Sequence[int] | None = None,
    among: Sequence[int] | None = None,
    collate_fn: Callable[[list[Any]], Any] | None = None,
) -> Drawn:
    """Draws a fixed probe set reproducibly, without changing the state of any random number generator.

    Labels, class names, the transform, ``probe_mask(index)`` and ``probe_note`` are looked up on the data set and on
    the data sets inside ``Subset``, ``random_split``, ``ConcatDataset`` and wrappers with a ``dataset`` attribute.

    Args:
        dataset: A map-style data set of tuples, dicts or tensors.
        options: The user's choice.
        indices: Use these samples, in this order, instead of drawing.
        among: Draw only from these samples; default: all.
        collate_fn: Function from samples to a batch; default: torch's own.

    Returns:
        The probes (sorted by class if labels exist) and their batch.

    Raises:
        ProbeError: ``num_probes`` is below 1 or above the number of samples, the data set has no indices, or a batch
            has no tensor at the input's position.
        UnindexedError: The data set can't be read by index in this process, or its samples can't be collated.
    """
    if not has_indices(dataset):
        raise UnindexedError(
            f"probes: {type(dataset).__name__} can't be indexed, so no probes can be drawn from it; pass "
            "probes=ProbeSet(...), a saved probe set, or a folder of images"
        )
    with isolated(dataset, collate_fn):
        if indices is None:
            indices = _chosen(dataset, options, range(len(dataset)) if among is None else among)
        else:
            check_indices(indices, len(dataset))
        indices = [int(index) for index in indices]
        samples, read = [], dict[int, list[int]]()
        for index in indices:
            with noting_reads(dataset, index) as read[index]:
                samples.append(_sample(dataset, index))
        batch = _collated(samples, collate_fn or default_collate, options)
        if not isinstance(batch, Apart):
            indices = _collated_order(indices, samples, batch, options)
        masks, why = find_masks(dataset, indices, read)
    drawn = drawn_from(dataset, batch, options, indices=indices, masks=masks)
    return replace(drawn, remark="; ".join(filter(None, [drawn.remark, why])) or None)


def drawn_from(
    dataset: Any,
    batch: Any,
    options: ProbeOptions,
    *,
    indices: Sequence[int] | None = None,
    masks: Tensor | None = None,
) -> Drawn:
    """Creates probes from a batch, with the data set's class names, normalisation and note.

    Args:
        dataset: The batch's data set.
        batch: The collated batch.
        options: How to read the batch.
        indices: The indices of its samples in the data set.
        masks: Pixels of the images that show the class, bool ``[N, H, W]``.

    Raises:
        ProbeError: The batch has no tensor at the input's position.
        UnindexedError: Its number of samples differs from the number of indices.
    """
    inputs, found = split_batch(batch, options.input_key, options.label_key)
    if indices is not None and len(inputs) != len(indices):
        raise UnindexedError(f"probes: collate_fn returned {len(inputs)} samples for {len(indices)} indices")
    own = find_class_names(dataset, options.label_key)
    names = own if options.class_names is None else tuple(options.class_names)
    labels = read_labels(found, len(inputs), names)
    if labels.classes is None and own is not None:
        labels = read_labels(found, len(inputs), own)
    names, why = chosen_names(options.class_names, own, labels.classes)
    if own is not None and options.class_names is None:
        other = named_differently(dataset, options.label_key)
        other = other or _renumbered(dataset, options, indices, labels.classes, len(own))
        if other is not None:
            names = None
            why = f"class_names: the data set's {len(own)} names are not used, because {other}; pass class_names="
    owners = [*nested_datasets(dataset)]
    transforms = [getattr(owner, name, None) for owner in owners for name in ("transform", "transforms")]
    normalized = choose([*map(find_normalization, transforms)], normalization(options.mean, options.std))
    display, how = displayed(inputs.detach().cpu(), normalized)
    probes = ProbeSet(
        inputs.clone(),
        ids=() if indices is None else tuple(map(str, indices)),
        labels=labels.classes,
        masks=masks,
        class_names=names,
        display=display,
        display_source=how,
        indices=None if indices is None else tuple(indices),
        note=str(next((owner.probe_note for owner in owners if hasattr(owner, "probe_note")), "")),
        values=labels.numbers,
        normalized=normalized,
    )
    other = rival(batch, labels.classes, len(inputs), indices or ()) if options.label_key is None else None
    from_one = counted_from_one(dataset, options.label_key, indices, labels.classes)
    remark = "; ".join(filter(None, [labels.remark, why, other])) or None
    return Drawn(probes, batch, remark=remark, from_one=from_one)


def _renumbered(
    dataset: Any, options: ProbeOptions, indices: Sequence[int] | None, labels: Tensor | None, names: int
) -> str | None:
    """Returns how samples' classes differ from those that their data set lists by their place among its names."""
    if indices is None or labels is None or labels.dim() != 1:
        return None
    listed = find_labels(dataset, options.label_key)
    # Numbers from 1 to the number of names, for instance, do not refer to the names.
    if listed is None or not 0 <= listed.min() <= listed.max() < names:
        return None
    for index, label in zip(indices, labels.tolist(), strict=True):
        if label != listed[index]:
            return (
                f"sample {index} has the label {label}, but the data set lists {listed[index]} for it (did a "
                "target_transform or a wrapper renumber the labels?)"
            )
    return None


def _chosen(dataset: Any, options: ProbeOptions, among: Sequence[int]) -> list[int]:
    """Returns the drawn indices."""
    total, wanted = len(among), options.num_probes
    if not total:
        raise UnindexedError(f"probes: {type(dataset).__name__} has no samples to draw from; pass probes=ProbeSet(...)")
    count = min(DEFAULT_PROBES, total) if wanted is None else min(wanted, total) if options.fewer else wanted
    if not 1 <= count <= total:
        got = DEFAULT_PROBES if wanted is None else wanted
        raise ProbeError(f"num_probes: got {got}; the data set has {total} samples, so pass 1 to {total}")
    places = torch.randperm(total, generator=torch.Generator().manual_seed(options.seed), device="cpu").numpy()
    order = places if among == range(total) else np.asarray(among)[places]
    if (labels := find_labels(dataset, options.label_key)) is not None:
        return balanced(labels, order, count)
    names = find_class_names(dataset, options.label_key) if options.class_names is None else options.class_names
    classes = None if names is None else len(names)
    found = looked_up(lambda index: _label(_sample(dataset, index), options.label_key), order, count, classes)
    return sorted(order[:count].tolist()) if found is None else balanced_of(found, count)


def _label(sample: Any, label_key: Key | None) -> Hashable | None:
    # If only the collate function understands a sample, missing labels are detected on the batch.
    known = isinstance(sample, (Mapping, list, tuple)) or entries_of(sample) is not None
    try:
        return class_in(label_of(sample, label_key, required=False)) if known else None
    except ProbeError:  # the user's function may only accept batches
        return None


def _sample(dataset: Any, index: int) -> Any:
    try:
        return dataset[index]
    except Exception as error:  # any error from a data set with different keys, or one that only workers can read
        raise UnindexedError(
            f"probes: {type(dataset).__name__} can't be indexed by {index} here"
            f" ({type(error).__name__}: {error!s:.100})"
        ) from error


def _collated(samples: list[Any], collate_fn: Callable[[list[Any]], Any], options: ProbeOptions) -> Any:
    try:
        batch = collate_fn(samples)
        entry = entry_of(batch, options.input_key) if options.apart else None
        if not (is_listed(entry, batch) and differ_in_size(entry)):
            return batch
    except LightningGradCAMError:
        raise
    except Exception as error:
        # A training batch of one sample does not reveal that sizes differ.
        tensors = [next((tensor for _, tensor in tensors_in(sample)), None) for sample in samples]
        shapes = list(dict.fromkeys(str(list(tensor.shape)) for tensor in tensors if tensor is not None))
        if not options.apart or not differ_in_size(tensors):
            sizes = "" if len(shapes) < 2 else f"have different sizes, {' and '.join(shapes[:2])}, and "
            advice = "" if len(shapes) < 2 else "; resize or pad them to one size in the transform or in collate_fn"
            raise UnindexedError(
                f"probes: the samples drawn {sizes}don't fit into one batch"
                f" ({type(error).__name__}: {error!s:.100}){advice}"
            ) from error
    try:
        return Apart(tuple(collate_fn([sample]) for sample in samples))
    except Exception as error:
        raise UnindexedError(
            f"probes: the samples drawn can't be put into batches of one ({type(error).__name__}: {error!s:.100})"
        ) from error


def _collated_order(indices: list[int], samples: list[Any], batch: Any, options: ProbeOptions) -> list[int]:
    """Returns the indices in the order in which ``collate_fn`` arranges their samples."""
    pictures, found = split_batch(batch, options.input_key, options.label_key)
    if len(pictures) != len(samples) or pictures.dim() < 2:
        return indices  # inputs that are rejected as probes
    places = origins(samples, pictures)
    if len(set(places)) < len(places):
        raise UnindexedError("probes: collate_fn replaces samples with others")
    own = [_label(samples[place], options.label_key) for place in places]
    if not may_be_renumbered(own, read_labels(found, len(places)).classes):
        raise UnindexedError("probes: collate_fn changes the images and rearranges the samples")
    return [indices[place] for place in places]
