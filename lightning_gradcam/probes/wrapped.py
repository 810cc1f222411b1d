"""Finds a data set's labels, class names and transforms inside wrappers (subsets, concatenations)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import ConcatDataset, IterableDataset, Subset, TensorDataset

from lightning_gradcam.probes.batches import one_size
from lightning_gradcam.probes.labels import LABEL_KEYS, read_labels


def has_indices(dataset: Any) -> bool:
    """Whether samples can be read by index."""
    stream = isinstance(dataset, IterableDataset)
    return not stream and hasattr(dataset, "__len__") and hasattr(dataset, "__getitem__")


def find_class_names(dataset: Any, label_key: Any = None) -> tuple[str, ...] | None:
    """Returns the class names of the data set, or of one inside it; ``None`` if unknown.

    They are read from ``classes`` or ``class_names``, or from the ``ClassLabel`` in a Hugging Face data set's
    ``features``.

    Args:
        dataset: The data set.
        label_key: The name of the feature, if it is not a common label name.
    """
    for owner in nested_datasets(dataset):
        for name in ("classes", "class_names"):
            value = getattr(owner, name, None)
            if isinstance(value, (list, tuple)) and value and all(isinstance(entry, str) for entry in value):
                return tuple(value)
        if (feature := _label_feature(owner, label_key)) is not None:
            return tuple(map(str, feature[1]))
    return None


def named_differently(dataset: Any, label_key: Any = None) -> str | None:
    """Returns why the names found apply only to some samples: a concatenation of data sets with other names."""
    for owner in nested_datasets(dataset):
        if isinstance(owner, ConcatDataset):
            lists = {find_class_names(part, label_key) for part in owner.datasets} - {None}
            if len(lists) > 1:
                return "the data sets in the ConcatDataset have different names"
    return None


def find_transform(dataset: Any) -> Any:
    """Returns the transform of the data set, or of one inside it; ``None`` if none has a callable ``transform``."""
    found = (getattr(owner, "transform", None) for owner in nested_datasets(dataset))
    return next((transform for transform in found if callable(transform)), None)


def find_labels(dataset: Any, label_key: Any = None) -> npt.NDArray[np.int64] | None:
    """Returns the true classes of all samples without decoding any, or ``None`` if they are unknown.

    Args:
        dataset: The data set.
        label_key: Location of the label in a sample; only used for columns of Hugging Face data sets.
    """
    if isinstance(dataset, Subset):
        inner = find_labels(dataset.dataset, label_key)
        return None if inner is None else inner[np.asarray(dataset.indices, dtype=np.int64)]
    if isinstance(dataset, ConcatDataset):
        parts = [find_labels(part, label_key) for part in dataset.datasets]
        return np.concatenate([p for p in parts if p is not None]) if all(p is not None for p in parts) else None
    candidates = [getattr(dataset, name, None) for name in ("targets", "labels", "_labels")]
    samples = getattr(dataset, "samples", None)
    if isinstance(samples, list) and samples and isinstance(samples[0], tuple) and len(samples[0]) == 2:
        candidates.append([label for _, label in samples])
    if isinstance(dataset, TensorDataset) and len(dataset.tensors) > 1:
        candidates.append(dataset.tensors[1])
    if (feature := _label_feature(dataset, label_key)) is not None:
        candidates.append(_column(dataset, feature[0]))
    for candidate in candidates:
        labels = _integers(candidate)
        if labels is not None and len(labels) == len(dataset):
            return labels
    wrapped = _wrapped(dataset)
    return find_labels(wrapped, label_key) if wrapped is not None and len(wrapped) == len(dataset) else None


def counted_from_one(dataset: Any, label_key: Any, indices: Sequence[int] | None, labels: Tensor | None) -> int | None:
    """Returns a data set's largest label if its labels begin at 1 or above; ``None`` if they do not, or are not listed.

    Args:
        dataset: The data set.
        label_key: As for :func:`find_labels`.
        indices: The indices of some samples.
        labels: Their true classes, ``[N]``; if they differ from those that the data set lists, the list says nothing.

    Example:
        >>> data = TensorDataset(torch.zeros(4, 1), torch.tensor([1, 2, 3, 3]))
        >>> counted_from_one(data, None, [1], torch.tensor([2])), counted_from_one(data, None, [1], torch.tensor([1]))
        (3, None)
    """
    if indices is None or labels is None or labels.dim() != 1 or bool((labels == 0).any()):
        return None
    listed = find_labels(dataset, label_key)
    if listed is None or listed[list(indices)].tolist() != labels.tolist():
        return None
    known = listed[listed >= 0]
    return int(known.max()) if len(known) and known.min() > 0 else None


def nested_datasets(dataset: Any) -> Iterator[Any]:
    """Yields the data set and those it wraps, from the outside in."""
    yield dataset
    if isinstance(dataset, ConcatDataset):
        for part in dataset.datasets:
            yield from nested_datasets(part)
    elif (wrapped := _wrapped(dataset)) is not None:
        yield from nested_datasets(wrapped)


def _wrapped(dataset: Any) -> Any:
    for name in ("dataset", "subset"):
        value = getattr(dataset, name, None)
        if hasattr(value, "__getitem__") and hasattr(value, "__len__") and not isinstance(value, (str, list, dict)):
            return value
    return None


def _label_feature(dataset: Any, label_key: Any) -> tuple[str, list[str]] | None:
    """Returns the name of a Hugging Face data set's label column, and its class names."""
    features = getattr(dataset, "features", None)
    if not isinstance(features, Mapping):
        return None
    for name in LABEL_KEYS if label_key is None else (label_key,):
        feature = features.get(name) if isinstance(name, str) else None
        # For several labels per sample, the feature is inside a sequence.
        names = getattr(getattr(feature, "feature", feature), "names", None)
        if isinstance(names, list) and names:
            return str(name), names
    return None


def _column(dataset: Any, name: str) -> Any:
    """Returns a column of a Hugging Face data set, without its other columns or its transform."""
    try:
        return dataset.with_format("numpy").select_columns([name])[:][name]
    except Exception:  # other libraries' data sets may also have `features`
        return None


def _integers(candidate: Any) -> npt.NDArray[np.int64] | None:
    if not isinstance(candidate, (Tensor, np.ndarray, list, tuple)) and not hasattr(candidate, "to_numpy"):
        return None
    try:
        values = np.asarray(candidate)
    except (ValueError, TypeError, RuntimeError):
        return None  # ragged lists of annotations are not class labels
    if values.ndim == 1 and values.dtype.kind in "biu":
        return values.astype(np.int64, copy=False)  # there may be millions of labels
    classes = read_labels(values, len(values)).classes if values.ndim and len(values) else None
    if classes is not None and classes.dim() == 2:
        classes = classes.argmax(1) if bool((classes.sum(1) == 1).all()) else None
    return None if classes is None else classes.numpy()


def locate(dataset: Any, index: int) -> tuple[Any, int]:
    """Resolves an index through the wrappers to the data set that contains the sample."""
    if isinstance(dataset, Subset):
        return locate(dataset.dataset, int(dataset.indices[index]))
    if isinstance(dataset, ConcatDataset):
        part = int(np.searchsorted(dataset.cumulative_sizes, index, side="right"))
        return locate(dataset.datasets[part], index - (dataset.cumulative_sizes[part - 1] if part else 0))
    wrapped = _wrapped(dataset)
    if wrapped is not None and len(wrapped) == len(dataset) and not hasattr(dataset, "probe_mask"):
        return locate(wrapped, index)
    return dataset, index


def find_masks(
    dataset: Any, indices: Sequence[int], read: Mapping[int, Sequence[int]]
) -> tuple[Tensor | None, str | None]:
    """Returns the masks of samples, bool ``[N, H, W]``, from the ``probe_mask(index)`` of the data sets they are in.

    Args:
        dataset: The data set.
        indices: The indices of the samples.
        read: What :func:`noting_reads` noted for each of them.

    Returns:
        The masks, ``None`` if any sample has none; and a note for the user if a wrapper moved the samples, so that the
        masks would be those of other samples.
    """
    located = [locate(dataset, index) for index in indices]
    if not all(hasattr(base, "probe_mask") for base, _ in located):
        return None, None
    for index, (base, place) in zip(indices, located, strict=True):
        if read[index] and place not in read[index]:
            return None, (
                f"probe_mask: the masks of {type(base).__name__} are not used, because sample {index} of the wrapper "
                f"{type(dataset).__name__} is sample {read[index][0]} of {type(base).__name__}; define "
                "probe_mask(index) on the wrapper"
            )
    masks = [torch.as_tensor(base.probe_mask(index), device="cpu").bool()[None] for base, index in located]
    return one_size(masks, "nearest"), None


@contextmanager
def noting_reads(dataset: Any, index: int) -> Iterator[list[int]]:
    """Yields a list of the samples read from the data set inside wrappers that is assumed to contain a sample.

    The list stays empty if that data set has no ``probe_mask``, or if its samples are read other than by indexing it.

    Args:
        dataset: The data set.
        index: The sample's index.
    """
    read = list[int]()
    try:
        base = locate(dataset, index)[0]
    except Exception:  # reading the sample raises it again
        base = dataset
    kind: Any = type(base)
    if base is dataset or not hasattr(base, "probe_mask"):
        yield read
        return
    own, whole = vars(kind).get("__getitem__"), kind.__getitem__

    def noted(self: Any, place: Any) -> Any:
        if self is base and isinstance(place, (int, np.integer)):
            read.append(int(place))
        return whole(self, place)

    try:
        kind.__getitem__ = noted
    except (AttributeError, TypeError):  # a class that can't be changed
        yield read
        return
    try:
        yield read
    finally:
        if own is None:
            del kind.__getitem__
        else:
            kind.__getitem__ = own
