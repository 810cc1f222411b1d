"""Interprets a data set's labels: classes, several classes per sample, or other numbers."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lightning_gradcam.errors import did_you_mean
from lightning_gradcam.probes.paths import named_in

# Common names of labels in a sample or a batch.
LABEL_KEYS = ("label", "labels", "target", "targets", "y", "class", "fine_label")


@dataclass(frozen=True, eq=False)
class Labels:
    """Labels in the form stored with probes.

    Attributes:
        classes: int64 ``[N]``, or 0/1 for each class ``[N, C]``; ``None`` if the labels are not classes.
        numbers: Numbers that are not classes, float32 ``[N]`` or ``[N, K]``; ``None`` if there are none.
        remark: A note for the user if there are neither classes nor numbers.
    """

    classes: Tensor | None = None
    numbers: Tensor | None = None
    remark: str | None = None


def chosen_names(
    given: Sequence[str] | None, found: Sequence[str] | None, classes: Tensor | None
) -> tuple[tuple[str, ...] | None, str | None]:
    """Chooses between the user's class names and those found with the data.

    Args:
        given: The user's; they take precedence unless there are too few for the labels.
        found: The data set's or the probes' own.
        classes: True classes, as in :class:`Labels`.

    Returns:
        The names, and a note for the user if the given ones are not used.

    Example:
        >>> chosen_names(["cat", "dog"], ["ant", "bee", "cow"], torch.tensor([0, 2]))[0]
        ('ant', 'bee', 'cow')
    """
    own = None if found is None else tuple(map(str, found))
    if given is None:
        return own, None
    names = tuple(map(str, given))
    if own is None or classes is None:
        return names, None
    least = classes.shape[1] if classes.dim() > 1 else int(classes.max()) + 1
    if len(names) >= least:
        return names, None
    return own, (
        f"class_names: got {len(names)} names, but the samples' labels need at least {least}; the {len(own)} names "
        "found with the data are used"
    )


def read_labels(found: Any, samples: int, names: Sequence[str] | None = None, *, whole: bool = False) -> Labels:
    """Reads the labels of a batch.

    Args:
        found: A tensor, array or list: integers, booleans or the floats 0 and 1, ``[N]`` or with axes of length 1
            (``[N, 1]``); 0/1 for each class ``[N, C]``; class names; other numbers ``[N]`` or ``[N, K]``, which are
            never rounded.
        samples: ``N``.
        names: Class names by index.
        whole: Also accept other floats without a fractional part as classes, not only 0 and 1.

    Example:
        >>> read_labels(torch.tensor([[1.0], [0.0]]), 2).classes, read_labels(["dog", "ant"], 2, ["ant", "dog"]).classes
        (tensor([1, 0]), tensor([1, 0]))
        >>> read_labels(torch.tensor([0.7, 1.0]), 2).numbers
        tensor([0.7000, 1.0000])
    """
    if found is None:
        return Labels()
    texts = _texts(found)
    if texts is not None:
        return _named(texts, samples, names)
    values = _numbers(found)
    if values is None:
        return Labels(remark=f"labels: got a {type(found).__name__}, not one class for each sample; {_NAME_THEM}")
    if not values.dim() or len(values) != samples:
        came = list(values.shape)
        return Labels(remark=f"labels: got {came} for {samples} samples, not one class for each; {_NAME_THEM}")
    values = values.reshape(samples, *[size for size in values.shape[1:] if size != 1])
    if values.dim() > 2:
        why = f"labels: got shape {list(values.shape)}, not one class for each sample; sheets show no true classes"
        return Labels(remark=f"{why} (label_key= selects a different entry of the batch)")
    fraction = values.is_floating_point() and not (whole and bool((values == values.round()).all()))
    if (values.dim() == 1 and not fraction) or bool(((values == 0) | (values == 1)).all()):
        return Labels(classes=values.long())
    return Labels(numbers=values.float())


def rival(batch: Any, classes: Tensor | None, samples: int, indices: Sequence[int]) -> str | None:
    """Returns a note for the user if another entry of a batch could be the true classes as well.

    Args:
        batch: As collated: in a tuple, the second entry's classes are used; in a dict, those with a common name.
        classes: The classes that are used, as in :class:`Labels`.
        samples: The number of samples.
        indices: Their indices in the data set, which some data sets return, too.

    Example:
        >>> labels, domains = torch.tensor([0, 1, 0]), torch.tensor([2, 0, 1])
        >>> rival((torch.rand(3, 1, 8, 8), labels, domains), labels, 3, indices=[])[-41:]
        ' if they are in entry 2, pass label_key=2'
        >>> rival({"image": torch.rand(3, 1, 8, 8), "kind": labels}, None, 3, indices=[])[-21:]
        "pass label_key='kind'"
    """
    named = named_in(batch)
    usual: list[Any] = [name for name in LABEL_KEYS if named is not None and name in named]
    if not usual and isinstance(batch, (list, tuple)) and classes is not None:
        named, usual = dict(enumerate(batch)), [*range(1, len(batch))]
    if named is None or (classes is not None and classes.dim() != 1):
        return None
    others = usual[1:] if usual else [name for name in named if isinstance(name, str)]
    found = {name: numbers for name in others if (numbers := _candidate(named[name], samples)) is not None}
    if usual:
        known = ([] if classes is None else classes.tolist(), [*indices])
        first, other = usual[0], next((name for name, numbers in found.items() if numbers not in known), None)
        if other is None:
            return None
        return (
            f"labels: they are read from entry {first!r} of a batch (label_key={first!r}); if they are in entry"
            f" {other!r}, pass label_key={other!r}"
        )
    # Constants describe the data set, and numbers that rise from sample to sample are indices.
    likely = [repr(name) for name, numbers in found.items() if numbers != sorted({*numbers}) and len({*numbers}) > 1]
    if not likely:
        return None
    return (
        f"labels: no entry of a batch is named {', '.join(LABEL_KEYS)}; if {' or '.join(likely[:3])} is the true class,"
        f" pass label_key={likely[0]}"
    )


def mark_of_none(labels: Tensor | None, classes: int) -> int | None:
    """Returns the number that marks samples without a class: the only one that is not a class itself, such as 255.

    Losses skip such samples (``ignore_index``).

    Args:
        labels: True classes, as in :class:`Labels`.
        classes: The number of the model's classes.

    Returns:
        The number; ``None`` if all labels are classes, if several are not, or if classes may be counted from 1.

    Example:
        >>> mark_of_none(torch.tensor([3, 255, 0]), 4), mark_of_none(torch.tensor([3, 4, 1]), 4)
        (255, None)
    """
    if labels is None or labels.dim() != 1:
        return None
    others = set(labels[labels >= classes].tolist())
    if len(others) != 1 or (others == {classes} and not bool((labels == 0).any())):
        return None
    return int(others.pop())


def class_in(label: Any) -> Hashable | None:
    """Returns the class in one sample's label, for a balanced draw.

    Returns:
        A class index, a class name, or the indices of all classes marked in a multi-class label; ``None`` if the label
        has no class.

    Example:
        >>> class_in(torch.tensor([1.0])), class_in("dog"), class_in([0, 0, 1]), class_in([1, 0, 1]), class_in(0.7)
        (1, 'dog', 2, (0, 2), None)
    """
    if isinstance(label, str):
        return str(label)
    values = _numbers(label)
    if values is None or (values.dim() > 1 and values.numel() != max(values.shape)):
        return None
    flat = values.flatten()
    marks = bool(((flat == 0) | (flat == 1)).all())
    if len(flat) == 1:
        return int(flat.item()) if marks or not flat.is_floating_point() else None
    if not marks or not len(flat):
        return None
    marked = tuple(int(index) for index in flat.nonzero()[:, 0])
    return marked[0] if len(marked) == 1 else marked


def may_be_renumbered(own: Sequence[Hashable | None], classes: Tensor | None) -> bool:
    """Whether a batch's classes may be those of the same samples in the same order, each class with its own number.

    Args:
        own: The samples' own classes, as :func:`class_in` returns them.
        classes: The batch's classes, as in :class:`Labels`.

    Example:
        >>> may_be_renumbered([0, 1, 0], torch.tensor([5, 4, 5])), may_be_renumbered([0, 1, 0], torch.tensor([0, 0, 1]))
        (True, False)
    """
    if classes is None or classes.dim() != 1 or None in own:
        return True
    numbers = dict(zip(own, classes.tolist(), strict=True))
    return [numbers[each] for each in own] == classes.tolist()


_NAME_THEM = "select the labels with label_key=, or pass probes=ProbeSet(inputs, labels=…)"


def _texts(found: Any) -> list[str] | None:
    if isinstance(found, np.ndarray) and found.dtype.kind in "UO":
        found = found.ravel().tolist()
    texts = isinstance(found, (list, tuple)) and found and all(isinstance(entry, str) for entry in found)
    return list(map(str, found)) if texts else None


def _named(texts: Sequence[str], samples: int, names: Sequence[str] | None) -> Labels:
    if len(texts) != samples:
        return Labels(remark=f"labels: got {len(texts)} strings for {samples} samples; {_NAME_THEM}")
    if names is None:
        return Labels(
            remark=f"labels: the text {texts[0]!r:.60} is the name of a class, but no names are known; pass"
            " class_names=, in the order of the model's outputs"
        )
    unknown = next((text for text in texts if text not in names), None)
    if unknown is not None:
        return Labels(
            remark=f"labels: {unknown!r:.60} is not among the class names{did_you_mean(unknown, list(names), limit=5)};"
            " pass class_names=, in the order of the model's outputs"
        )
    return Labels(classes=torch.tensor([list(names).index(text) for text in texts], device="cpu"))


def _candidate(entry: Any, samples: int) -> list[int] | None:
    """Returns an entry's numbers if they may be classes: larger ones identify something, such as a patient."""
    try:
        values = None if isinstance(entry, Tensor) and entry.dtype == torch.bool else _numbers(entry)
        if values is None or values.is_floating_point() or values.shape != (samples,):
            return None
        numbers: list[int] = values.tolist()
    except (RuntimeError, NotImplementedError):  # sparse, nested, quantised and meta tensors
        return None
    return numbers if 0 <= min(numbers) <= max(numbers) < 1000 else None


def _numbers(found: Any) -> Tensor | None:
    if isinstance(found, Tensor):
        plain = found.detach().cpu()
        return None if found.is_complex() else plain if found.is_floating_point() else plain.long()
    if isinstance(found, (list, tuple)):
        entries = [entry for entry in map(_numbers, found) if entry is not None]
        fits = entries and len(entries) == len(found) and len({(entry.shape, entry.dtype) for entry in entries}) == 1
        return torch.stack(entries) if fits else None
    if not isinstance(found, (bool, int, float, np.generic, np.ndarray)):
        return None
    values = np.asarray(found)
    kind = values.dtype.kind
    return torch.from_numpy(values.astype(np.int64 if kind in "biu" else np.float64)) if kind in "biuf" else None
