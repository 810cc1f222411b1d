"""Detects the kind of a model's output without a graph, from the operations of one call under ``no_grad``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.weak import WeakTensorKeyDictionary

from lightning_gradcam.targets.reading import OutputKind, kind_of

# Operations that autograd names differently, and those that change no values.
_NAMES = {"LogSigmoidForward": "LogSigmoid", "ReshapeAlias": "View", "Detach": "Alias", "LiftFresh": "Alias"}


class _Step:
    """One operation, with the part of autograd's node interface that :mod:`lightning_gradcam.targets.reading` uses."""

    def __init__(self, name: str, before: list[_Step]) -> None:
        self._name = name
        self.next_functions = tuple((step, 0) for step in before)

    def name(self) -> str:
        """Returns autograd's name for this operation."""
        return f"{self._name}Backward0"


class _Traced(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Records the operation that made each existing tensor."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.steps: Any = WeakTensorKeyDictionary()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        before = [step for leaf in tree_leaves((args, kwargs)) if (step := self._step(leaf)) is not None]
        if before:
            name = "".join(part[:1].upper() + part[1:] for part in func.overloadpacket.__name__.split("_"))
            for leaf in tree_leaves(made):
                if isinstance(leaf, Tensor):
                    self.steps[leaf] = _Step(_NAMES.get(name, name), before)
        return made

    def _step(self, leaf: object) -> _Step | None:
        if not isinstance(leaf, Tensor):
            return None
        found: _Step | None = self.steps.get(leaf)
        # As in autograd: trainable tensors count, constants do not.
        return _Step("Accumulate", []) if found is None and leaf.requires_grad else found


def traced_output(model: Callable[[Tensor], Any], inputs: Tensor) -> tuple[Any, OutputKind]:
    """Calls a model under ``no_grad`` and detects the kind of its output.

    Args:
        model: Any callable.
        inputs: Its inputs, which it may change in place.

    Returns:
        The output, and its kind as in :func:`~lightning_gradcam.targets.reading.output_kind`.

    Example:
        >>> traced_output(lambda x: x.softmax(1), torch.zeros(1, 2))
        (tensor([[0.5000, 0.5000]]), 'softmax')
    """
    with torch.no_grad(), _Traced() as traced:
        traced.steps[inputs] = _Step("Accumulate", [])
        output = model(inputs)
    step = traced.steps.get(output) if isinstance(output, Tensor) else None
    return output, kind_of(output, step)
