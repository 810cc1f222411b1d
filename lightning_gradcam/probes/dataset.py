"""Drawing probes from a data set by index, without iterating anyone's dataloader."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import ConcatDataset, IterableDataset, Subset, TensorDataset, default_collate

from lightning_gradcam.errors import ProbeError, did_you_mean
from lightning_gradcam.guard import isolated
from lightning_gradcam.probes.display import Normalization, choose, find_normalization, normalization, to_pixels
from lightning_gradcam.probes.probe_set import ProbeSet

Key = str | int
_INPUT_KEYS = ("image", "images", "pixel_values", "input", "inputs", "x", "img", "data")
_LABEL_KEYS = ("label", "labels", "target", "targets", "y", "class", "fine_label")
# Where nothing tells the labels without decoding, so many samples a probe are decoded to balance the classes.
_POOL = 8


@dataclass(frozen=True)
class Drawn:
    """Probes, and the collated batch they stand in, for the transfer hooks of a data module."""

    probes: ProbeSet
    batch: Any


def draw_probes(
    dataset: Any,
    num_probes: int = 8,
    *,
    seed: int = 0,
    indices: Sequence[int] | None = None,
    input_key: Key | None = None,
    label_key: Key | None = None,
    mean: float | Sequence[float] | None = None,
    std: float | Sequence[float] | None = None,
    collate_fn: Callable[[list[Any]], Any] | None = None,
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
        input_key: Where a sample's picture is: a key of a dict, a place in a tuple. Default: the first of a tuple,
            or the usual names (``image``, ``pixel_values``, ``x``, …).
        label_key: Likewise for the true class; default: the second of a tuple, or the usual names.
        mean: The normalisation to undo for display, where the data set's transform does not show one.
        std: Its deviation.
        collate_fn: From samples to a batch; torch's default where not given.

    Returns:
        The probes (sorted by class where labels exist) and their batch.

    Raises:
        ProbeError: ``num_probes`` is below 1 or above the data set's length, the data set has no indices, or a
            batch has no tensor where the input is expected.
    """
    if isinstance(dataset, IterableDataset) or not hasattr(dataset, "__len__") or not hasattr(dataset, "__getitem__"):
        raise ProbeError(
            f"probes: {type(dataset).__name__} has no indices to draw from; give probes=ProbeSet(...), a saved probe"
            " set, or a folder of pictures"
        )
    with isolated(dataset, collate_fn):
        if indices is None:
            indices = _draw(dataset, num_probes, seed, label_key)
        else:
            _check_indices(indices, len(dataset))
        indices = [int(index) for index in indices]
        batch = (collate_fn or default_collate)([dataset[index] for index in indices])
        masks = _masks(dataset, indices)
    inputs, labels = split_batch(batch, input_key, label_key)
    if labels is not None and not _are_classes(labels):
        labels = None
    display, how = to_pixels(inputs.detach().cpu(), shown_normalization(dataset, mean, std))
    names = find_class_names(dataset)
    return Drawn(
        ProbeSet(
            inputs.clone(),
            ids=tuple(map(str, indices)),
            labels=labels,
            masks=masks,
            class_names=names,
            display=display,
            display_source=how,
            indices=tuple(indices),
            note=str(next((owner.probe_note for owner in inside(dataset) if hasattr(owner, "probe_note")), "")),
        ),
        batch,
    )


def _are_classes(labels: Tensor) -> bool:
    """Whether labels are a class a sample, or 0 and 1 for each of several classes."""
    if labels.dim() == 1:
        return not labels.is_floating_point()
    return labels.dim() == 2 and labels.shape[1] > 1 and bool(((labels == 0) | (labels == 1)).all())


def split_batch(batch: Any, input_key: Key | None, label_key: Key | None) -> tuple[Tensor, Tensor | None]:
    """Takes inputs and labels out of a collated batch: a tensor, a tuple or a dict.

    Raises:
        ProbeError: A key is not there, or the input is not a tensor; the message lists what is.
    """
    inputs = input_of(batch, input_key)
    if isinstance(batch, Tensor):
        return inputs, None
    labels = _item(batch, label_key, _LABEL_KEYS, 1, "label_key", required=label_key is not None)
    return inputs, labels if isinstance(labels, Tensor) else None


def input_of(batch: Any, input_key: Key | None) -> Tensor:
    """Takes the model's input out of a batch.

    Raises:
        ProbeError: The key is not there, or what stands there is not a tensor.
    """
    inputs = batch if isinstance(batch, Tensor) else _item(batch, input_key, _INPUT_KEYS, 0, "input_key", required=True)
    if not isinstance(inputs, Tensor):
        raise ProbeError(
            f"input_key: {input_key!r} selects a {type(inputs).__name__} from the batch, expected a tensor [N, …]; name"
            " the entry that holds the pictures"
        )
    return inputs


def shown_normalization(
    dataset: Any, mean: float | Sequence[float] | None, std: float | Sequence[float] | None
) -> Normalization | None:
    """Returns what to undo for display: a ``Normalize`` in the data set's transform, else the user's numbers."""
    transforms = [getattr(owner, name, None) for owner in inside(dataset) for name in ("transform", "transforms")]
    return choose([find_normalization(transform) for transform in transforms], normalization(mean, std))


def find_class_names(dataset: Any) -> tuple[str, ...] | None:
    """Returns the names that the data set (or one inside it) gives its classes, as ``classes`` or ``class_names``."""
    for owner in inside(dataset):
        for name in ("classes", "class_names"):
            value = getattr(owner, name, None)
            if isinstance(value, (list, tuple)) and value and all(isinstance(entry, str) for entry in value):
                return tuple(value)
    return None


def find_labels(dataset: Any) -> npt.NDArray[np.int64] | None:
    """Returns the true class of every sample without decoding any, or ``None`` where nothing tells them."""
    if isinstance(dataset, Subset):
        inner = find_labels(dataset.dataset)
        return None if inner is None else inner[np.asarray(dataset.indices, dtype=np.int64)]
    if isinstance(dataset, ConcatDataset):
        parts = [find_labels(part) for part in dataset.datasets]
        return np.concatenate([p for p in parts if p is not None]) if all(p is not None for p in parts) else None
    candidates = [getattr(dataset, name, None) for name in ("targets", "labels", "_labels")]
    samples = getattr(dataset, "samples", None)
    if isinstance(samples, list) and samples and isinstance(samples[0], tuple) and len(samples[0]) == 2:
        candidates.append([label for _, label in samples])
    if isinstance(dataset, TensorDataset) and len(dataset.tensors) > 1:
        candidates.append(dataset.tensors[1])
    for candidate in candidates:
        labels = _integers(candidate)
        if labels is not None and len(labels) == len(dataset):
            return labels
    wrapped = _wrapped(dataset)
    return find_labels(wrapped) if wrapped is not None and len(wrapped) == len(dataset) else None


def inside(dataset: Any) -> Iterator[Any]:
    """Yields the data set and those it wraps, from the outside in."""
    yield dataset
    if isinstance(dataset, ConcatDataset):
        for part in dataset.datasets:
            yield from inside(part)
    elif (wrapped := _wrapped(dataset)) is not None:
        yield from inside(wrapped)


def _wrapped(dataset: Any) -> Any:
    for name in ("dataset", "subset"):
        value = getattr(dataset, name, None)
        if hasattr(value, "__getitem__") and hasattr(value, "__len__") and not isinstance(value, (str, list, dict)):
            return value
    return None


def _integers(candidate: Any) -> npt.NDArray[np.int64] | None:
    if not isinstance(candidate, (Tensor, np.ndarray, list, tuple)):
        return None
    try:
        values = np.asarray(candidate)
    except (ValueError, TypeError, RuntimeError):
        return None  # ragged lists of annotations are not class labels
    return values.astype(np.int64) if values.ndim == 1 and values.dtype.kind in "iu" else None


def _check_indices(indices: Sequence[int], total: int) -> None:
    wrong = [int(index) for index in indices if not 0 <= index < total]
    if wrong or len(indices) == 0:
        came = f"index {wrong[0]}" if wrong else "no index"
        raise ProbeError(f"indices: got {came}; the data set has {total} samples, give some of 0 to {total - 1}")


def _draw(dataset: Any, num_probes: int, seed: int, label_key: Key | None) -> list[int]:
    total = len(dataset)
    if not 1 <= num_probes <= total:
        raise ProbeError(f"num_probes: got {num_probes}; the data set has {total} samples, so give 1 to {total}")
    order = torch.randperm(total, generator=torch.Generator().manual_seed(seed)).tolist()
    labels = find_labels(dataset)
    if labels is None:
        order = order[: _POOL * num_probes]
        decoded = [_label(dataset[index], label_key) for index in order]
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
    known = isinstance(sample, (Mapping, list, tuple))
    label = _item(sample, label_key, _LABEL_KEYS, 1, "label_key", required=False) if known else None
    value = np.asarray(label) if isinstance(label, (int, Tensor, np.ndarray, np.generic)) else None
    return int(value.item()) if value is not None and value.size == 1 and value.dtype.kind in "iu" else None


def _item(batch: Any, key: Key | None, usual: tuple[str, ...], place: int, argument: str, *, required: bool) -> Any:
    if isinstance(batch, Mapping):
        names = [key] if key is not None else [name for name in usual if name in batch]
        if names and names[0] in batch:
            return batch[names[0]]
        came, choices = key, [str(name) for name in batch]
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
    located = [_locate(dataset, index) for index in indices]
    if not all(hasattr(base, "probe_mask") for base, _ in located):
        return None
    return torch.stack([torch.as_tensor(base.probe_mask(index)).bool() for base, index in located])


def _locate(dataset: Any, index: int) -> tuple[Any, int]:
    """Follows one index through the wrappers to the data set that holds the sample."""
    if isinstance(dataset, Subset):
        return _locate(dataset.dataset, int(dataset.indices[index]))
    if isinstance(dataset, ConcatDataset):
        part = int(np.searchsorted(dataset.cumulative_sizes, index, side="right"))
        return _locate(dataset.datasets[part], index - (dataset.cumulative_sizes[part - 1] if part else 0))
    wrapped = _wrapped(dataset)
    if wrapped is not None and len(wrapped) == len(dataset) and not hasattr(dataset, "probe_mask"):
        return _locate(wrapped, index)
    return dataset, index
