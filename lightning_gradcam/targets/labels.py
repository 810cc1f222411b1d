"""What labels reveal about a model's output: several classes per sample, numbers, or impossible classes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from lightning_gradcam.errors import TargetError
from lightning_gradcam.probes.class_names import named_classes


class LabelError(TargetError):
    """A label is not one of the model's classes.

    Attributes:
        classes: The number of the model's classes.
    """

    def __init__(self, text: str, classes: int = 0) -> None:
        super().__init__(text)
        self.classes = classes


def check_names(names: Any) -> Any:
    """Returns the class names, resolving a string; rejects a dict, whose values would be ignored.

    Args:
        names: The user's ``class_names=``: a list, or a string such as ``"imagenet"`` or a file's path
            (:func:`~lightning_gradcam.probes.class_names.names_of`).

    Raises:
        TargetError: ``names`` is a dict, or a string that does not refer to any names.
    """
    if not isinstance(names, (bytes, Mapping)):
        return named_classes(names)
    how = "[names[index] for index in sorted(names)]" if isinstance(names, Mapping) else "['cat', 'dog']"
    raise TargetError(
        f"class_names: got a {type(names).__name__}; pass a list of names, in the order of the outputs: {how}"
    )


def are_multi_hot(labels: Tensor) -> bool:
    """Whether labels are rows of 0/1, ``[N, C]``, and any row marks no class or several.

    Rows that each contain a single 1 may simply be one-hot labels with one class per sample.
    """
    if labels.dim() != 2 or labels.shape[1] < 2 or not len(labels):
        return False
    marks = labels.double()
    return bool(((marks == 0) | (marks == 1)).all()) and bool((marks.sum(dim=1) != 1).any())


def no_class_in(output: Any, labels: Tensor | None) -> float | None:
    """Returns a label which shows that an output contains numbers rather than classes; ``None`` if none does.

    Args:
        output: The model's output. A single number per sample may be a logit, with the classes 0 and 1.
        labels: True classes or numbers.
    """
    if labels is None or not isinstance(output, Tensor) or output.dim() not in (1, 2):
        return None
    if labels.shape[:1] != output.shape[:1]:
        return None
    numbers = labels.flatten().double()
    numbers = numbers[~numbers.isnan()]
    if output.shape[1:] in ((), (1,)) and labels.shape[1:] in ((), (1,)):
        wrong = numbers[(numbers != 0) & (numbers != 1)]
        # Beside both classes, one whole number below 0 marks samples without one; -1 and 1 may be the two classes.
        mark = not labels.is_floating_point() and len(set(wrong.tolist())) == 1 and bool((wrong < 0).all())
        if mark and {0, 1} <= set(numbers.tolist()):
            return None
    else:
        # Rows of proportions, as for mixed images, are class labels. Rows of integers count as mistaken class labels.
        rows = labels.shape == output.shape and bool((numbers != numbers.round()).any())
        wrong = numbers[(numbers < 0) | (numbers > 1)] if rows else numbers[:0]
    return wrong[0].item() if len(wrong) else None


def number_of_classes(output: Any, labels: Tensor | None) -> int | None:
    """Returns the number of a model's classes; ``None`` for an output without classes.

    Args:
        output: The model's output.
        labels: True classes or numbers.
    """
    if not isinstance(output, Tensor) or not output.dim() or no_class_in(output, labels) is not None:
        return None
    return 2 if output.dim() == 1 else max(output.shape[1], 2)


def check_classes(output: Any, labels: Tensor | None, names: int | None) -> None:
    """Rejects names and labels that do not match the model's number of classes.

    Args:
        output: The model's class scores: ``[N]``, or ``[N, C, …]``; all other outputs are ignored.
        labels: True classes ``[N]``, or 0/1 for each class ``[N, C]``; labels of other shapes are ignored.
        names: Number of class names given by the user; ``None`` if there are none.

    Raises:
        TargetError: The number of names differs from the number of classes.
        LabelError: A label is not one of the classes, or there are more or fewer marks than classes.
    """
    classes = number_of_classes(output, labels)
    if classes is None:
        return
    if names is not None and names != classes:
        raise TargetError(
            f"class_names: got {names} name{'s' if names != 1 else ''}, but the model's output has {classes} classes; "
            f"pass {classes} names, in the order of the outputs, or select the output that these names belong to with "
            "output_key="
        )
    if labels is None or output.dim() > 2:
        return
    if labels.shape[1:] not in ((), (1,)):
        marks = labels.dim() == 2 and bool(((labels == 0) | (labels == 1)).all())
        if marks and labels.shape[1] != classes:
            raise LabelError(
                f"labels: got {labels.shape[1]} numbers for each sample, but the model's output has {classes} classes; "
                f"pass one class for each sample, or 0 or 1 for each of the {classes} classes; select the labels for "
                "this output (in a callback: label_key=), or the output for these labels (output_key=)",
                classes,
            )
        return
    flat = labels.flatten()
    # Negative values mark samples without a label.
    if len(wrong := flat[flat >= classes]):
        raise LabelError(
            f"labels: got class {wrong[0].item():g}, but the model's output has {classes} classes; valid: 0 to "
            f"{classes - 1}; select the labels for this output (in a callback: label_key=), or the output for these "
            "labels (output_key=); for an embedding, pass targets={'similar_to': 0}",
            classes,
        )
