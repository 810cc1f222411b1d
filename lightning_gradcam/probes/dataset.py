"""Drawing probes from a data set by index, without iterating anyone's dataloader."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import default_collate

from lightning_gradcam.capture.structure import entries_of
from lightning_gradcam.errors import LightningGradCAMError, ProbeError, did_you_mean
from lightning_gradcam.guard.data import isolated
from lightning_gradcam.probes.display import Normalization, choose, displayed, find_normalization, normalization
from lightning_gradcam.probes.listed import Apart, one_size, stacked
from lightning_gradcam.probes.paths import MISSING, follow, no_tensor, tensors_in
from lightning_gradcam.probes.probe_set import ProbeSet
from lightning_gradcam.probes.samplers import UnindexedError
from lightning_gradcam.probes.wrapped import find_class_names, find_labels, has_indices, locate, nested_datasets

Key = str | int
_INPUT_KEYS = ("image", "images", "pixel_values", "input", "inputs", "x", "img", "data")
_LABEL_KEYS = ("label", "labels", "target", "targets", "y", "class", "fine_label")
# Where nothing tells the labels without decoding, so many samples a probe are decoded to balance the classes.
_POOL = 8


@dataclass(frozen=True)
class Drawn:
    """Probes, and the collated batch they stand in, for the transfer hooks of a data module.

    Attributes:
        probes: The probes.
        batch: As collated.
        transferred: The transfer hooks have been applied to it.
    """

    probes: ProbeSet
    batch: Any
    transferred: bool = False


def draw_probes(
    dataset: Any,
    num_probes: int = 8,
    *,
    seed: int = 0,
    indices: Sequence[int] | None = None,
    among: Sequence[int] | None = None,
    input_key: Key | None = None,
    label_key: Key | None = None,
    mean: float | Sequence[float] | None = None,
    std: float | Sequence[float] | None = None,
    collate_fn: Callable[[list[Any]], Any] | None = None,
    apart: bool = False,
) -> Drawn:
    """Draws a fixed probe set, reproducibly, and leaves every random number generator as it was.

    Labels, class names, the transform, ``probe_mask(index)`` and ``probe_note`` are looked for on the data set and,
    through ``Subset``, ``random_split``, ``ConcatDataset`` and wrappers with a ``dataset`` attribute, on those
    inside.

    Args:
        dataset: A map-style data set of tuples, dicts or tensors.
        num_probes: How many to draw. Classes are balanced (their counts differ by one at most) where labels exist:
            on an attribute (``targets``, ``labels``, ``samples``), or among a bounded number of decoded samples.
        seed: Of the draw.
        indices: These samples, in this order, instead of a draw.
        among: Draw from these samples alone; default: from all.
        input_key: Where a sample's picture is: a key of a dict, a field, a place in a tuple, or a dotted path of these
            (``"views.left"``, ``"0.1"``). Default: the first of a tuple,
            or the usual names (``image``, ``pixel_values``, ``x``, …).
        label_key: Likewise for the true class; default: the second of a tuple, or the usual names.
        mean: The normalisation to undo for display, where the data set's transform does not show one.
        std: Its deviation.
        collate_fn: From samples to a batch; torch's default where not given.
        apart: Put pictures of several sizes into a batch each; the probes then show them resized to the first one's.

    Returns:
        The probes (sorted by class where labels exist) and their batch.

    Raises:
        ProbeError: ``num_probes`` is below 1 or above the number of samples, the data set has no indices, or a
            batch has no tensor where the input is expected.
        UnindexedError: The data set can't be read by index in this process, or its samples can't be put into a batch.
    """
    if not has_indices(dataset):
        raise UnindexedError(
            f"probes: {type(dataset).__name__} has no indices to draw from; give probes=ProbeSet(...), a saved probe"
            " set, or a folder of pictures"
        )
    with isolated(dataset, collate_fn):
        if indices is None:
            indices = _draw(dataset, num_probes, seed, label_key, range(len(dataset)) if among is None else among)
        else:
            _check_indices(indices, len(dataset))
        indices = [int(index) for index in indices]
        samples = [_sample(dataset, index) for index in indices]
        batch = _collated(samples, collate_fn or default_collate, input_key, apart=apart)
        masks = _masks(dataset, indices)
    return drawn_from(
        dataset,
        batch,
        indices=indices,
        masks=masks,
        input_key=input_key,
        label_key=label_key,
        mean=mean,
        std=std,
    )


def _sample(dataset: Any, index: int) -> Any:
    try:
        return dataset[index]
    except Exception as error:  # whatever a data set raises whose samples have other keys, or which only workers read
        raise UnindexedError(
            f"probes: {type(dataset).__name__} can't be indexed by {index} here"
            f" ({type(error).__name__}: {error!s:.100})"
        ) from error


def _collated(samples: list[Any], collate_fn: Callable[[list[Any]], Any], input_key: Key | None, *, apart: bool) -> Any:
    try:
        batch = collate_fn(samples)
        entry = entry_of(batch, input_key) if apart else None
        if not isinstance(entry, (tuple, list)) or not _differ_in_size(entry):
            return batch
    except LightningGradCAMError:
        raise
    except Exception as error:
        # A batch of one sample in training does not show that sizes differ.
        tensors = [next((tensor for _, tensor in tensors_in(sample)), None) for sample in samples]
        shapes = list(dict.fromkeys(str(list(tensor.shape)) for tensor in tensors if tensor is not None))
        if not apart or not _differ_in_size(tensors):
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


def _differ_in_size(entries: Sequence[Any]) -> bool:
    """Whether entries are pictures ``[C, H, W]`` of several sizes."""
    shapes = {tuple(each.shape) if isinstance(each, Tensor) else () for each in entries}
    return len(shapes) > 1 and len({shape[:1] for shape in shapes}) == 1 and all(len(shape) == 3 for shape in shapes)


def drawn_from(
    dataset: Any,
    batch: Any,
    *,
    indices: Sequence[int] | None,
    masks: Tensor | None = None,
    input_key: Key | None = None,
    label_key: Key | None = None,
    mean: float | Sequence[float] | None = None,
    std: float | Sequence[float] | None = None,
) -> Drawn:
    """Makes probes of a batch, with what the data set tells: class names, normalisation, a note.

    Args:
        dataset: Where the batch comes from.
        batch: As collated.
        indices: Where its samples stand in the data set.
        masks: Where their telling parts are.
        input_key: See :func:`draw_probes`, as all that follow.
        label_key: Likewise.
        mean: Likewise.
        std: Likewise.

    Raises:
        ProbeError: The batch has no tensor where the input is expected.
        UnindexedError: It has another number of samples than there are indices.
    """
    inputs, labels = split_batch(batch, input_key, label_key)
    if indices is not None and len(inputs) != len(indices):
        raise UnindexedError(f"probes: collate_fn makes {len(inputs)} samples of {len(indices)}")
    values = None
    if labels is not None and not _are_classes(labels):
        values, labels = (labels if _are_numbers(labels) else None), None
    normalized = shown_normalization(dataset, mean, std)
    display, how = displayed(inputs.detach().cpu(), normalized)
    note = next((owner.probe_note for owner in nested_datasets(dataset) if hasattr(owner, "probe_note")), "")
    return Drawn(
        ProbeSet(
            inputs.clone(),
            ids=() if indices is None else tuple(map(str, indices)),
            labels=labels,
            masks=masks,
            class_names=find_class_names(dataset),
            display=display,
            display_source=how,
            indices=None if indices is None else tuple(indices),
            note=str(note),
            values=values,
            normalized=normalized,
        ),
        batch,
    )


def _are_classes(labels: Tensor) -> bool:
    """Whether labels are a class a sample, or 0 and 1 for each of several classes."""
    if labels.dim() == 1:
        return not labels.is_floating_point()
    return labels.dim() == 2 and labels.shape[1] > 1 and bool(((labels == 0) | (labels == 1)).all())


def _are_numbers(labels: Tensor) -> bool:
    """Whether labels are those of a regression, or shares of classes: other numbers than 0 and 1."""
    fits = labels.is_floating_point() and labels.dim() in (1, 2)
    return fits and not bool(((labels == 0) | (labels == 1)).all())


def split_batch(batch: Any, input_key: Key | None, label_key: Key | None) -> tuple[Tensor, Tensor | None]:
    """Takes inputs and labels out of a collated batch: a tensor, a tuple or a dict.

    Raises:
        ProbeError: A key is not there, or the input is not a tensor; the message lists what is.
    """
    if isinstance(batch, Apart):
        found, given = zip(*(split_batch(each, input_key, label_key) for each in batch.batches), strict=True)
        known = all(label is not None and len(label) == 1 for label in given)
        return one_size(found), torch.cat(given) if known else None
    inputs = input_of(batch, input_key)
    if isinstance(batch, Tensor):
        return inputs, None
    labels = _item(batch, label_key, _LABEL_KEYS, 1, "label_key", required=label_key is not None)
    if isinstance(labels, (tuple, list)) and labels and all(isinstance(label, int) for label in labels):
        labels = torch.tensor(labels)
    return inputs, labels if isinstance(labels, Tensor) else None


def input_of(batch: Any, input_key: Key | None) -> Tensor:
    """Takes the model's input out of a batch.

    Raises:
        ProbeError: The key is not there, or what stands there is not a tensor.
    """
    inputs = entry_of(batch, input_key)
    if (listed := stacked(inputs)) is not None:
        return listed
    if not isinstance(inputs, Tensor):
        raise ProbeError(
            f"input_key: {input_key!r} selects a {type(inputs).__name__} from the batch, expected a tensor [N, …];"
            f" {no_tensor(inputs, batch)}"
        )
    return inputs


def entry_of(batch: Any, input_key: Key | None) -> Any:
    """Returns the entry of a batch that holds the model's input: a tensor, or pictures one by one in a tuple or list.

    Raises:
        ProbeError: The key is not there.
    """
    return batch if isinstance(batch, Tensor) else _item(batch, input_key, _INPUT_KEYS, 0, "input_key", required=True)


def shown_normalization(
    dataset: Any, mean: float | Sequence[float] | None, std: float | Sequence[float] | None
) -> Normalization | None:
    """Returns what to undo for display: a ``Normalize`` in the data set's transform, else the user's numbers."""
    transforms = [
        getattr(owner, name, None) for owner in nested_datasets(dataset) for name in ("transform", "transforms")
    ]
    return choose([find_normalization(transform) for transform in transforms], normalization(mean, std))


def _check_indices(indices: Sequence[int], total: int) -> None:
    wrong = [int(index) for index in indices if not 0 <= index < total]
    if wrong or len(indices) == 0:
        came = f"index {wrong[0]}" if wrong else "no index"
        raise ProbeError(f"indices: got {came}; the data set has {total} samples, give some of 0 to {total - 1}")


def _draw(dataset: Any, num_probes: int, seed: int, label_key: Key | None, among: Sequence[int]) -> list[int]:
    total = len(among)
    if not 1 <= num_probes <= total:
        raise ProbeError(f"num_probes: got {num_probes}; the data set has {total} samples, so give 1 to {total}")
    places = torch.randperm(total, generator=torch.Generator().manual_seed(seed)).tolist()
    order = places if among == range(total) else [among[place] for place in places]
    labels = find_labels(dataset)
    if labels is None:
        order = order[: _POOL * num_probes]
        decoded = [_label(_sample(dataset, index), label_key) for index in order]
        if any(label is None for label in decoded):
            return sorted(order[:num_probes])
        by_index = dict(zip(order, decoded, strict=True))
    else:
        by_index = {index: int(labels[index]) for index in order}
    chosen = _balanced(by_index, num_probes)
    return sorted(chosen, key=lambda index: (by_index[index] or 0, index))


def _balanced(by_index: Mapping[int, int | None], count: int) -> list[int]:
    """Takes samples class by class in turn; which classes come first follows the order of ``by_index``."""
    classes: dict[int | None, list[int]] = {}
    for index, label in by_index.items():
        classes.setdefault(label, []).append(index)
    chosen: list[int] = []
    depth = 0
    while len(chosen) < count:
        chosen += [members[depth] for members in classes.values() if depth < len(members)]
        depth += 1
    return chosen[:count]


def _label(sample: Any, label_key: Key | None) -> int | None:
    # Only a collate function may understand the sample; whether a label is missing is seen at the batch.
    known = isinstance(sample, (Mapping, list, tuple)) or entries_of(sample) is not None
    label = _item(sample, label_key, _LABEL_KEYS, 1, "label_key", required=False) if known else None
    value = np.asarray(label) if isinstance(label, (int, Tensor, np.ndarray, np.generic)) else None
    return int(value.item()) if value is not None and value.size == 1 and value.dtype.kind in "iu" else None


def _item(batch: Any, key: Key | None, usual: tuple[str, ...], place: int, argument: str, *, required: bool) -> Any:
    if isinstance(key, str) and (found := follow(batch, key)) is not MISSING:
        return found
    named: Any = batch if isinstance(batch, Mapping) else entries_of(batch)
    if named is not None and not isinstance(batch, tuple):
        # A command line reads the key "0" as a number.
        own = str(key) if isinstance(key, int) and key not in named else key
        names = [own] if own is not None else [name for name in usual if name in named]
        if names and names[0] in named:
            return named[names[0]]
        came, choices = key, [str(name) for name in named]
    elif isinstance(batch, (list, tuple)):
        position = place if key is None else key
        if isinstance(position, int) and -len(batch) <= position < len(batch):
            return batch[position]
        came, choices = position, [str(number) for number in range(len(batch))]
    else:
        raise ProbeError(f"probes: a batch is a {type(batch).__name__}, expected a tensor, a tuple or a dict")
    if not required:
        return None
    if came is None:
        raise ProbeError(f"{argument}: none of {', '.join(usual)} is in the batch; available: {', '.join(choices)}")
    raise ProbeError(f"{argument}: {str(came)!r} is not in the batch{did_you_mean(str(came), choices)}")


def _masks(dataset: Any, indices: Sequence[int]) -> Tensor | None:
    located = [locate(dataset, index) for index in indices]
    if not all(hasattr(base, "probe_mask") for base, _ in located):
        return None
    masks = [torch.as_tensor(base.probe_mask(index)).bool()[None] for base, index in located]
    return one_size(masks, "nearest")
