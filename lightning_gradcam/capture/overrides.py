"""Replaces or observes functions that a model calls, by intercepting every torch call inside a ``with``.

Hooks only see modules, but models also call functions such as ``F.relu`` and ``F.scaled_dot_product_attention``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from types import FunctionType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

_ACTIVATIONS = (
    *(F.relu, torch.relu, Tensor.relu, F.relu_, torch.relu_, Tensor.relu_),
    *(F.relu6, F.leaky_relu, F.leaky_relu_, F.silu, F.gelu, F.hardswish),
)
# nn.ReLU6 calls F.hardtanh with a minimum of 0.
_HARDTANHS = (F.hardtanh, F.hardtanh_)
_SOFTMAXES = (F.softmax, torch.softmax, Tensor.softmax)


class _Guided(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, activation: Callable[[Tensor], Tensor]) -> Tensor:
        # In the backward pass, activation checkpointing runs the plain activation instead of this one and returns the
        # tensor it saves: its input or its result, of the same shape and dtype, and positive in the same positions.
        ctx.save_for_backward((values > 0).to(values.dtype))
        return activation(values.clone())

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        (kept,) = ctx.saved_tensors
        return gradient.clamp(min=0) * (kept > 0), None


class _Watch(TorchFunctionMode):
    def __init__(self, rule: Callable[[Any, tuple[Any, ...], dict[str, Any]], Any]) -> None:
        super().__init__()
        self._rule = rule

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = self._rule(func, args, kwargs or {})
        return func(*args, **(kwargs or {})) if result is None else result


@contextmanager
def guided_relus() -> Iterator[list[int]]:
    """Makes every ReLU, module or function, propagate only positive gradients, and only where its input was positive.

    The same rule applies to ReLU6, LeakyReLU, SiLU, GELU and Hardswish; it ignores their own slope.

    Springenberg et al., "Striving for Simplicity: The All Convolutional Net", ICLR 2015 workshop.

    Yields:
        A list that grows by one entry with every such activation.
    """
    met: list[int] = []

    def rule(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        rest = dict(kwargs)
        if func in _HARDTANHS:
            if rest.get("min_val", args[1] if len(args) > 1 else -1) != 0:
                return None
        elif func not in _ACTIVATIONS:
            return None
        met.append(1)
        values: Tensor = args[0] if args else rest.pop("input")
        in_place = False

        def activation(own: Tensor) -> Tensor:
            nonlocal in_place
            result: Tensor = func(own, *args[1:], **rest)
            in_place = result is own
            return result

        guided = _Guided.apply(values, activation)
        # The model may continue with the tensor itself instead of the result.
        return values.copy_(guided) if in_place else guided

    with _Watch(rule):
        yield met


@contextmanager
def attention_maps(module: nn.Module) -> Iterator[list[Tensor]]:
    """Records the attention weights, after the softmax, of all attention inside ``module``.

    Fused attention never computes these weights; inside this ``with``, attention runs step by step. Hand-written
    attention is recognised by a softmax over the last of four axes.

    Args:
        module: The attention module, or a block that contains one.

    Yields:
        The maps ``[N, heads, queries, keys]``, attached to the graph, in the order of execution.
    """
    found: list[Tensor] = []
    inside = [0]

    def rule(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if not inside[0]:
            return None
        if func is F.scaled_dot_product_attention:
            return _attend(found, *args, **kwargs)
        if func is F.multi_head_attention_forward:
            return _multi_head(found, args, kwargs)
        if func in _SOFTMAXES and isinstance(args[0], Tensor) and args[0].dim() == 4:
            axis = kwargs.get("dim", args[1] if len(args) > 1 else None)
            if axis in (-1, 3):
                found.append(func(*args, **kwargs))
                return found[-1]
        return None

    def enter(_module: nn.Module, _args: Any) -> None:
        inside[0] += 1

    def leave(_module: nn.Module, _args: Any, _output: Any) -> None:
        inside[0] -= 1

    with ExitStack() as stack:
        # nn.MultiheadAttention's fast path runs everything in one opaque call.
        stack.callback(torch.backends.mha.set_fastpath_enabled, torch.backends.mha.get_fastpath_enabled())
        torch.backends.mha.set_fastpath_enabled(False)
        stack.callback(module.register_forward_pre_hook(enter).remove)
        stack.callback(module.register_forward_hook(leave).remove)
        with _Watch(rule):
            yield found


def _multi_head(found: list[Tensor], args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Tensor, Tensor | None]:
    # Calls inside an intercepted function are not intercepted, so run a copy of it that calls our attention.
    original = F.multi_head_attention_forward
    names = {**original.__globals__, "scaled_dot_product_attention": partial(_attend, found)}
    plain = FunctionType(original.__code__, names, original.__name__, original.__defaults__, original.__closure__)
    output, _ = plain(*args, **{**kwargs, "need_weights": False})
    if not kwargs.get("need_weights", True):
        return output, None
    weights = found[-1]
    return output, weights.mean(dim=1) if kwargs.get("average_attn_weights", True) else weights


def _attend(
    found: list[Tensor],
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,  # noqa: ARG001 - evaluation mode drops nothing
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    if enable_gqa:
        key, value = (x.repeat_interleave(query.shape[-3] // x.shape[-3], -3) for x in (key, value))
    weights = query @ key.transpose(-2, -1) * (1 / math.sqrt(query.shape[-1]) if scale is None else scale)
    if is_causal:
        weights = weights + torch.full_like(weights, -math.inf).triu(1)
    if attn_mask is not None:
        masked = attn_mask.dtype == torch.bool
        weights = weights.masked_fill(~attn_mask, -math.inf) if masked else weights + attn_mask
    attention = weights.softmax(dim=-1)
    if attention.dim() == 4:
        found.append(attention)
    return attention @ value


@contextmanager
def biased_outputs(model: nn.Module) -> Iterator[list[tuple[Tensor, Tensor]]]:
    """Records the convolutions and batch norms that add a bias.

    Args:
        model: The model, in evaluation mode.

    Yields:
        A list that grows with each of their calls: the bias ``[C]`` (for a batch norm, its total offset) and the
        output.
    """
    outputs: list[tuple[Tensor, Tensor]] = []

    def keep(bias: Tensor, _module: nn.Module, _args: Any, output: Tensor) -> Tensor:
        outputs.append((bias, output))
        # A later in-place operation must not change the recorded output.
        return output.clone()

    with ExitStack() as stack:
        for module in model.modules():
            if (bias := _bias(module)) is not None:
                stack.callback(module.register_forward_hook(partial(keep, bias)).remove)
        yield outputs


def _bias(module: nn.Module) -> Tensor | None:
    """Returns the constant that a convolution or batch norm adds to each channel in evaluation mode."""
    if isinstance(module, (nn.Conv1d, nn.Conv2d, nn.Conv3d)):
        return None if module.bias is None else module.bias.detach()
    if isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)) and module.running_mean is not None:
        assert module.running_var is not None
        scale = (module.running_var + module.eps).rsqrt()
        shift = -module.running_mean * scale
        if module.affine:
            shift = shift * module.weight.detach() + module.bias.detach()
        return shift
    return None
