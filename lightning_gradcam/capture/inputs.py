"""A model's inputs in any structure, including the image, and the form in which methods see that image."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from lightning_gradcam.capture.layout import input_size
from lightning_gradcam.capture.tensors import flattened, with_tensors
from lightning_gradcam.errors import ConfigurationError, MethodError

Forward = Callable[[Any], Any]


class Inputs:
    """The model's inputs: a tensor, or a tuple, list, mapping or dataclass of several.

    The image ("picture") is the first floating-point tensor with at least four axes, or else the first floating-point
    tensor. Without floating-point tensors, integer tensors with at least three axes are considered instead.

    Args:
        values: The inputs in the user's structure.
        picture: The image, as one of these tensors; chosen automatically by default.

    Attributes:
        picture: The image, ``[N, …]``.
        is_single: Whether the image is the only input.
        pictures: Number of inputs that could be images: floating-point tensors with at least four axes.

    Raises:
        ConfigurationError: No input can be the image, or ``picture`` is not one of the inputs.
    """

    def __init__(self, values: Any, picture: Tensor | None = None) -> None:
        leaves, self._rebuilt = flattened(values)
        known = next((i for i, leaf in enumerate(leaves) if leaf is picture), None)
        if picture is not None and known is None:
            shape = list(picture.shape) if isinstance(picture, Tensor) else type(picture).__name__
            raise ConfigurationError(
                f"picture: got {shape}, which is not one of the inputs; pass the same tensor object that is in the "
                "inputs, not a copy"
            )
        # Tensors captured under inference mode can't enter a graph; clones made outside can.
        self._leaves = [x.clone() if isinstance(x, Tensor) and x.is_inference() else x for x in leaves]
        floating = [i for i, x in enumerate(self._leaves) if isinstance(x, Tensor) and x.is_floating_point()]
        # An integer tensor can also be an image, if the model scales it itself.
        floating = floating or [i for i, x in enumerate(self._leaves) if isinstance(x, Tensor) and x.dim() >= 3]
        if not floating and known is None:
            raise ConfigurationError(
                f"inputs: got a {type(values).__name__}; pass a tensor [N, …] as the model takes it, or a tuple or dict"
                " of its arguments"
            )
        guess = next((i for i in floating if self._leaves[i].dim() >= 4), next(iter(floating), 0))
        self._place = guess if known is None else known
        self.picture: Tensor = self._leaves[self._place]
        self.is_single = len(self._leaves) == 1
        self.pictures = sum(map(_could_be_picture, self._leaves))

    @property
    def samples(self) -> int:
        """Number of samples."""
        # Not in the constructor: the arguments of a part of a model may be an integer image and a single number.
        return len(self.picture)

    def others(self) -> list[Inputs]:
        """Returns a copy of the inputs for each other tensor that could be the image, with that tensor as the image."""
        possible = [x for i, x in enumerate(self._leaves) if i != self._place and _could_be_picture(x)]
        return [Inputs(self._rebuilt(list(self._leaves)), picture=leaf) for leaf in possible]

    def fresh(self, picture: Tensor | None = None, copies: int = 1) -> Any:
        """Returns the inputs for one forward pass, which may change them in place.

        Args:
            picture: Replacement for the image.
            copies: How often all other inputs are repeated along the sample axis.
        """
        leaves = [self._repeated(leaf, copies) for leaf in self._leaves]
        if picture is not None:
            leaves[self._place] = picture
        return self._rebuilt(leaves)

    def part(self, start: int, stop: int) -> Inputs:
        """Returns a range of the samples."""
        samples = self.samples
        if start == 0 and stop >= samples:
            return self
        leaves = [x[start:stop] if isinstance(x, Tensor) and x.dim() and len(x) == samples else x for x in self._leaves]
        return Inputs(self._rebuilt(leaves), picture=leaves[self._place])

    def _repeated(self, leaf: Any, copies: int) -> Any:
        if not isinstance(leaf, Tensor):
            return leaf
        if copies == 1 or not leaf.dim() or len(leaf) != self.samples:
            return leaf.clone()
        return leaf.repeat(copies, *[1] * (leaf.dim() - 1))


def _could_be_picture(leaf: Any) -> bool:
    return isinstance(leaf, Tensor) and leaf.is_floating_point() and leaf.dim() >= 4


def caller(model: nn.Module, forward: Forward | None, output_key: Any) -> Forward:
    """Returns the function that maps the inputs to the output to explain.

    Args:
        model: Called with a tensor; with the entries of a tuple or list as arguments, or those of a dict as keyword
            arguments.
        forward: Function called with the unchanged inputs instead of the model.
        output_key: The part of the model's return value to use as the output; see :func:`pick_output`.
    """

    def call(values: Any) -> Any:
        if forward is not None:
            output = forward(values)
        elif isinstance(values, Mapping):
            output = model(**values)
        elif isinstance(values, (tuple, list)):
            output = model(*values)
        else:
            output = model(values)
        return pick_output(output, output_key)

    return call


def pick_output(output: Any, key: Any) -> Any:
    """Selects the output to explain from a model's return value.

    Args:
        output: A tensor, tuple, dict, dataclass or other object.
        key: An index into a tuple, a key of a dict, the name of an attribute, or a callable; ``None`` selects
            everything.

    Raises:
        ConfigurationError: The output has no such entry.

    Example:
        >>> pick_output({"logits": 1, "loss": 2}, "logits")
        1
    """
    if key is None:
        return output
    if callable(key):
        return key(output)
    # The command line passes the index 0 as text, and may pass the key "0" as a number.
    if isinstance(output, (tuple, list)) and isinstance(key, str) and key.isdecimal():
        key = int(key)
    elif isinstance(output, Mapping) and isinstance(key, int) and key not in output and str(key) in output:
        key = str(key)
    # A tensor can be indexed too, but that selects one sample instead of an output for all samples.
    if not isinstance(output, Tensor):
        try:
            return output[key]
        except (KeyError, IndexError, TypeError):
            if isinstance(key, str) and hasattr(output, key):
                return getattr(output, key)
    if isinstance(output, Tensor):
        raise ConfigurationError(
            f"output_key: got {key!r}, but the model returned a plain tensor {list(output.shape)}; leave it out,"
            " or pass a callable"
        )
    if isinstance(output, (tuple, list)):
        possible = f"0 to {len(output) - 1}"
    else:
        names = output if isinstance(output, Mapping) else getattr(output, "__dict__", {})
        possible = ", ".join(map(repr, names)) or "no entries"
    raise ConfigurationError(
        f"output_key: got {key!r}, but the model returned a {type(output).__name__} with {possible}; pass one of these,"
        " or a callable"
    )


def check_output_key(key: Any) -> None:
    """Rejects an invalid ``output_key``.

    Raises:
        ConfigurationError: It is not a string, integer or callable.
    """
    if key is not None and not callable(key) and (isinstance(key, bool) or not isinstance(key, (str, int))):
        raise ConfigurationError(
            f"output_key: got {key!r}; pass an index into a tuple, a key of a dict, the name of an attribute, or a"
            " callable"
        )


def detached(output: Any) -> Any:
    """Returns an output with all tensors detached; containers and dataclasses that contain any are copied."""
    return with_tensors(output, Tensor.detach)


def with_gradient(picture: Tensor) -> Tensor:
    """Returns an image that requires gradients and that the model may still change in place."""
    source = picture.detach()
    if not source.is_floating_point():
        return source.clone()
    with torch.enable_grad():
        return source.requires_grad_().clone()


@dataclass(frozen=True, eq=False)
class InputForm:
    """The form in which a model accepts its input image.

    Attributes:
        own: The input as the model accepts it, of any dtype: ``[N, C, *S]``, ``[N, *S, C]``, ``[N, H, W]``, or a tensor
            that is not an image.
        axes: The meaning of its axes if the shape is ambiguous: ``"NL"``, ``"NCL"`` or ``"NLC"`` for a signal,
            ``"NTCHW"`` or ``"NTHW"`` for frames; otherwise ``""``.

    Example:
        >>> form = InputForm(torch.zeros(2, 5, 7, 3, dtype=torch.uint8))
        >>> seen = form.seen(form.own)
        >>> tuple(seen.shape), seen.dtype
        ((2, 3, 5, 7), torch.float32)
        >>> form.restored(seen + 3.7)[0, 0, 0]
        tensor([4, 4, 4], dtype=torch.uint8)
    """

    own: Tensor
    axes: str = ""

    def seen(self, values: Tensor) -> Tensor:
        """Returns the image, or a gradient of its shape, as floating-point ``[N, C, *S]``.

        An input that is not an image keeps its axes.
        """
        numbers = values if values.is_floating_point() else values.float()
        return numbers[:, None] if self._channels is None else numbers.movedim(self._channels, 1)

    def restored(self, picture: Tensor) -> Tensor:
        """Returns a changed image in the model's form; values of an integer input are rounded and clipped."""
        dtype = self.own.dtype
        own = picture[:, 0] if self._channels is None else picture.movedim(1, self._channels)
        if dtype == torch.bool:
            return own > 0.5
        if not dtype.is_floating_point:
            limits = torch.iinfo(dtype)
            own = own.round().clamp(limits.min, limits.max)
        return own.to(dtype)

    def require(self, *, gradient: bool) -> None:
        """Rejects an input that methods in input space cannot handle.

        Args:
            gradient: Whether the method differentiates with respect to the input.

        Raises:
            MethodError: The input is not an image, or it contains integers although a gradient is needed.
        """
        if not self.axes and input_size(self.own) is None:
            raise MethodError(
                "methods: maps at the input's resolution need an image [N, C, H, W], but the model's input is "
                f"{list(self.own.shape)}; use gradcam, hirescam or layercam, or choose another input with picture="
            )
        if gradient and not self.own.is_floating_point():
            raise MethodError(
                f"methods: an input of {self.own.dtype} has no gradient; pass floating-point images (the model may "
                "still scale them), or use gradcam, hirescam or layercam"
            )

    @property
    def _channels(self) -> int | None:
        """The channel axis; ``None`` if there is none."""
        if self.axes:
            return self.axes.index("C") if "C" in self.axes else None
        if self.own.dim() in (1, 3):
            return None
        size = input_size(self.own)
        return 1 if size is None or size == tuple(self.own.shape[2:]) else -1
