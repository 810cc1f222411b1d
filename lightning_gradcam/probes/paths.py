"""Paths to an entry of a batch (keys, indices, dotted paths), and their description in errors."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from torch import Tensor

from lightning_gradcam.capture.tensors import entries_of, refilled

MISSING = object()
Path = tuple[str | int, ...]
Key = str | int | Sequence[str | int] | Callable[[Any], Any]


def named_in(batch: Any) -> Any:
    """Returns the entries of a mapping, dataclass or named tuple by name; ``None`` for anything else."""
    return batch if isinstance(batch, Mapping) else entries_of(batch)


def entries_in(batch: Any) -> Any:
    """Returns the entries of a container by key, field or index; ``None`` for anything else."""
    named = named_in(batch)
    return dict(enumerate(batch)) if named is None and isinstance(batch, (list, tuple)) else named


def of_entries(function: Callable[..., Any], *batches: Any) -> Any:
    """Returns a container of the same kind, with a function applied to each entry.

    Args:
        function: Called with the entries of all batches at one position.
        batches: Containers of the same structure.

    Example:
        >>> of_entries(max, {"a": 1, "b": 4}, {"a": 2, "b": 3})
        {'a': 2, 'b': 4}
    """
    first, *others = map(entries_in, batches)
    made = {key: function(entry, *(other[key] for other in others)) for key, entry in first.items()}
    if not isinstance(batches[0], (tuple, list)):
        return refilled(batches[0], made)
    kind, values = type(batches[0]), list(made.values())
    return kind(*values) if hasattr(kind, "_fields") else kind(values)


def follow(batch: Any, key: str | int | Sequence[str | int]) -> Any:
    """Returns the entry at a path in a batch; ``MISSING`` if there is none.

    Args:
        batch: Nested mappings, dataclasses, named tuples, tuples and lists.
        key: A mapping key, a field name or an index into a tuple; or a path of these, dotted or as a list.
            A key that contains a dot takes precedence over a path. If there is no such key, a string of digits and its
            number are equivalent, because saving and loading a configuration turns the key "0" into a number.

    Example:
        >>> batch = ({"left": 1, "a.b": 2}, [3, 4])
        >>> follow(batch, "0.left"), follow(batch, [0, "a.b"]), follow(batch, "1.1"), follow(batch, "2") is MISSING
        (1, 2, 4, True)
        >>> follow({"0": 5, 1: 6}, 0), follow({"0": 5, 1: 6}, "1"), follow({"0": 5, 0: 7}, 0)
        (5, 6, 7)
    """
    if not isinstance(key, (str, int)):
        for step in key:
            batch = MISSING if batch is MISSING else follow(batch, step)
        return batch
    named = named_in(batch)
    if named is not None:
        twin = str(key) if isinstance(key, int) else int(key) if key.isdecimal() and str(int(key)) == key else key
        for each in (key, twin):
            if each in named:
                return named[each]
    place = int(key) if isinstance(key, int) or key.isdecimal() else None
    if place is not None and isinstance(batch, (list, tuple)):
        return batch[place] if -len(batch) <= place < len(batch) else MISSING
    if not isinstance(key, str):
        return MISSING
    # The longest first: keys may contain dots.
    dots = [at for at, sign in enumerate(key) if sign == "."]
    for dot in reversed(dots):
        inner = follow(batch, key[:dot]) if key[:dot] else MISSING
        found = follow(inner, key[dot + 1 :]) if inner is not MISSING and key[dot + 1 :] else MISSING
        if found is not MISSING:
            return found
    return MISSING


def nested(key: str | Sequence[str | int], value: Any) -> Any:
    """Returns a batch that contains only one value, at the given path.

    Example:
        >>> nested("views.left", 1), nested([1, "a.b"], 2)
        ({'views': {'left': 1}}, [None, {'a.b': 2}])
    """
    first, *rest = key.split(".") if isinstance(key, str) else key
    inner = nested(rest, value) if rest else value
    return [*[None] * int(first), inner] if str(first).isdecimal() else {first: inner}


def first_view(entry: Any, axes: int = 4) -> Tensor | None:
    """Returns the first of several views of the same samples, such as ``(left, right)``, each ``[N, C, H, W]``.

    Args:
        entry: An entry of the batch.
        axes: Minimum number of axes of a view.

    Returns:
        The view, or ``None`` if the entry contains no such tensors or their numbers of samples differ.
    """
    views = [tensor for _, tensor in tensors_in(entry) if tensor.dim() >= axes]
    return views[0] if views and len({len(view) for view in views}) == 1 else None


def any_picture(batch: Any) -> Tensor | None:
    """Returns the likely image in a batch of unknown structure: the first tensor with the most axes, up to 4.

    Returns:
        The tensor, or ``None`` if none has at least two axes.
    """
    found = [tensor for _, tensor in tensors_in(batch) if tensor.dim() >= 2]
    # Floating-point tensors first: integers may be tokens or label maps.
    return max(found, key=lambda tensor: (min(tensor.dim(), 4), tensor.is_floating_point()), default=None)


def structure(value: Any, most: int = 200) -> str:
    """Describes a batch's structure in one line.

    Args:
        value: The batch.
        most: Maximum number of characters.

    Example:
        >>> import torch
        >>> structure({"image": torch.zeros(2, 3, 8, 8), "meta": [{"id": 4}, {"id": 5}]})
        "{'image': [2, 3, 8, 8], 'meta': [{'id': int}, {'id': int}]}"
    """
    text = _structure(value, 4)
    return text if len(text) <= most else f"{text[: most - 2]} …"


def _structure(value: Any, depth: int) -> str:
    if isinstance(value, Tensor) or hasattr(value, "dtype"):
        whole = "" if not isinstance(value, Tensor) or value.is_floating_point() else f" {value.dtype}"[7:]
        return f"{list(value.shape)}{' ' + whole if whole else ''}"
    named = named_in(value)
    if not depth or not (named is not None or isinstance(value, (list, tuple))):
        return type(value).__name__
    if named is not None:
        inner = ", ".join(f"{str(key)!r:.40}: {_structure(entry, depth - 1)}" for key, entry in list(named.items())[:8])
        own = "" if isinstance(value, dict) else type(value).__name__
        return f"{own}{{{inner}{', …' if len(named) > 8 else ''}}}"
    parts = [_structure(entry, depth - 1) for entry in value[:3]]
    if len(value) > 2 and len(set(parts)) == 1:
        return f"{type(value).__name__} of {len(value)} {parts[0]}"
    inner = ", ".join([*parts, "…"] if len(value) > 3 else parts)
    return f"[{inner}]" if isinstance(value, list) else f"({inner})"


def tensors_in(batch: Any, path: Path = ()) -> Iterator[tuple[Path, Tensor]]:
    """Yields each tensor in a batch, with its path."""
    if isinstance(batch, Tensor):
        yield path, batch
        return
    entries = entries_in(batch)
    # Don't test its truth value, which some mappings of tensors do not support.
    for key, value in () if entries is None else entries.items():
        yield from tensors_in(value, (*path, key))


def no_tensor(selected: Any, batch: Any) -> str:
    """Returns advice for a batch that has no tensor at the input's position.

    Args:
        selected: The entry found instead.
        batch: The whole batch.
    """
    entries = list(selected) if isinstance(selected, (list, tuple)) else []
    if entries and all(isinstance(entry, Tensor) and entry.dim() in (2, 3) for entry in entries):
        shapes = list(dict.fromkeys(str(list(entry.shape)) for entry in entries))
        first = "resize or pad them to one size, then stack" if len(shapes) > 1 else "stack"
        return (
            f"it contains {len(entries)} images of one sample each ({' and '.join(shapes[:2])}); {first} them with "
            "torch.stack in collate_fn, or pass probes=ProbeSet(images) with such a stack; if forward() needs a list, "
            "pass forward_fn=lambda module, batch: module(list(batch[0])) too"
        )
    found = [(path, tensor) for path, tensor in tensors_in(batch) if tensor.dim() >= 3]
    if not found:
        return "select the entry with the images, or pass probes=ProbeSet(images)"
    several = "" if len(found) == 1 else f"; if forward() accepts several inputs, also {fed(found)}"
    keys = [f"input_key={'.'.join(map(str, path))!r:.60} {list(tensor.shape)}" for path, tensor in found[:3]]
    return f"select the entry with the images, {' or '.join(keys)}{several}"


def fed(found: Sequence[tuple[Path, Tensor]]) -> str:
    """Returns the ``forward_fn`` that passes these tensors of a batch to the module."""
    arguments = ", ".join("batch" + "".join(f"[{key!r:.40}]" for key in path) for path, _ in found[:3])
    return f"pass forward_fn=lambda module, batch: module({arguments})"


def inputs_in(batch: Any) -> list[tuple[Path, Tensor]]:
    """Returns the floating-point tensors of a batch with at least two axes, with their paths."""
    return [(path, t) for path, t in tensors_in(batch) if t.is_floating_point() and t.dim() >= 2]
