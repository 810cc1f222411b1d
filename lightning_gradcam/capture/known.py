"""Cache of token layouts: finding them again would cost one forward pass per explanation.

They are stored outside the model for as long as it exists, so copies and checkpoints of the model do not contain them.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping
from dataclasses import dataclass, field
from threading import Lock
from typing import Any
from weakref import ref

from torch import Tensor, nn

from lightning_gradcam.capture.layout import Layout

# More than all layers of a model at a few image sizes.
_MOST = 1024
_PLAIN = frozenset({bool, int, float, complex, str, bytes, type(None)})
_HOOKS = ("_forward_hooks", "_forward_pre_hooks")


@dataclass(frozen=True, eq=False)
class _Entry:
    model: ref[nn.Module]
    values: tuple[Any, ...]
    parts: tuple[ref[Any], ...]
    layouts: dict[Hashable, Layout] = field(default_factory=dict)


# Keyed by the model's id: its hash may be computed from its whole state, as for metrics.
_entries: dict[int, _Entry] = {}
_lock = Lock()


class KnownLayouts:
    """The layouts found for a model in its current form.

    They are valid while the model has the same modules, hooks, integer tables (which may permute tokens), and the same
    functions, numbers, strings and flags as attributes. Other kinds of attributes are not compared.

    Args:
        model: The model.
        layers: Its layers, by name.

    Example:
        >>> model = nn.Sequential(nn.Identity())
        >>> KnownLayouts(model, {"0": model[0]}).add("0", Layout("NLC", (2, 2)))
        >>> KnownLayouts(model, {"0": model[0]}).get("0").grid
        (2, 2)
        >>> model[0] = nn.Identity()
        >>> KnownLayouts(model, {"0": model[0]}).get("0") is None
        True
    """

    def __init__(self, model: nn.Module, layers: Mapping[str, nn.Module]) -> None:
        self._model = model
        # Describe the model now rather than in `add`: forward passes in between may change counters.
        described = [*_described({"": model, **layers})]
        self._values = tuple((at, value) for at, value, part in described if part is None)
        self._parts = [part for _, _, part in described if part is not None]

    def get(self, key: Hashable) -> Layout | None:
        """Returns a cached layout.

        Args:
            key: The layer's name, with everything besides the model on which its layout may depend.
        """
        with _lock:
            entry = self._own()
            return None if entry is None else entry.layouts.get(key)

    def add(self, key: Hashable, layout: Layout) -> None:
        """Stores a layout, and drops those found for an earlier form of the model."""
        place = id(self._model)

        def drop(gone: ref[nn.Module]) -> None:
            # Don't take the lock: the thread that frees the model may hold it. Another model may have this id by then.
            entry = _entries.get(place)
            if entry is not None and entry.model is gone:
                _entries.pop(place, None)

        with _lock:
            entry = self._own()
            if entry is None:
                try:
                    parts = tuple(map(ref, self._parts))
                except TypeError:  # an object without weak references
                    return
                entry = _entries[place] = _Entry(ref(self._model, drop), self._values, parts)
            if len(entry.layouts) >= _MOST:
                entry.layouts.clear()
            entry.layouts[key] = layout

    def _own(self) -> _Entry | None:
        entry = _entries.get(id(self._model))
        if entry is None or entry.model() is not self._model or len(entry.parts) != len(self._parts):
            return None
        # A new object may have the id of a deleted part.
        same = all(part() is now for part, now in zip(entry.parts, self._parts, strict=True))
        return entry if same and entry.values == self._values else None


def _described(layers: Mapping[str, nn.Module]) -> Iterator[tuple[str, Any, Any]]:
    """Yields the parts of each layer: their path, and their value or the object itself."""
    for layer, module in layers.items():
        yield layer, None, module
        for name, value in vars(module).items():
            at = f"{layer}.{name}"
            if name == "_buffers":
                for buffer, tensor in value.items():
                    if buffer != "num_batches_tracked":
                        yield from _table(f"{at}.{buffer}", tensor)
            elif name in _HOOKS:
                for hook in value.values():
                    yield at, None, hook
            elif type(value) in _PLAIN:
                if name != "training":
                    yield at, value, None
            elif type(value) in (tuple, list):
                yield at, tuple(entry for entry in value if type(entry) in _PLAIN), None
            elif isinstance(value, Tensor):
                yield from _table(at, value)
            elif callable(value):
                yield at, None, value


def _table(at: str, tensor: Tensor | None) -> Iterator[tuple[str, Any, Any]]:
    if tensor is not None and not tensor.is_floating_point():
        yield at, None, tensor
        yield at, 0 if tensor.is_inference() else tensor._version, None
