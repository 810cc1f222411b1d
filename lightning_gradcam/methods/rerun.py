"""The handle through which methods rerun the model without knowing its modules."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from itertools import count
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import CheckpointError

from lightning_gradcam.capture.activations import Captured, capture
from lightning_gradcam.capture.graph import differentiate, require_gradients
from lightning_gradcam.capture.inputs import InputForm, with_gradient
from lightning_gradcam.capture.overrides import attention_maps, biased_outputs, guided_relus
from lightning_gradcam.capture.tensors import level_maps
from lightning_gradcam.errors import MethodError
from lightning_gradcam.methods.variants import RerunLayer, RerunModel, full_precision, refused
from lightning_gradcam.targets import Scored
from lightning_gradcam.targets.base import class_logits

ScoreOf = Callable[[Tensor, Tensor], Tensor]


class Rerun:
    """Runs the model again with each target's choices (class, region, box) fixed.

    ``T``, ``N`` and ``V`` are the numbers of targets, samples and variants; ``S`` is the layer's spatial shape.

    Args:
        model: The model to run, with its inputs and targets.
        at: The explained layer; ``None`` for methods that explain the model as a whole.
    """

    def __init__(self, model: RerunModel, at: RerunLayer | None = None) -> None:
        self._model, self._layer = model, at
        self._targets = list(model.explained.values())
        # If a layer's map has no time axis, interpret the input by its shape alone.
        plain = at is not None and len(at.layout.grid) > 1 and not at.layout.fold
        self._form = InputForm(model.inputs.picture, "" if plain else model.axes)
        self.layer = "model" if at is None else at.name

    @property
    def picture(self) -> Tensor:
        """The model's input as floating-point ``[N, C, …]``; a copy that may be modified."""
        return self._form.seen(self._form.own).clone()

    @property
    def places(self) -> torch.Size:
        """The input's spatial shape.

        Raises:
            MethodError: The input is not an image.
        """
        self._form.require(gradient=False)
        return self._form.seen(self._form.own).shape[2:]

    @property
    def activations(self) -> Tensor:
        """The layer's feature map ``[N, C, *S]``, at least float32; a copy that may be modified."""
        return self._map(self._at.activation).clone()

    @property
    def scores(self) -> Tensor:
        """The explained scores ``[T, N]``."""
        return torch.stack([full_precision(e.scores.detach()) for e in self._targets])

    @property
    def precision(self) -> float:
        """The relative tolerance for two computations of the same score, given the model's precision."""
        dtypes = {self._at.activation.dtype, *(e.scores.dtype for e in self._targets)}
        if dtypes & {torch.float16, torch.bfloat16}:
            return 5e-2
        return 1e-8 if dtypes == {torch.float64} else 1e-3

    @property
    def classes(self) -> Tensor:
        """The explained classes ``[T, N]``; -1 if there is none."""
        return torch.stack([e.classes for e in self._targets])

    def on_pictures(self, pictures: Iterable[Tensor]) -> Tensor:
        """Scores the model on other images.

        Args:
            pictures: Variants ``[N, C, …]`` of the input, consumed lazily. For a model with integer inputs, they are
                rounded and clipped to the dtype's range.

        Returns:
            The scores of all targets and samples for each variant, ``[V, T, N]``.
        """
        return self._model.scores_of((self._form.restored(picture), None) for picture in pictures)

    def on_activations(self, feature_maps: Iterable[Tensor]) -> Tensor:
        """Scores the model with the layer's feature maps replaced.

        Args:
            feature_maps: Variants ``[N, C, *S]``, consumed lazily.

        Returns:
            The scores of all targets and samples for each variant, ``[V, T, N]``.
        """
        return self._model.scores_of(((self._form.own, other) for other in feature_maps), self._replaced)

    def gradients(self, picture: Tensor | None = None, score: ScoreOf | None = None) -> Tensor:
        """Differentiates at the layer, optionally for a different image or score.

        Args:
            picture: The image to use instead of the input, ``[N, C, …]``.
            score: Maps the scores of all classes ``[N, K]`` and the explained classes ``[N]`` to the scores to
                differentiate, ``[N]``; default: the targets' own.

        Returns:
            The gradients, ``[T, N, C, *S]``.

        Raises:
            MethodError: ``score`` is given but a target does not explain exactly one class.
        """
        with self._captured() as captured:
            output = self._model.forward(self._form.own if picture is None else self._form.restored(picture))
            found = []
            for explained in self._targets:
                scores = explained.again(output, 1) if score is None else score(*self._of_classes(output, explained))
                more = explained is not self._targets[-1]
                found.append(self._map(self._gradient(captured, scores, retain_graph=more)))
        return torch.stack(found)

    def curvature(self) -> tuple[Tensor, Tensor]:
        """Differentiates twice at the layer.

        Returns:
            The gradient ``g`` and the product ``H a`` of the Hessian with the activation, both ``[T, N, C, *S]``; the
            product is 0 if the score is linear in the layer.
        """
        gradients, products = [], []
        for explained in self._targets:
            # The fused attention kernels have no second derivative.
            with plain_attention(), self._captured() as captured:
                scores = explained.again(self._model.forward(self._form.own), 1)
                gradient = self._gradient(captured, scores, create_graph=True)
                activation = captured.activations[self.layer]
                product = None
                if gradient.requires_grad:
                    (product,) = differentiate(gradient * activation.detach(), [activation])
                gradients.append(self._map(gradient.detach()))
                products.append(self._map(torch.zeros_like(activation) if product is None else product.detach()))
        return torch.stack(gradients), torch.stack(products)

    def picture_gradients(self, *, guided: bool = False) -> Tensor:
        """Differentiates with respect to the input.

        Args:
            guided: Whether ReLUs and similar activations propagate only positive gradients (guided backpropagation).

        Returns:
            The gradients, ``[T, N, C, …]``.

        Raises:
            MethodError: ``guided`` is true but the model has no such activation, or the input is not a floating-point
                image.
        """
        self._form.require(gradient=True)
        found = []
        for explained in self._targets:
            picture = with_gradient(self._form.own)
            with torch.enable_grad(), guided_relus() if guided else nullcontext([1]) as met:
                scores = explained.again(self._model.forward(picture), 1)
                (gradient,) = differentiate(scores, [picture])
            if not met:
                raise refused(
                    "guided backpropagation changes how ReLU, ReLU6, LeakyReLU, SiLU, GELU and Hardswish pass "
                    "gradients back, but this model runs none of them"
                )
            if gradient is None:
                raise MethodError(
                    "methods: no gradient reaches the input: a part of the model runs in its own torch.no_grad() or "
                    "before a detach(); use gradcam or layercam at a layer after it"
                )
            found.append(full_precision(self._form.seen(gradient)))
        return torch.stack(found)

    def bias_gradients(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Differentiates at every convolution and batch norm with a bias, with one forward pass.

        Yields:
            The bias ``[C]`` (for a batch norm, its total offset in evaluation mode) and the gradients ``[T, N, C, *S]``
            at the layer's output.
        """
        picture = with_gradient(self._form.own)
        with torch.enable_grad():
            with biased_outputs(self._model.module) as outputs:
                output = self._model.forward(picture)
            values = [value for _, value in outputs]
            found = [differentiate(e.again(output, 1), values, retain_graph=True) for e in self._targets]
        for (bias, value), gradients in zip(outputs, zip(*found, strict=True), strict=True):
            slopes = [torch.zeros_like(value) if gradient is None else gradient for gradient in gradients]
            yield full_precision(bias), full_precision(torch.stack(slopes))

    def attention(self) -> tuple[Tensor, Tensor]:
        """Differentiates with respect to the last attention weights in the layer or its parts.

        Returns:
            The attention ``[N, heads, queries, keys]``, and its gradients ``[T, N, heads, queries, keys]``.

        Raises:
            MethodError: The layer has no attention.
        """
        paid: list[Tensor] = []
        with torch.enable_grad(), attention_maps(self._at.module) as maps:
            with self._hooked(lambda _: paid.extend(maps[-1:])):
                output = self._model.forward(with_gradient(self._form.own))
            if not paid:
                raise MethodError(
                    f"methods: 'legrad' needs attention, but layer {self.layer!r} has none; choose a transformer block"
                    " or its attention, or use gradcam, hirescam or layercam here"
                )
            try:
                found = [differentiate(e.again(output, 1), paid, retain_graph=True)[0] for e in self._targets]
            except CheckpointError:
                raise refused(
                    f"'legrad' can't follow the attention of layer {self.layer!r}, which the model recomputes in the "
                    "backward pass; turn activation checkpointing off"
                ) from None
        if any(gradient is None for gradient in found):
            raise MethodError(
                f"methods: 'legrad' finds no gradient at the attention of layer {self.layer!r}; choose a layer that "
                "the score depends on"
            )
        return full_precision(paid[0].detach()), full_precision(torch.stack([g for g in found if g is not None]))

    def tokens_to_map(self, tokens: Tensor) -> Tensor:
        """Arranges one value for each token, ``[T, N, L]``, on the layer's grid: ``[T, N, *S]``.

        Raises:
            MethodError: The attention does not run over the layer's own tokens.
        """
        length = self._at.layout.tokens
        if tokens.shape[2] != length or tokens.shape[1] != self._model.inputs.samples:
            raise refused(
                f"'legrad' needs attention over the whole image; layer {self.layer!r} attends to {tokens.shape[2]}"
                f" tokens in {tokens.shape[1]} windows, and its output has {length} per sample"
            )
        return self._at.layout.of_grid(tokens)

    @property
    def _at(self) -> RerunLayer:
        assert self._layer is not None
        return self._layer

    def _captured(self) -> AbstractContextManager[Captured]:
        places = {self.layer: self._at.place}
        return capture({self.layer: self._at.module}, whole_graph=self._model.whole_graph, places=places)

    def _gradient(self, captured: Captured, scores: Tensor, **options: bool) -> Tensor:
        return require_gradients(captured.gradients(scores, **options))[self.layer]

    def _map(self, values: Tensor) -> Tensor:
        return full_precision(self._at.layout.feature_map(values))

    def _of_classes(self, output: Any, explained: Scored) -> tuple[Tensor, Tensor]:
        if not explained.of_classes:
            raise MethodError(
                "methods: this method compares one class with the others, but a target is not a single class (a "
                "contrast, several labels per sample, a callable, a number); use gradcam for that target"
            )
        return class_logits(output, explained.kind), explained.classes

    def _replaced(self, feature_maps: Tensor) -> AbstractContextManager[Any]:
        number = self._at.place.tensor

        def replace(output: Any) -> Any:
            if (found := level_maps(output)) is None:
                return None
            tensors, rebuilt = found
            tensors[number] = self._at.layout.restored(feature_maps.to(tensors[number].dtype), tensors[number])
            return rebuilt(tensors)

        return self._hooked(replace)

    def _hooked(self, act: Callable[[Any], Any]) -> AbstractContextManager[Any]:
        """Hooks the layer; if it is called several times, ``act`` receives the output of the explained call."""
        calls = count()

        def hook(_module: nn.Module, _args: Any, output: Any) -> Any:
            return act(output) if next(calls) == self._at.place.call else None

        return self._at.module.register_forward_hook(hook)


def plain_attention() -> AbstractContextManager[Any]:
    """Returns a context in which attention uses operations with second derivatives."""
    from torch.nn.attention import SDPBackend, sdpa_kernel

    return sdpa_kernel(SDPBackend.MATH)
