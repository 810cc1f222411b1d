"""Detects the kind of a model's output: logits, or probabilities from a final sigmoid or softmax.

The graph reveals the kind; without a graph, the operations of one call under ``no_grad`` do.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.weak import WeakTensorKeyDictionary

from lightning_gradcam.errors import TargetError

OutputKind = Literal["logits", "sigmoid", "softmax", "log_sigmoid", "log_softmax"]
_ENDS: dict[str, OutputKind] = {
    "Sigmoid": "sigmoid",
    "Hardsigmoid": "sigmoid",
    "Softmax": "softmax",
    "LogSigmoid": "log_sigmoid",
    "LogSoftmax": "log_softmax",
}
# Operations that move, select, cast, clamp, average or complement (1 - p) probabilities, which stay probabilities.
_PASSED = re.compile(
    r"(Unsafe|As)?(View|Strided)|(Reshape|Squeeze|Unsqueeze|T|Transpose|Permute|Movedim|Alias|Clone|ToCopy|Copy|Expand)"
    r"|(Select|Slice|Index|IndexSelect|Gather|Unbind|Split|SplitWithSizes|Narrow|Diagonal|Clamp|ClampMin|ClampMax|Amax"
    r"|Max|Amin|Min|Mean|Rsub)|Upsample\w+"
)
# Operations whose result is still a probability only if rows sum to 1: an ensemble's mean, or a mixture.
_COMBINED = frozenset({"Cat", "Stack", "Add", "Sub", "Mul", "Div", "Sum"})
_DEEPEST = 24


def output_kind(output: Any) -> OutputKind:
    """Returns the kind of an output, determined from its graph and confirmed by its values.

    Args:
        output: The model's output, attached to its graph; classes on axis 1, or a single number for each sample.

    Returns:
        ``"sigmoid"`` and ``"softmax"`` for probabilities, ``"log_sigmoid"`` and ``"log_softmax"`` for their logarithms;
        ``"logits"`` otherwise, and if the output has no graph. Values alone never decide: logits may happen to
        lie in 0…1.

    Example:
        >>> logits = torch.tensor([[2.0, -1.0]], requires_grad=True)
        >>> output_kind(logits.softmax(1)), output_kind(logits * 1), output_kind(logits.sigmoid()[:, 0])
        ('softmax', 'logits', 'sigmoid')
    """
    return kind_of(output, output.grad_fn if isinstance(output, Tensor) else None)


def kind_of(output: Any, node: Any) -> OutputKind:
    """Returns the kind of an output, as :func:`output_kind` does.

    Args:
        output: The model's output.
        node: The operation that computed it: a node of autograd's graph or a compatible object; ``None`` if unknown.
    """
    if not isinstance(output, Tensor) or not output.is_floating_point() or not output.dim() or node is None:
        return "logits"
    found, combined = _ends(node, _DEEPEST)
    if not found:
        return "logits"
    return _confirmed(output.detach(), found, combined=combined)


def probabilities(values: Tensor, kind: OutputKind) -> Tensor:
    """Returns the probabilities in an output other than logits: the output itself, or the exponential of logarithms."""
    return values.exp() if kind.startswith("log_") else values


def is_whole_numbers(output: Any) -> bool:
    """Whether an output contains only integers, such as the classes from an argmax.

    Example:
        >>> is_whole_numbers({"class": torch.tensor([2, 0])}), is_whole_numbers([torch.tensor([2]), torch.rand(3)])
        (True, False)
    """
    leaves = [leaf for leaf in tree_leaves(output) if leaf is not None]
    return bool(leaves) and all(
        not (leaf.is_floating_point() or leaf.is_complex()) if isinstance(leaf, Tensor) else isinstance(leaf, int)
        for leaf in leaves
    )


def whole_numbers(output: Any) -> TargetError:
    """Returns the error for an output of integers."""
    return TargetError(
        f"targets: the model returned {described(output)}: integers, which have no gradient; with forward= or "
        "output_key=, explain what the model computes before it rounds or takes the argmax, or use methods that need "
        "no gradient, such as 'eigencam'"
    )


def described(value: Any) -> str:
    """Describes an output for an error: its shape, or its type and keys."""
    if isinstance(value, Tensor):
        return f"a tensor {list(value.shape)} of {value.dtype}"
    if isinstance(value, dict):
        return f"a {type(value).__name__} with {', '.join(map(repr, value))}"
    if isinstance(value, (tuple, list)):
        return f"a {type(value).__name__} of {len(value)}"
    return type(value).__name__


def _ends(node: Any, left: int) -> tuple[frozenset[OutputKind], bool]:
    """Returns the activations at the end of a graph (none if unsure), and whether sums or products follow them."""
    name = re.sub(r"Backward\d*$", "", node.name())
    none: frozenset[OutputKind] = frozenset()
    if name in _ENDS:
        return frozenset({_ENDS[name]}), False
    before = [parent for parent, _ in node.next_functions if parent is not None]
    if not left or not before:
        return none, False
    if _PASSED.fullmatch(name):
        return _ends(before[0], left - 1)
    if name == "Exp":
        found, combined = _ends(before[0], left - 1)
        known: dict[OutputKind, OutputKind] = {"log_softmax": "softmax", "log_sigmoid": "sigmoid"}
        return (frozenset(known[kind] for kind in found), combined) if found <= set(known) else (none, False)
    if name not in _COMBINED:
        return none, False
    parts = [_ends(parent, left - 1) for parent in before]
    if not all(found for found, _ in parts):
        return none, False
    # Concatenated or multiplied with each other, they remain probabilities whatever their sums.
    sound = name in ("Cat", "Stack") or (name == "Mul" and len(parts) > 1)
    return frozenset().union(*(found for found, _ in parts)), not sound or any(combined for _, combined in parts)


def _confirmed(values: Tensor, found: frozenset[OutputKind], *, combined: bool) -> OutputKind:
    """Returns the kind if the values are consistent with it."""
    kind: OutputKind = next(iter(found)) if len(found) == 1 else "softmax"
    if any(end.startswith("log_") for end in found) and (len(found) > 1 or combined):
        return "logits"
    shares = probabilities(values.double() if values.dtype == torch.float64 else values.float(), kind)
    # Ignore values that are not finite: a diverged model still outputs probabilities.
    shares = shares[shares.flatten(1).isfinite().all(dim=1)] if shares.dim() > 1 else shares[shares.isfinite()]
    slack = 2e-2 if values.dtype in (torch.float16, torch.bfloat16) else 1e-3
    in_range = bool(((shares >= -slack) & (shares <= 1 + slack)).all())
    several = shares.dim() > 1 and shares.shape[1] > 1
    to_one = several and bool(((shares.sum(dim=1) - 1).abs() <= slack).all())
    if not in_range or (combined and not to_one):
        return "logits"
    if combined or len(found) > 1:
        return "softmax" if to_one else "sigmoid"
    # In one column of a softmax, or in a subset of its classes, each number is a probability on its own.
    return kind


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
    """Records the operation that computed each existing tensor."""

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
        inputs: The input tensor, which the model may change in place.

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
