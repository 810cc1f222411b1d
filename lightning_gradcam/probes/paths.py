"""Where an input stands in a batch: keys, places and dotted paths, and what errors say of those that there are."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from torch import Tensor

from lightning_gradcam.capture.structure import entries_of

MISSING = object()
Path = tuple[str | int, ...]


def follow(batch: Any, key: str | int) -> Any:
    """Returns what stands at a place in a batch; ``MISSING`` where there is no such place.

    Args:
        batch: Of mappings, dataclasses, named tuples, tuples and lists in each other.
        key: A key of a mapping, the name of a field, a place in a tuple; or a dotted path of these. A key with a dot
            in it comes before a path. Where there is no such key, digits and their number are the same: a
            configuration that is saved and loaded turns the key "0" into the number.

    Example:
        >>> batch = ({"left": 1, "a.b": 2}, [3, 4])
        >>> follow(batch, "0.left"), follow(batch, "0.a.b"), follow(batch, "1.1"), follow(batch, "2") is MISSING
        (1, 2, 4, True)
        >>> follow({"0": 5, 1: 6}, 0), follow({"0": 5, 1: 6}, "1"), follow({"0": 5, 0: 7}, 0)
        (5, 6, 7)
    """
    named: Any = batch if isinstance(batch, Mapping) else entries_of(batch)
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
    # The longest first: keys may have dots in them.
    dots = [at for at, sign in enumerate(key) if sign == "."]
    for dot in reversed(dots):
        inner = follow(batch, key[:dot]) if key[:dot] else MISSING
        found = follow(inner, key[dot + 1 :]) if inner is not MISSING and key[dot + 1 :] else MISSING
        if found is not MISSING:
            return found
    return MISSING


def nested(key: str, value: Any) -> Any:
    """Returns a batch that has nothing but a value at a dotted path.

    Example:
        >>> nested("views.left", 1), nested("1.0", 2)
        ({'views': {'left': 1}}, [None, [2]])
    """
    first, _, rest = key.partition(".")
    inner = nested(rest, value) if rest else value
    return [*[None] * int(first), inner] if first.isdecimal() else {first: inner}


def tensors_in(batch: Any, path: Path = ()) -> Iterator[tuple[Path, Tensor]]:
    """Yields each tensor in a batch, with the way to it."""
    if isinstance(batch, Tensor):
        yield path, batch
        return
    named: Any = batch if isinstance(batch, Mapping) else entries_of(batch)
    entries = named.items() if named is not None else enumerate(batch) if isinstance(batch, (list, tuple)) else ()
    for key, value in entries:
        yield from tensors_in(value, (*path, key))


def no_tensor(selected: Any, batch: Any) -> str:
    """Returns what to do where an input was expected, and is none.

    Args:
        selected: What was found instead.
        batch: The whole batch.
    """
    entries = list(selected) if isinstance(selected, (list, tuple)) else []
    if entries and all(isinstance(entry, Tensor) and entry.dim() in (2, 3) for entry in entries):
        shapes = list(dict.fromkeys(str(list(entry.shape)) for entry in entries))
        first = "resize or pad them to one size, then stack" if len(shapes) > 1 else "stack"
        return (
            f"it holds {len(entries)} pictures of one sample each ({' and '.join(shapes[:2])}); {first} them by"
            " torch.stack in collate_fn, or give probes=ProbeSet(pictures) with such a stack; where forward() needs a"
            " list, give forward_fn=lambda module, batch: module(list(batch[0])), too"
        )
    found = [(path, tensor) for path, tensor in tensors_in(batch) if tensor.dim() >= 3]
    if not found:
        return "name the entry that holds the pictures, or give probes=ProbeSet(pictures)"
    several = "" if len(found) == 1 else f"; where forward() takes several, also {fed(found)}"
    return f"name the entry that holds the pictures, {_choices(found)}{several}"


def fed(found: Sequence[tuple[Path, Tensor]]) -> str:
    """Returns the ``forward_fn`` that feeds these tensors of a batch to the module."""
    arguments = ", ".join("batch" + "".join(f"[{key!r:.40}]" for key in path) for path, _ in found[:3])
    return f"give forward_fn=lambda module, batch: module({arguments})"


def inputs_in(batch: Any) -> list[tuple[Path, Tensor]]:
    """Returns the floating-point tensors of a batch that have two axes or more, with the ways to them."""
    return [(path, t) for path, t in tensors_in(batch) if t.is_floating_point() and t.dim() >= 2]


def _choices(found: Sequence[tuple[Path, Tensor]]) -> str:
    shown = [f"input_key={'.'.join(map(str, path))!r:.60} {list(tensor.shape)}" for path, tensor in found[:3]]
    return " or ".join(shown)
