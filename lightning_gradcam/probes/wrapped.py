"""Looking through wrappers (subsets, concatenations) for what a data set tells of its samples."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import Tensor
from torch.utils.data import ConcatDataset, IterableDataset, Subset, TensorDataset


def has_indices(dataset: Any) -> bool:
    """Whether samples can be had by number."""
    stream = isinstance(dataset, IterableDataset)
    return not stream and hasattr(dataset, "__len__") and hasattr(dataset, "__getitem__")


def find_class_names(dataset: Any) -> tuple[str, ...] | None:
    """Returns the names that the data set (or one inside it) gives its classes, as ``classes`` or ``class_names``."""
    for owner in nested_datasets(dataset):
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


def _integers(candidate: Any) -> npt.NDArray[np.int64] | None:
    if not isinstance(candidate, (Tensor, np.ndarray, list, tuple)):
        return None
    try:
        values = np.asarray(candidate)
    except (ValueError, TypeError, RuntimeError):
        return None  # ragged lists of annotations are not class labels
    return values.astype(np.int64) if values.ndim == 1 and values.dtype.kind in "iu" else None


def locate(dataset: Any, index: int) -> tuple[Any, int]:
    """Follows one index through the wrappers to the data set that holds the sample."""
    if isinstance(dataset, Subset):
        return locate(dataset.dataset, int(dataset.indices[index]))
    if isinstance(dataset, ConcatDataset):
        part = int(np.searchsorted(dataset.cumulative_sizes, index, side="right"))
        return locate(dataset.datasets[part], index - (dataset.cumulative_sizes[part - 1] if part else 0))
    wrapped = _wrapped(dataset)
    if wrapped is not None and len(wrapped) == len(dataset) and not hasattr(dataset, "probe_mask"):
        return locate(wrapped, index)
    return dataset, index
