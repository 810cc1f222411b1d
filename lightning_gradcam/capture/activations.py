"""Captures activations and gradients of many layers in one forward pass, with hooks that exist only in a ``with``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from lightning_gradcam.capture.calls import MapPlace, call_of, layer_of, parallel
from lightning_gradcam.capture.graph import differentiate
from lightning_gradcam.capture.tensors import level_maps
from lightning_gradcam.errors import LayerError


class Captured:
    """The stored activations by layer name, filled by the forward pass inside :func:`capture`.

    Attributes:
        calls: Number of calls, by layer name.
    """

    def __init__(self, names: tuple[str, ...], copies: bool, places: Mapping[str, MapPlace]) -> None:
        self._names = names
        self._copies = copies
        self._places = places
        self._versions: dict[tuple[str, MapPlace], int] = {}
        # For each layer, the feature maps of each call.
        self._stored: dict[str, list[dict[MapPlace, Tensor]]] = {}
        self._beside: dict[str, dict[MapPlace, Tensor]] = {}
        self.calls: dict[str, int] = {}
        self._hooks = ExitStack()

    @property
    def activations(self) -> Mapping[str, Tensor]:
        """Each layer's output, attached to the graph, in the order requested: the first feature map of its last call.

        Raises:
            LayerError: The forward pass never reached one of the layers.
        """
        self._check_reached()
        return {name: next(iter(self._stored[name][-1].values())) for name in self._names}

    @property
    def maps(self) -> Mapping[str, Mapping[MapPlace, Tensor]]:
        """All feature maps at which each layer may be explained, attached to the graph; the preferred one first.

        These are the levels that its last call returned (a pyramid in a dict, list or tuple), followed by those of
        earlier calls whose output did not feed a later call (a head shared by levels, an encoder for two images),
        latest first.

        Raises:
            LayerError: The forward pass never reached one of the layers.
        """
        self._check_reached()
        return {name: self._maps(name) for name in self._names}

    @property
    def overwritten(self) -> bool:
        """Whether the forward pass has changed a stored activation in place; always false with ``copies``."""
        return any(
            tensor._version != self._versions[name, place]
            for name in self._stored
            if not self._copies
            for place, tensor in self._maps(name).items()
        )

    def _maps(self, name: str) -> dict[MapPlace, Tensor]:
        calls = self._stored[name]
        if len(calls) == 1:
            return calls[0]
        if name not in self._beside:
            firsts = [next(iter(call.values())) for call in calls]
            kinds = [(first.dim(), first.shape[:1]) for first in firsts]
            alike = [call for call, kind in zip(calls, kinds, strict=True) if kind == kinds[-1]]
            beside = parallel([list(call.values()) for call in alike])
            self._beside[name] = {place: tensor for call in beside for place, tensor in alike[call].items()}
        return self._beside[name]

    def _check_reached(self) -> None:
        missing = [name for name in self._names if name not in self._stored]
        if not missing:
            return
        if calls := self.calls.get(missing[0]):
            layer = layer_of(missing[0])
            times = {1: "once", 2: "twice"}.get(calls, f"{calls} times")
            named = f"'{layer}#0'" if calls == 1 else f"'{layer}#0' to '{layer}#{calls - 1}'"
            raise LayerError(f"layers: {missing[0]!r}: the forward pass calls {layer!r} {times}; specify {named}")
        reached = ", ".join(self._stored) or "none of the requested layers"
        raise LayerError(
            f"layers: {missing[0]!r} exists, but the forward pass never reached it (reached: {reached}); choose a "
            "layer that the model's forward() calls"
        )

    def unhook(self) -> None:
        """Removes the hooks: later calls, such as those in a second forward pass, are not stored."""
        self._hooks.close()

    def gradients(
        self, scores: Tensor, *, retain_graph: bool = False, create_graph: bool = False
    ) -> dict[str, Tensor | None]:
        """Differentiates the sum of ``scores`` with respect to every layer's activation.

        Args:
            scores: The explained score of each sample, shape ``[N]``. Samples do not mix in evaluation mode, so one
                backward pass from the sum yields each sample's own gradient.
            retain_graph: Whether to keep the graph for another target.
            create_graph: Whether to make the gradients themselves differentiable.

        Returns:
            Gradients by layer name, with the activation's shape and dtype (float32 for float16 activations); ``None``
            if the score does not depend on the layer through the graph.
        """
        activations = self.activations
        # Activation checkpointing reruns modules in the backward pass, where hooks would store a second time.
        self.unhook()
        found = differentiate(scores, list(activations.values()), retain_graph=retain_graph, create_graph=create_graph)
        return dict(zip(activations, found, strict=True))

    def level_gradients(
        self, scores: Tensor, *, retain_graph: bool = False
    ) -> dict[str, dict[MapPlace, Tensor | None]]:
        """Differentiates the sum of ``scores`` with respect to every map of :attr:`maps`.

        If one level was computed from another inside the layer, each receives only the gradient from its direct
        readers.
        """
        maps = self.maps
        self.unhook()
        tensors = [tensor for levels in maps.values() for tensor in levels.values()]
        found = iter(differentiate(scores, tensors, retain_graph=retain_graph))
        return {name: {place: next(found) for place in levels} for name, levels in maps.items()}

    def _store(self, name: str, module: nn.Module, _args: Any, output: Any) -> Any:
        call, at = self.calls.get(name, 0), self._places.get(name)
        self.calls[name] = call + 1
        wanted = call_of(name) if at is None else at.call
        if wanted is not None and call != wanted:
            return None
        found = level_maps(output)
        if found is None:
            raise no_feature_map(name, module, output)
        tensors, rebuilt = found
        # The forward pass needs a graph from here on; everything before the earliest layer ran without one.
        torch.set_grad_enabled(True)
        levels, handed_on = dict[MapPlace, Tensor](), list(tensors)
        for number, tensor in enumerate(tensors):
            if at is not None and number != at.tensor:
                continue
            levels[MapPlace(call, number)] = activation = _attached(tensor, alone=len(tensors) == 1)
            self._versions[name, MapPlace(call, number)] = activation._version
            # Clone, because a later in-place operation would overwrite the stored tensor.
            handed_on[number] = activation.clone() if self._copies else activation
        self._stored.setdefault(name, []).append(levels)
        return rebuilt(handed_on)


def no_feature_map(name: str, module: nn.Module, output: Any) -> LayerError:
    """Returns the error for a layer whose output contains no floating-point tensor."""
    what = type(output).__name__ if not isinstance(output, Tensor) else f"a tensor of {output.dtype}"
    return LayerError(
        f"layers: {name!r} ({type(module).__name__}) returns {what}, not a floating-point feature map; choose a layer"
        " that returns one, such as a convolution or the activation after it"
    )


def _attached(tensor: Tensor, *, alone: bool) -> Tensor:
    """Returns a layer's output, attached to a graph of the operations after the layer."""
    if torch.is_inference_mode_enabled():
        # Operations in the model's own inference mode record no graph, so a gradient would be incomplete; a missing
        # gradient is rejected later. A plain tensor counts its changes and also works outside inference mode.
        with torch.inference_mode(False):
            return tensor.detach().clone()
    # Detach only if it needs no gradient; otherwise a second layer would cut off the first.
    if not tensor.requires_grad:
        return tensor.detach().requires_grad_()
    # One of several levels may have been computed from another inside the layer.
    return tensor if alone else tensor.clone()


@contextmanager
def capture(
    layers: Mapping[str, nn.Module],
    *,
    whole_graph: bool = False,
    copies: bool = True,
    places: Mapping[str, MapPlace] | None = None,
) -> Iterator[Captured]:
    """Hooks ``layers`` for one forward pass; on exit, removes hooks and stored tensors and restores the grad mode.

    Args:
        layers: Modules by name. ``"encoder#0"`` is the first call of ``encoder``. If a module returns several feature
            maps or is called several times, all of them are stored in :attr:`Captured.maps`.
        whole_graph: Whether to record the graph from the input on. By default it starts at the earliest layer, which
            saves most of the time and memory. A model that switches grad mode in its own forward pass may need the
            whole graph.
        copies: Whether the model continues with copies of the stored tensors. Without copies it runs faster, but if an
            in-place operation follows one of the layers, the forward pass raises an error or
            :attr:`Captured.overwritten` becomes true.
        places: The only feature map to store, by layer name; default: all.

    Yields:
        The :class:`Captured` store. Inside the ``with``, run the forward pass, then read activations and gradients from
        it.

    Raises:
        LayerError: A layer's output contains no floating-point tensor; raised during the forward pass.

    Example:
        >>> model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten(), nn.Linear(18, 2))
        >>> with capture({"0": model[0]}) as captured:
        ...     output = model(torch.rand(4, 1, 5, 5))
        ...     gradient = captured.gradients(output[:, 1])["0"]
        >>> tuple(gradient.shape)
        (4, 2, 3, 3)
    """
    captured = Captured(tuple(layers), copies, places or {})
    with ExitStack() as stack:
        stack.enter_context(torch.set_grad_enabled(whole_graph))
        stack.callback(captured._beside.clear)
        stack.callback(captured._stored.clear)
        stack.callback(captured._hooks.close)
        for name, module in layers.items():
            captured._hooks.callback(module.register_forward_hook(partial(captured._store, name)).remove)
        yield captured
