"""A training loss on where the network looks."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import CheckpointError

from lightning_gradcam.capture.graph import differentiate
from lightning_gradcam.capture.layers import AUTO, LayerSpec, check_layers, compiled_layers
from lightning_gradcam.compute.callers import check_module, check_whole, eager
from lightning_gradcam.compute.forward import lay_out
from lightning_gradcam.errors import CaptureError, ConfigurationError, TargetError
from lightning_gradcam.losses import objectives
from lightning_gradcam.losses.asked import asked_of, explained_by
from lightning_gradcam.losses.maps import maps_of
from lightning_gradcam.losses.regions import maps_on, on_grid, over_axes, region_of
from lightning_gradcam.losses.watch import Watch, require_no_inference_mode, sizes_of, watched
from lightning_gradcam.methods.variants import full_precision
from lightning_gradcam.targets import Scored, TargetSpec, check_score
from lightning_gradcam.warn import warn

Objective = Literal["inside", "match", "reasons"]
# The scores of all targets, by name.
Explain = Callable[[], dict[str, Scored]]


class AttentionLoss(nn.Module):
    r"""A loss on where the network looks, computed from the training forward pass without a second one.

    The batch's maps :math:`M` equal those from :func:`~lightning_gradcam.compute_cams` after the ReLU, but they are
    differentiable and computed in the model's current mode. Objectives:

    - ``"inside"``: the share of the evidence outside a mask or box, :math:`1 - \sum_{s \in B} M_s / \sum_s M_s`, with
      the map resized to the image's pixels :math:`s`: 1 minus :func:`~lightning_gradcam.energy_inside`. Rao et al.,
      "Studying How to Efficiently and Effectively Guide Models with Explanations", ICCV 2023 (energy loss).
    - ``"match"``: the distance to reference maps :math:`Q`, for instance from a teacher network or a person,
      :math:`\frac{1}{2} \| M / \|M\| - Q / \|Q\| \|^2`. Zagoruyko and Komodakis, "Paying More Attention to Attention:
      Improving the Performance of Convolutional Neural Networks via Attention Transfer", ICLR 2017, equation 2, squared
      and halved.
    - ``"reasons"``: the squared input gradients outside a mask or box (right for the right reasons),
      :math:`\sum_d ((1 - B_d)\, \partial y / \partial x_d)^2`, with :math:`y = \sum_k \log p_k`. Ross et al., "Right
      for the Right Reasons: Training Differentiable Models by Constraining their Explanations", IJCAI 2017, equation 1.

    The loss is the mean over layers, methods, targets and all samples that count. Samples without a mask, box or map do
    not count, and neither do samples with a blank map (zero everywhere after the ReLU). The first two objectives are
    between 0 and 1; the third grows with the number of pixels.

    The module has no parameters. With ``warm_up``, it counts steps in the buffer ``steps``, which is saved and loaded
    with its state. Otherwise its state is empty, so checkpoints also fit a model without this loss.

    Args:
        layers: The layers, as in :func:`~lightning_gradcam.compute_cams`, with names relative to the watched model.
            ``"reasons"`` uses the input and accepts no layers.
        objective: ``"inside"``, ``"match"`` or ``"reasons"``.
        methods: Names of methods that only use activations and gradients, such as ``"gradcam"``, ``"hirescam"`` or
            ``"layercam"``, including registered ones.
        targets: The targets to explain, as in :func:`~lightning_gradcam.compute_cams`. Default: the true class, and
            with ``"reasons"`` the sum of all classes' log-probabilities. Each additional target costs another backward
            pass.
        score: ``"logit"``, ``"probability"`` or ``"sigmoid"``, as in :func:`~lightning_gradcam.compute_cams`.
        layout: The meaning of a layer's axes, if it can't be detected, as in :func:`~lightning_gradcam.compute_cams`.
        class_names: Names of all classes by index, for targets given by name.
        warm_up: Number of steps over which the loss rises linearly to its full value. A step is a call with a graph in
            training mode. 0 (default): full value from the start.

    Raises:
        ConfigurationError: An argument is invalid.

    Example:
        >>> _ = torch.manual_seed(0)
        >>> model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(36, 3))
        >>> attention = AttentionLoss("1")
        >>> x, y, masks = torch.rand(2, 1, 5, 5), torch.tensor([0, 2]), torch.zeros(2, 5, 5, dtype=torch.bool)
        >>> masks[:, 1:4, 1:4] = True
        >>> with attention.watching(model):
        ...     logits = model(x)
        >>> loss = nn.functional.cross_entropy(logits, y) + 0.5 * attention(logits, y, masks=masks)
        >>> loss.backward()
        >>> bool(model[0].weight.grad.any())
        True
    """

    steps: Tensor

    def __init__(
        self,
        layers: LayerSpec = AUTO,
        objective: Objective = "inside",
        *,
        methods: str | Sequence[str] = "gradcam",
        targets: TargetSpec | Sequence[TargetSpec] | None = None,
        score: str = "logit",
        layout: str | Mapping[str, str] | None = None,
        class_names: Sequence[str] | str | None = None,
        warm_up: int = 0,
    ) -> None:
        super().__init__()
        if objective not in get_args(Objective):
            raise ConfigurationError(
                f"objective: got {objective!r}; valid: {', '.join(map(repr, get_args(Objective)))}"
            )
        specs = check_layers(layers)
        if objective == "reasons" and specs != [AUTO]:
            raise ConfigurationError(
                f"layers: got {layers!r:.80}, but 'reasons' differentiates with respect to the input and uses no "
                "layer; leave layers out, or use objective='inside'"
            )
        check_whole("warm_up", warm_up, 0)
        self.objective, self.warm_up, self._score = objective, warm_up, check_score(score)
        # In a tuple, because a module set as an attribute would become a submodule.
        self._layers: tuple[str | nn.Module, ...] | None = None if objective == "reasons" else tuple(specs)
        self._asked = asked_of(objective, methods, targets, layout, class_names)
        if warm_up:
            self.register_buffer("steps", torch.zeros((), dtype=torch.int64))
        self._watch: Watch | None = None
        self._found: list[str] = []
        self._laid_out: dict[Any, Any] = {}
        self._first = self._begins = True
        self._attends: bool | None = None

    @contextmanager
    def watching(self, model: nn.Module) -> Iterator[AttentionLoss]:
        """Watches one forward pass of a model; run the model as usual inside the ``with``.

        Hooks are removed when the ``with`` ends, even after an exception. Under ``no_grad``, the graph starts at the
        earliest layer. Attention (``scaled_dot_product_attention``) uses the kernel with second derivatives; a warning
        reports this once. Modules compiled by ``torch.compile`` run uncompiled inside, because compiled code has no
        second derivatives; a warning reports this as well. You may call parts of the model instead of the model itself
        (``self.net(x)`` in a watched LightningModule).

        Args:
            model: The model to which layer names refer; in a LightningModule, ``self``.

        Raises:
            ConfigurationError: The model is not a module, or inference mode is active.
            LayerError: A layer does not exist, or the forward pass did not reach it.
        """
        check_module(model, "whose forward is watched")
        require_no_inference_mode()
        self._watch = None
        first, self._first = self._first, False
        if first and (compiled := compiled_layers(model)):
            warn(
                f"AttentionLoss: {', '.join(name or type(model).__name__ for name in compiled[:3])} was compiled by"
                " torch.compile, whose code has no second derivatives, so it runs uncompiled inside watching()"
            )
        layers, unknown = self._layers, self._attends is None and torch.is_grad_enabled()
        with eager(model), watched(model, layers, self._asked, found=self._found, first=first, ask=unknown) as watch:
            yield self
        self._attends = watch.attends if unknown else self._attends
        if watch.attends:
            warn(
                "AttentionLoss: fused attention kernels have no second derivatives, so attention runs as plain "
                "operations inside watching(), which takes more memory and rounds differently"
            )
        self._watch = watch

    def forward(
        self,
        output: Any,
        labels: Tensor | None = None,
        *,
        masks: Tensor | None = None,
        boxes: Tensor | None = None,
        maps: Tensor | Mapping[str, Tensor] | None = None,
        inputs: Tensor | None = None,
    ) -> Tensor:
        """Returns the loss for the last watched forward pass; each one can be used only once.

        Args:
            output: The unchanged output from the watched forward pass, such as logits ``[N, C]``.
            labels: True classes ``[N]``, or 0/1 for each class ``[N, C]``.
            masks: The region where the evidence should be, bool ``[N, H, W]`` at the image's size (for volumes and
                clips also ``[N, D, H, W]``, for signals ``[N, L]``). A sample whose mask is false everywhere does not
                count.
            boxes: The same region as one box per sample, ``[N, 4]``: left, top, right, bottom in pixels. A sample with
                NaN does not count.
            maps: The reference maps for ``"match"``: ``[N, h, w]`` at any resolution, or a dict of these by layer. Only
                positive values count; a sample with NaN does not count.
            inputs: The images, exactly the tensor passed to the model. Needed if only parts of the model were called,
                or if it was called several times.

        Returns:
            The scalar loss in float32 (float64 if the model runs in it). Under ``no_grad``, it has no graph and no
            warm-up.

        Raises:
            CaptureError: No forward pass was watched, or no gradient reaches a layer or the input.
            ConfigurationError: Masks, boxes, maps or inputs have the wrong form, or inference mode is active.
            TargetError: A target does not fit the output or the labels.
        """
        watch, self._watch = self._watch, None
        require_no_inference_mode()
        if watch is None:
            raise CaptureError(
                "AttentionLoss: no forward pass was watched; run logits = model(x) in `with "
                "attention.watching(model):` before each call of attention(logits, labels, …)"
            )
        if labels is None and any(target.name == "label" for target in self._asked.targets):
            raise TargetError(
                "labels: got none, but the loss explains the true class; call attention(logits, labels, …)"
            )
        graph = torch.is_grad_enabled()
        device = next(
            (u.activation.device for u in watch.units.values()), getattr(output, "device", torch.device("cpu"))
        )
        explain = partial(explained_by, self._asked.targets, self._score, output, labels, masks)
        with torch.enable_grad(), torch.autocast(device.type, enabled=False):
            try:
                if self.objective == "reasons":
                    value = self._of_input(watch, explain, masks, boxes, inputs, graph=graph)
                else:
                    value = self._of_maps(watch, explain, masks, boxes, maps, inputs, graph=graph)
            except CheckpointError as error:
                raise CaptureError(
                    "AttentionLoss: a checkpointed part of the model used a different attention kernel when it was"
                    " recomputed; turn fused kernels off for the whole training"
                    " (torch.backends.cuda.enable_flash_sdp(False), also on CPUs, and enable_mem_efficient_sdp(False)),"
                    " or turn checkpointing off"
                ) from error
        if not graph:
            return value.detach()
        if self.warm_up and self.training:
            self.steps += 1
            value = value * (self.steps / self.warm_up).clamp(max=1).to(value)
        return value

    def extra_repr(self) -> str:
        """Returns the options shown between the parentheses of the module's ``repr``."""
        names = "" if self._layers is None else f"{', '.join(map(str, self._layers))}, "
        return f"{names}objective={self.objective!r}, methods={', '.join(self._asked.methods)}"

    def _of_maps(
        self, watch: Watch, explain: Explain, masks: Any, boxes: Any, given: Any, inputs: Tensor | None, *, graph: bool
    ) -> Tensor:
        picture = watch.picture if inputs is None else inputs
        self._lay_out(watch)
        inside = self.objective == "inside"
        unused = {"maps": given} if inside else {"boxes": boxes, "masks": masks}
        if wrong := next((name for name, value in unused.items() if value is not None), ""):
            raise ConfigurationError(
                f"{wrong}: {self.objective!r} does not use them; pass {'masks= or boxes=' if inside else 'maps='}, or"
                " choose another objective"
            )
        found, shown = [], []
        for layer, maps in maps_of(watch, explain(), graph=graph):
            if inside:
                region, known = region_of(masks, boxes, maps, sizes_of(picture), layer)
                losses, counted = objectives.share_outside(maps, *on_grid(region, maps.shape[1:]))
                counted = counted & known
            else:
                own = given.get(layer) if isinstance(given, Mapping) else given
                losses, counted = objectives.distance(maps, maps_on(own, maps, layer))
            shown.append(maps.detach().any())
            found.append(objectives.mean_of(losses, counted))
        # Only once, because it waits for the device.
        if self._begins and not bool(torch.stack(shown).any()):
            warn(
                f"AttentionLoss: every map of the first batch is blank at {', '.join(map(repr, watch.modules))}, so "
                "the loss has no evidence to move. A zero-initialised head causes this for a few steps; if it "
                "persists, choose an earlier layer, or use methods='layercam'"
            )
        self._begins = False
        return torch.stack(found).mean()

    def _of_input(
        self, watch: Watch, explain: Explain, masks: Any, boxes: Any, inputs: Tensor | None, *, graph: bool
    ) -> Tensor:
        picture, leaf = watch.entered(inputs)
        explained = explain()
        inside, known = region_of(masks, boxes, full_precision(picture.detach()), sizes_of(picture))
        outside = over_axes(1 - inside, picture.shape)
        found = []
        for scored in explained.values():
            (gradient,) = differentiate(scored.scores, [leaf], retain_graph=True, create_graph=graph)
            if gradient is None:
                raise CaptureError(
                    "inputs: no gradient reaches the input from the score: a part of the model runs in its own"
                    " torch.no_grad() or before a detach(); use objective='inside' at a layer after it"
                )
            found.append(objectives.mean_of(objectives.gradients_outside(full_precision(gradient), outside), known))
        return torch.stack(found).mean()

    def _lay_out(self, watch: Watch) -> None:
        """Finds the layouts once per shape, because this may need a survey of the model."""
        picture = watch.picture
        shapes = tuple((name, tuple(unit.activation.shape)) for name, unit in watch.units.items())
        key = shapes, None if picture is None else tuple(picture.shape)
        if key not in self._laid_out:
            lay_out(watch, watch.units, watch.modules)
            self._laid_out[key] = {name: (unit.layout, unit.error) for name, unit in watch.units.items()}
        for name, (layout, error) in self._laid_out[key].items():
            watch.units[name].layout, watch.units[name].error = layout, error
