"""What a model does on a few samples: which layers have feature maps, how these are laid out, and which to explain."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from lightning_gradcam.capture import capture, main_tensor
from lightning_gradcam.errors import LayerError
from lightning_gradcam.layers import named_layers
from lightning_gradcam.layout import Layout, check_places, find_layout, fits

# Their outputs are spatial, but show what the layer before them found: coarser, thinned out, moved or unchanged.
_PASSIVE = (nn.Identity, nn.Flatten, nn.Unflatten, nn.Upsample)
_PASSIVE_NAMES = ("Pool", "Dropout", "DropPath", "StochasticDepth", "Pad", "Permute", "Rearrange")
_CHANNELS_FIRST = ("Conv", "BatchNorm", "GroupNorm", "InstanceNorm", "Pool", "PixelShuffle")
_MOST_CANDIDATES = 48


@dataclass(frozen=True, eq=False)
class Seen:
    """One call of a module: its name, and the feature map in its output, with the number of changes made to it."""

    name: str
    module: nn.Module
    output: Tensor
    version: int


class Survey:
    """One forward of a few samples, looked at from every module.

    Args:
        model: The model.
        forward: Runs it once.
        samples: How many samples that is.
        picture: The input's spatial shape, or ``None`` where it is no picture.
        given: What the user says of layouts, by layer name; ``""`` stands for all.
    """

    def __init__(
        self,
        model: nn.Module,
        forward: Callable[[], Any],
        *,
        samples: int,
        picture: tuple[int, ...] | None,
        given: Mapping[str, str],
    ) -> None:
        self._model = model
        self._forward = forward
        self._samples = samples
        self._picture = picture
        self._given = given
        self._seen = _executed(named_layers(model), forward)

    def layout(self, name: str) -> Layout:
        """Returns a layer's layout.

        Raises:
            LayerError: It has none, or nothing tells it.
        """
        at = max((i for i, seen in enumerate(self._seen) if seen.name == name), default=None)
        if at is None:
            raise LayerError(f"layers: {name!r} exists, but the forward never reached it")
        return self._layout(at)

    def spatial(self) -> dict[str, Layout]:
        """Returns the layers with a feature map at the picture's proportions, in the order of execution."""
        found: dict[str, Layout] = {}
        for at, seen in enumerate(self._seen):
            layout = self._spatial(at)
            if layout is not None:
                found.pop(seen.name, None)
                found[seen.name] = layout
        return found

    def auto(self, score: Callable[[Any], Tensor]) -> str:
        """Returns the last layer with a feature map that is more than a passed-on one.

        Where the maps are tokens with a class token before them, the last one whose grid the score depends on.

        Args:
            score: From the model's output to what will be explained; any shape.

        Raises:
            LayerError: There is none.
        """
        chosen = ""
        for at in reversed(range(len(self._seen))):
            name, output, version = self._seen[at].name, self._seen[at].output, self._seen[at].version
            # A residual block may add to its last part's output in place, which makes more of it than that part did.
            same = (s.name for s in self._seen if s.output is output and s.version == version)
            inner = (other for other in same if other.startswith(f"{name}."))
            layout = self._spatial(at)
            if layout is None or any(self._is_passive(part) for part in [name, *inner]):
                continue
            # A container that only passes the feature map on fires after its last child and is the better name:
            # "layer4" and not "layer4.1.relu".
            chosen = name
            if not layout.prefix:
                return name
            alive = self.alive(score, [n for n in self._alike(at) if not self._is_passive(n)])
            return alive[-1] if alive else chosen
        if not chosen:
            raise LayerError(
                "layers: 'auto' found no layer whose output is a feature map [N, C, h, w] (or tokens, or [N, h, w, C])"
                " with more than one place; name the layer to explain, and its layout= where that is unusual"
            )
        return chosen

    def alive(self, score: Callable[[Any], Tensor], names: Sequence[str]) -> list[str]:
        """Returns those of ``names`` on whose places the score depends, whatever the weights are now."""
        chosen, layouts = list(names)[-_MOST_CANDIDATES:], self.spatial()
        layers = named_layers(self._model)
        with _awakened(self._model), capture({name: layers[name] for name in chosen}) as captured:
            gradients = captured.gradients(score(self._forward()))
        found = {n: None if g is None else layouts[n].feature_map(g) for n, g in gradients.items() if n in layouts}
        return [name for name, gradient in found.items() if gradient is not None and bool((gradient != 0).any())]

    def instead_of(self, name: str, score: Callable[[Any], Tensor], *, later: bool) -> str | None:
        """Returns the nearest layer with a gradient, before ``name`` or ``later`` in the forward; ``None``: no such."""
        order = list(self.spatial())
        if name not in order:
            return None
        place = order.index(name)
        near = order[place + 1 :][:_MOST_CANDIDATES] if later else order[:place]
        alive = self.alive(score, near) if near else []
        return (alive[0] if later else alive[-1]) if alive else None

    def _alike(self, at: int) -> list[str]:
        """The spatial layers up to one, with as many channels: those of the same stream of tokens."""
        layouts = self.spatial()
        channels = {s.name: self._channels(s.output, layouts[s.name]) for s in self._seen if s.name in layouts}
        order = list(layouts)
        up_to = order[: order.index(self._seen[at].name) + 1]
        return [name for name in up_to if channels[name] == channels[self._seen[at].name]]

    @staticmethod
    def _channels(output: Tensor, layout: Layout) -> int:
        return int(output.shape[layout.axes.index("C")])

    def _is_passive(self, name: str) -> bool:
        module = named_layers(self._model)[name]
        return isinstance(module, _PASSIVE) or any(word in type(module).__name__ for word in _PASSIVE_NAMES)

    def _spatial(self, at: int) -> Layout | None:
        seen = self._seen[at]
        if self._given.get(seen.name, self._given.get("")) is None and len(seen.output) != self._samples:
            return None
        try:
            layout = self._layout(at, say=False)
            check_places(seen.name, seen.output.shape, layout)
        except LayerError:
            return None
        # Convolutions without padding change the proportions, but show what their axes are.
        known = self._picture is None or (layout.axes in ("NCHW", "NCDHW") and self._last(at) is False)
        return layout if known or (self._picture is not None and fits(layout.grid, self._picture)) else None

    def _layout(self, at: int, *, say: bool = True) -> Layout:
        seen = self._seen[at]
        layout = find_layout(
            seen.name,
            seen.output.shape,
            samples=self._samples,
            picture=self._picture,
            given=self._given.get(seen.name, self._given.get("")),
            last=self._last(at),
            grids=self._grids(at),
        )
        if layout is not None:
            return layout
        first = find_layout(seen.name, seen.output.shape, samples=self._samples, picture=None, last=False)
        assert first is not None
        if say:
            warnings.warn(
                f"layers: {seen.name!r} has the output {list(seen.output.shape)}, which could have its channels first"
                f" or last; taken as {first.axes}. Say which with layout={{{seen.name!r}: 'NCHW'}} or 'NHWC'",
                stacklevel=2,
            )
        return first

    def _last(self, at: int) -> bool | None:
        """Whether channels stand last, by the nearest module up to there with such an output that shows it."""
        shape = self._seen[at].output.shape
        for seen in reversed(self._seen[: at + 1]):
            if seen.output.shape != shape:
                continue
            kind = type(seen.module)
            if kind in (nn.LayerNorm, nn.Linear, nn.RMSNorm):
                return True
            if kind.__module__.startswith("torch.nn.") and any(word in kind.__name__ for word in _CHANNELS_FIRST):
                return False
        inputs = () if self._picture is None else self._picture
        return False if tuple(shape[2:]) == tuple(inputs) else None

    def _grids(self, at: int) -> list[tuple[int, ...]]:
        grids = []
        for seen in reversed(self._seen[:at]):
            kind = type(seen.module)
            words = any(word in kind.__name__ for word in _CHANNELS_FIRST)
            if seen.output.dim() in (4, 5) and words and kind.__module__.startswith("torch.nn."):
                grids.append(tuple(seen.output.shape[2:]))
        return grids


def mixed(output: Any) -> Tensor:
    """Returns one number that depends on all numbers of an output, each with a weight of its own."""
    # A plain sum would not do: the sum of a softmax is constant.
    leaves = [leaf.float().flatten() for leaf in tree_leaves(output) if isinstance(leaf, Tensor) and leaf.numel()]
    parts = [(leaf * torch.arange(1, len(leaf) + 1, device=leaf.device).cos()).sum() for leaf in leaves]
    return torch.stack([part.to(parts[0].device) for part in parts]).sum() if parts else torch.zeros(())


def _executed(layers: Mapping[str, nn.Module], forward: Callable[[], Any]) -> list[Seen]:
    """Runs a forward without a graph and returns every call that gave a floating-point tensor, in order."""
    order: list[Seen] = []

    def seen(name: str) -> Callable[[nn.Module, Any, Any], None]:
        def hook(module: nn.Module, _args: Any, output: Any) -> None:
            found = main_tensor(output)
            if found is not None and found[0].dim() >= 3:
                order.append(Seen(name, module, found[0], found[0]._version))

        return hook

    with ExitStack() as stack, torch.no_grad():
        for name, module in layers.items():
            stack.callback(module.register_forward_hook(seen(name)).remove)
        forward()
    return order


@contextmanager
def _awakened(model: nn.Module) -> Iterator[None]:
    """Gives the model other weights for a moment: a head that begins at zero, or a dead ReLU, hides what depends on it.

    The parameters' own storage is put aside and comes back, bit for bit, after an exception too.
    """
    generator = torch.Generator().manual_seed(0)
    kept = [(parameter, parameter.data) for parameter in model.parameters()]
    try:
        for parameter, data in kept:
            if not data.is_floating_point():
                continue
            if data.dim() >= 2:
                drawn = torch.randn(data.shape, generator=generator) / max(1, data[0].numel()) ** 0.5
                parameter.data = drawn.to(device=data.device, dtype=data.dtype)
            elif not bool(data.any()):
                parameter.data = torch.full_like(data, 0.1)
        yield
    finally:
        for parameter, data in kept:
            parameter.data = data
