"""Parses the user's target specifications."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lightning_gradcam.errors import TargetError, did_you_mean
from lightning_gradcam.targets.base import Given, Scored, Selector, TargetCallable
from lightning_gradcam.targets.classes import Called, Class, ClassName, Contrast, Output, Rank, SimilarTo
from lightning_gradcam.targets.detection import Detect
from lightning_gradcam.targets.segmentation import Segment


@dataclass(frozen=True)
class PerProbe:
    """One class for each probe: ``{"per_probe": [index, …]}``.

    Attributes:
        classes: The indices, in the order of the probes.
    """

    classes: Sequence[int]


@dataclass(frozen=True)
class Top:
    """Each sample's k most likely classes, as the targets ``top1`` to ``topk``: ``{"top": k}``.

    Attributes:
        count: Number of classes, ``k``.
    """

    count: int


TargetObject = ClassName | PerProbe | Top | Contrast | Output | Segment | Detect | SimilarTo
_OF_ONE_VALUE = {ClassName: "class", PerProbe: "per_probe", Top: "top", Output: "output", SimilarTo: "similar_to"}
TargetSpec = str | int | Mapping[str, Any] | TargetObject | TargetCallable
_CHOICES = (
    "'predicted', 'label', a class index, {'class': name}, {'per_probe': [index, …]}, {'top': k},"
    " {'contrast': [class, class]}, {'output': index}, {'segment': class}, {'segment_mask': class}, {'detect': class},"
    " {'similar_to': probe}, a callable, or a list of these"
)


@dataclass(frozen=True)
class Target:
    """One target: its name in keys, columns and files, and the score it selects.

    Attributes:
        name: ``"predicted"``, ``"label"``, the class index as a string (``"3"``; also for a class given by name),
            ``"per_probe"``, ``"top1"``, ``"3_vs_5"``, ``"segment3"``, …, or the callable's own name.
        select: Chooses the score.
    """

    name: str
    select: Selector

    def explain(self, output: Any, given: Given) -> Scored:
        """Computes the scores to explain.

        Args:
            output: The model's output, of the kind that the target requires.
            given: Labels, masks and the kind of score.

        Returns:
            The scores with their classes, and a function that scores another output with the same choices.

        Raises:
            TargetError: The output has the wrong shape, labels or masks are missing, an index is out of range, or a
                callable returns the wrong shape.
        """
        return self.select.explain(output, given, self.name)


def resolve_targets(
    targets: TargetSpec | Sequence[TargetSpec], class_names: Sequence[str] | None = None
) -> tuple[Target, ...]:
    """Parses the user's targets.

    Args:
        targets: One of these, or a list:

            - ``"predicted"``: each sample's most likely class; ``"label"``: its true class (if several, the sum);
            - a class index; if class names are known, a class name spelled exactly as in the data set, or
              ``{"class": name}``, which also works for a class named ``label`` or ``predicted``;
              ``{"class": [name, …]}``: several classes, one target each;
            - ``{"per_probe": [index, …]}``: one class for each sample;
            - ``{"top": k}``: each sample's k most likely classes, as ``top1`` to ``topk``;
            - ``{"contrast": [a, b]}``: the score of a minus the score of b, each an index, ``"predicted"`` or
              ``"label"``;
            - ``{"output": k}``: the number at index k of the output, unchanged (regression);
            - ``{"segment": c}``: the scores of class c, summed where c is predicted (``"predicted"``: the class with
              the largest area); ``{"segment_mask": c}``: the same, summed over the probes' masks;
            - ``{"detect": c}``: the score of the best detection of class c (``"predicted"``: of any class);
              ``{"detect": c, "boxes": [[x1, y1, x2, y2], …]}``: the score of the detection that matches the given box,
              one box for each sample;
            - ``{"similar_to": i}``: the cosine similarity between the embedding and that of probe i;
            - a callable that maps the model's output to scores ``[N]``.

            Each dict form has an equivalent Python object: :class:`~lightning_gradcam.ClassName`,
            :class:`~lightning_gradcam.PerProbe`, :class:`~lightning_gradcam.Top`, :class:`~lightning_gradcam.Contrast`,
            :class:`~lightning_gradcam.Output`, :class:`~lightning_gradcam.Segment`, :class:`~lightning_gradcam.Detect`,
            :class:`~lightning_gradcam.SimilarTo`.
        class_names: Class names by index. If they are not known yet, ``{"class": name}`` is accepted unchecked but
            can't be explained.

    Returns:
        The targets in the order requested, with unique names. The target for a class given by name is named by the
        class index.

    Raises:
        TargetError: An entry is invalid, two targets have the same name, or a class name is unknown or ambiguous.

    Example:
        >>> [target.name for target in resolve_targets(["predicted", 3])]
        ['predicted', '3']
        >>> [target.name for target in resolve_targets(["hat", "cat"], class_names=["cat", "dog", "hat"])]
        ['2', '0']
        >>> from lightning_gradcam import Top
        >>> [target.name for target in resolve_targets([Top(2), Contrast("predicted", "label")])]
        ['top1', 'top2', 'predicted_vs_label']
    """
    listed = isinstance(targets, Sequence) and not isinstance(targets, str)
    specs = list(targets) if listed else [targets]  # type: ignore[arg-type]
    if not specs:
        raise TargetError(f"targets: got an empty list; pass {_CHOICES}")
    resolved = tuple(target for spec in specs for target in _resolve(spec, class_names))
    names = [target.name for target in resolved]
    for name in names:
        if names.count(name) > 1:
            raise TargetError(
                f"targets: {name!r} is listed {names.count(name)} times; list each target once (a callable is named by "
                "its __name__: define it with def, or set one for a functools.partial: part.__name__ = 'mine')"
            )
    return resolved


def _resolve(given: Any, class_names: Sequence[str] | None) -> list[Target]:
    spec = plain_numbers(given) if getattr(given, "ndim", None) == 0 else written(given)
    if isinstance(spec, str) and spec in ("predicted", "label"):
        return [Target(spec, Class(spec))]
    if isinstance(spec, str) and class_names is not None:
        return [_named(spec, class_names, also=("predicted", "label"))]
    if isinstance(spec, int) and not isinstance(spec, bool):
        if spec < 0:
            raise TargetError(f"targets: got class index {spec}; indices start at 0")
        return [Target(str(spec), Class(spec))]
    if isinstance(spec, Mapping) and (found := _resolve_kind(dict(spec), class_names)):
        return found
    if callable(spec):
        # A functools.partial is named after its function unless it has its own name.
        name = getattr(spec, "__name__", None) or getattr(getattr(spec, "func", None), "__name__", None)
        return [Target(name or type(spec).__name__, Called(spec))]
    by_name = (
        (f"; to explain a class of that name, pass {{'class': {spec!r}}} and class_names=")
        if isinstance(spec, str)
        else ""
    )
    raise TargetError(f"targets: got {spec!r}; pass {_CHOICES}{by_name}")


def _named(name: str | int, class_names: Sequence[str] | None, also: Sequence[str] = ()) -> Target:
    if isinstance(name, int):
        return Target(str(name), Class(name))
    if class_names is None:
        return Target(name, ClassName(name))
    places = [place for place, other in enumerate(class_names) if other == name]
    if not places:
        raise TargetError(f"targets: class {name!r} not found{did_you_mean(name, [*also, *class_names])}")
    if len(places) > 1:
        listed = ", ".join(map(str, places))
        raise TargetError(f"targets: {len(places)} classes are named {name!r}; pass the index of one: {listed}")
    return Target(str(places[0]), Class(places[0]))


def _resolve_kind(spec: dict[str, Any], class_names: Sequence[str] | None) -> list[Target]:
    spec = {kind: plain_numbers(value) for kind, value in spec.items()}
    if "detect" in spec and set(spec) <= {"detect", "boxes"}:
        # Accept keys in any order: a saved configuration may have sorted them.
        return _resolve_detection(spec["detect"], spec.get("boxes"))
    if len(spec) != 1:
        return []
    kind, value = next(iter(spec.items()))
    listed = list(value) if isinstance(value, Sequence) and not isinstance(value, str) else []
    if kind == "class" and (names := listed or [value]) and all(isinstance(n, str) or _is_index(n) for n in names):
        return [_named(name, class_names) for name in names]
    if kind == "per_probe" and listed and all(map(_is_index, listed)):
        return [Target("per_probe", Class(tuple(listed)))]
    if kind == "top" and _is_index(value) and value >= 1:
        return [Target(f"top{place + 1}", Class(Rank(place))) for place in range(value)]
    if kind == "contrast" and len(listed) == 2 and all(_is_index(v) or v in ("predicted", "label") for v in listed):
        return [Target(f"{listed[0]}_vs_{listed[1]}", Contrast(*listed))]
    if kind in ("output", "similar_to") and _is_index(value):
        return [Target(f"{kind}{value}", Output(value) if kind == "output" else SimilarTo(value))]
    if kind in ("segment", "segment_mask") and (_is_index(value) or value == "predicted"):
        shown = value if _is_index(value) else "_predicted"
        return [Target(f"{kind}{shown}", Segment(value, masked=kind == "segment_mask"))]
    return []


def _resolve_detection(category: Any, boxes: Any) -> list[Target]:
    if not (_is_index(category) or category == "predicted"):
        return []
    shown = category if _is_index(category) else "_predicted"
    if boxes is None:
        return [Target(f"detect{shown}", Detect(category))]
    listed = boxes if isinstance(boxes, Sequence) and not isinstance(boxes, str) else []
    given = tuple(tuple(map(float, box)) for box in listed if isinstance(box, Sequence) and len(box) == 4)
    if not given or len(given) != len(listed) or any(x1 >= x2 or y1 >= y2 for x1, y1, x2, y2 in given):
        raise TargetError(
            f"targets: got boxes {boxes!r}; pass one [x1, y1, x2, y2] for each probe, in pixels: x1 < x2 and y1 < y2"
        )
    return [Target(f"detect{shown}_boxes", Detect(category, given))]


def _is_index(value: Any) -> bool:
    return type(value) is int and value >= 0


def written(target: Any) -> Any:
    """Converts a target object to its equivalent dict for YAML; returns anything else unchanged.

    Example:
        >>> written(Contrast("predicted", 3))
        {'contrast': ['predicted', 3]}
    """
    match target:
        case Contrast(first, second):
            return {"contrast": [first, second]}
        case Segment(category, masked):
            return {"segment_mask" if masked else "segment": category}
        case Detect(category, boxes):
            return {"detect": category} if boxes is None else {"detect": category, "boxes": plain_numbers(boxes)}
    if (kind := _OF_ONE_VALUE.get(type(target))) is None:
        return target
    (value,) = vars(target).values()
    return {kind: plain_numbers(value)}


def plain_numbers(value: Any) -> Any:
    """Converts numbers, arrays and tensors from other libraries to plain Python numbers and lists."""
    if hasattr(value, "tolist"):
        return value.tolist()
    return [plain_numbers(entry) for entry in value] if isinstance(value, (list, tuple)) else value
