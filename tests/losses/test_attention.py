"""`AttentionLoss` in training: what it leaves alone, where it works, and what it refuses."""

from __future__ import annotations

import copy
import re
import warnings
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from torch.utils.data import DataLoader, TensorDataset

from lightning_gradcam import (
    AttentionLoss,
    CaptureError,
    ConfigurationError,
    LayerError,
    MethodError,
    TargetError,
    compute_cams,
    energy_inside,
)
from tests.conftest import TinyModule, tiny_data, trainer
from tests.losses.models import Signal, Smooth, Tokens, batch, halves

cross_entropy = nn.functional.cross_entropy


def masked(count: int = 24) -> DataLoader[Any]:
    images, labels = tiny_data(count).tensors
    return DataLoader(TensorDataset(images, labels, halves(8, 8, samples=count)), 8)


class Guided(TinyModule):
    """`TinyModule` (batch norm, dropout, an in-place ReLU) with the loss at a weight; `None`: without it."""

    def __init__(self, weight: float | None, layers: Any = ("net.relu1", "net.conv2"), **options: Any) -> None:
        super().__init__()
        self.weight = weight
        self.attention = None if weight is None else AttentionLoss(list(layers), **options)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        images, labels, masks = batch
        if self.attention is None:
            return cross_entropy(self(images), labels)
        with self.attention.watching(self):
            logits = self(images)
        value = self.attention(logits, labels, masks=masks)
        self.log("attention", value)
        return cross_entropy(logits, labels) + self.weight * value

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        pass


def fitted(root: Path, model: pl.LightningModule, **options: Any) -> pl.Trainer:
    fit = trainer(root, limit_val_batches=0, **options)
    fit.fit(model, masked())
    return fit


def hooks(model: nn.Module) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())


# ---- training


def test_weight_0_leaves_training_bit_identical(tmp_path: Path) -> None:
    found = []
    for weight in (None, 0.0, 1.0):
        pl.seed_everything(7, verbose=False)
        model = Guided(weight)
        fitted(tmp_path, model)
        found.append({**model.state_dict(), "random": torch.rand(3)})
    assert found[0].keys() == found[1].keys()
    assert all(torch.equal(found[0][name], found[1][name]) for name in found[0])
    assert not torch.equal(found[0]["net.conv1.weight"], found[2]["net.conv1.weight"])


def test_the_maps_move_to_the_mask_in_a_fit(tmp_path: Path) -> None:
    pl.seed_everything(1, verbose=False)
    model = Guided(5.0, ["net.relu2"], methods="hirescam")
    images, labels = tiny_data(24).tensors

    def inside() -> float:
        maps = compute_cams(model, images, "net.relu2", methods="hirescam", targets="label", labels=labels)
        return float(energy_inside(next(iter(maps.maps.values())), halves(8, 8, samples=24)).nanmean())

    before = inside()
    fitted(tmp_path, model, max_epochs=8)
    assert before < 0.65
    assert inside() > before + 0.15


@pytest.mark.parametrize(
    "options", [{"precision": "bf16-mixed"}, {"accumulate_grad_batches": 2, "gradient_clip_val": 1.0}], ids=str
)
def test_a_fit_in_bf16_and_with_accumulation_reaches_all_parameters(tmp_path: Path, options: dict[str, Any]) -> None:
    pl.seed_everything(1, verbose=False)
    model = Guided(1.0)
    before = copy.deepcopy(model.state_dict())
    fit = fitted(tmp_path, model, max_epochs=1, **options)
    assert 0 < float(fit.callback_metrics["attention"]) < 1
    moved = {n: not torch.equal(v, before[n]) for n, v in model.state_dict().items() if v.is_floating_point()}
    assert all(moved.values()), moved


def test_autocast_in_bf16_gives_a_loss_in_full_precision() -> None:
    torch.manual_seed(0)
    model, (x, y) = Smooth(), batch(1, 6, 6, dtype=torch.float32)
    values = []
    for enabled in (False, True):
        attention = AttentionLoss("act")
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            with attention.watching(model):
                logits = model(x)
            values.append(attention(logits, y, masks=halves(6, 6)))
            assert logits.dtype == (torch.bfloat16 if enabled else torch.float32)
        values[-1].backward()
    assert values[1].dtype == torch.float32
    assert float(values[1].detach()) == pytest.approx(float(values[0].detach()), rel=0.02)


class Recomputed(Smooth):
    """Checkpoints the part that holds the layer, and the part after it."""

    def forward(self, x: Tensor) -> Tensor:
        inner = checkpoint(lambda v: self.act(self.norm(self.conv(v))), x, use_reentrant=False)
        return checkpoint(self.head, inner, use_reentrant=False)


@pytest.mark.parametrize("frozen", [False, True])
def test_checkpointing_and_frozen_parts_change_no_gradient(frozen: bool) -> None:
    found = []
    for kind in (Smooth, Recomputed):
        torch.manual_seed(0)
        model, (x, y) = kind().double(), batch(1, 6, 6)
        model.conv.requires_grad_(not frozen)
        attention = AttentionLoss(["act", "head.0"])
        with attention.watching(model):
            logits = model(x)
        assert hooks(model) == 0
        (cross_entropy(logits, y) + attention(logits, y, masks=halves(6, 6))).backward()
        found.append({name: p.grad for name, p in model.named_parameters()})
    for name, gradient in found[0].items():
        assert (gradient is None) == (frozen and name.startswith("conv."))
        assert gradient is None or torch.allclose(gradient, found[1][name], rtol=1e-9, atol=1e-12), name


def test_under_no_grad_the_value_is_the_same_without_a_graph() -> None:
    model, (x, y) = Smooth().double().eval(), batch(1, 6, 6)
    for attention in (AttentionLoss("act", warm_up=4), AttentionLoss(objective="reasons")):
        plain = []
        for enabled in (True, False):
            with torch.set_grad_enabled(enabled):
                with attention.eval().watching(model):
                    logits = model(x)
                plain.append(attention(logits, y, masks=halves(6, 6)))
                assert torch.is_grad_enabled() == enabled
        assert plain[0].requires_grad
        assert not plain[1].requires_grad
        assert float(plain[0].detach()) == float(plain[1])
        assert not any(p.grad is not None for p in model.parameters())


def test_hooks_and_kernels_are_as_before_after_the_with_and_after_an_exception() -> None:
    model, (x, _) = Smooth().double(), batch(1, 6, 6)
    for attention in (AttentionLoss("act"), AttentionLoss(), AttentionLoss(objective="reasons")):
        with attention.watching(model):
            assert hooks(model) > 0
            model(x)
            assert not torch.backends.cuda.flash_sdp_enabled()
        assert hooks(model) == 0
        with pytest.raises(ZeroDivisionError), attention.watching(model):
            model(x)
            raise ZeroDivisionError
        assert hooks(model) == 0
        assert torch.backends.cuda.flash_sdp_enabled()
        # What an exception has ended serves no call.
        with pytest.raises(CaptureError, match="no forward pass was watched"):
            attention(model(x), torch.zeros(4, dtype=torch.long), masks=halves(6, 6))


def test_a_sample_without_a_mask_has_no_share_in_the_loss() -> None:
    torch.manual_seed(0)
    model, (x, y) = Smooth().double().eval(), batch(1, 6, 6)
    attention, values = AttentionLoss("act"), []
    for count in (4, 3):
        with attention.watching(model):
            logits = model(x[:count])
        values.append(float(attention(logits, y[:count], masks=halves(6, 6)[:count]).detach()))
    assert values[0] == pytest.approx(values[1], abs=1e-12)
    with attention.watching(model):
        logits = model(x)
    value = attention(logits, y, masks=torch.zeros(4, 6, 6, dtype=torch.bool))
    value.backward()
    assert float(value.detach()) == 0
    assert not model.conv.weight.grad.any()


def test_several_layers_methods_and_targets_are_averaged() -> None:
    model, (x, y) = Smooth().double().eval(), batch(1, 6, 6)

    def value(layers: Any, **options: Any) -> float:
        attention = AttentionLoss(layers, **options)
        with attention.watching(model):
            logits = model(x)
        return float(attention(logits, y, masks=halves(6, 6)).detach())

    both = value(["conv", "act"], methods=["gradcam", "hirescam"], targets=["label", 0])
    parts = [
        value(layer, methods=method, targets=target)
        for layer in ("conv", "act")
        for method in ("gradcam", "hirescam")
        for target in ("label", 0)
    ]
    assert both == pytest.approx(sum(parts) / 8, abs=1e-12)


def test_the_warm_up_rises_in_steps_and_is_saved_with_the_state() -> None:
    model, (x, y) = Smooth().double().eval(), batch(1, 6, 6)
    attention = AttentionLoss("act", warm_up=4)

    def value(loss: AttentionLoss) -> float:
        with loss.watching(model):
            logits = model(x)
        return float(loss(logits, y, masks=halves(6, 6)).detach())

    whole = value(AttentionLoss("act"))
    assert [value(attention) / whole for _ in range(2)] == pytest.approx([0.25, 0.5])
    resumed = AttentionLoss("act", warm_up=4)
    resumed.load_state_dict(attention.state_dict())
    assert [value(resumed) / whole for _ in range(3)] == pytest.approx([0.75, 1.0, 1.0])
    assert list(AttentionLoss("act").state_dict()) == []
    assert list(resumed.parameters()) == []


# ---- layers, layouts, targets, methods


def test_auto_and_tokens_are_found_as_in_compute_cams_with_one_look() -> None:
    for kind, shape, masks in ((Tokens, (1, 9, 9), halves(9, 9)), (Signal, (2, 12), halves(12))):
        torch.manual_seed(0)
        model, (x, y) = kind().double().eval(), batch(*shape)
        calls: list[int] = []
        model.register_forward_hook(lambda *_, calls=calls: calls.append(1))
        attention = AttentionLoss()
        for _ in range(2):
            del calls[:]
            with attention.watching(model):
                logits = model(x)
            value = attention(logits, y, masks=masks)
        assert len(calls) == 1
        cams = compute_cams(model, x, targets="label", labels=y)
        ((key, maps),) = cams.maps.items()
        assert attention._found == [key.layer]
        if maps.dim() == 3:
            torch.testing.assert_close(value.detach(), 1 - energy_inside(maps, masks).nanmean())
        else:
            share = nn.functional.interpolate(maps[:, None], 12, mode="linear")[:, 0]
            known = share[:3]
            torch.testing.assert_close(value.detach(), 1 - ((known * masks[:3]).sum(1) / known.sum(1)).nanmean())


def test_a_part_that_is_called_instead_of_the_model_is_found() -> None:
    class Outer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net, self.attention = Tokens().double(), AttentionLoss("net.block")

        def step(self, x: Tensor, y: Tensor) -> Tensor:
            with self.attention.watching(self):
                logits = self.net(x)
            return self.attention(logits, y, masks=halves(9, 9), inputs=x)

    x, y = batch(1, 9, 9)
    assert 0 < float(Outer().step(x, y).detach()) < 1


def test_a_part_may_take_an_integer_image_and_a_single_number() -> None:
    class Scaled(nn.Conv2d):
        def forward(self, image: Tensor, scale: Tensor) -> Tensor:
            return super().forward(image * scale).tanh()

    class Body(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = Scaled(1, 3, 3, padding=1)

        def forward(self, image: Tensor, scale: Tensor) -> Tensor:
            return self.conv(image, scale).mean((2, 3))

    model, image = nn.ModuleDict({"body": Body()}), torch.arange(72, dtype=torch.uint8).reshape(2, 1, 6, 6)
    attention = AttentionLoss("body.conv")
    with attention.watching(model):
        logits = model["body"](image, torch.tensor(1 / 255))
    assert bool(attention(logits, torch.tensor([0, 1]), masks=halves(6, 6, samples=2)).isfinite())


def test_fused_attention_is_replaced_and_reported_once() -> None:
    model, (x, y) = Tokens().double(), batch(1, 9, 9)
    attention = AttentionLoss("block")
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        with torch.no_grad(), attention.watching(model):
            model(x)
        assert not found
        for _ in range(2):
            with attention.watching(model):
                logits = model(x)
            attention(logits, y, masks=halves(9, 9)).backward()
    texts = [str(w.message) for w in found if "fused attention" in str(w.message)]
    assert len(texts) == 1
    assert "second derivatives" in texts[0]
    assert model.last.self_attn.in_proj_weight.grad.any()


def test_a_compiled_model_runs_uncompiled_and_that_is_reported() -> None:
    torch.manual_seed(0)
    plain, (x, y) = Smooth().double().eval(), batch(1, 6, 6)
    values = []
    for model in (plain, torch.compile(copy.deepcopy(plain), backend="eager")):
        attention = AttentionLoss("act")
        with warnings.catch_warnings(record=True) as found:
            warnings.simplefilter("always")
            with attention.watching(model):
                logits = model(x)
            values.append(attention(logits, y, masks=halves(6, 6)))
        assert any("torch.compile" in str(w.message) for w in found) == (model is not plain)
        values[-1].backward()
    assert float(values[0].detach()) == float(values[1].detach())


def test_a_module_that_is_compiled_as_a_whole_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="compile only the network inside it"):
        fitted(tmp_path, torch.compile(Guided(1.0), backend="eager"), max_epochs=1)


class RecomputedTokens(Tokens):
    def forward(self, x: Tensor) -> Tensor:
        tokens = self.patches(x).flatten(2).transpose(1, 2)
        tokens = self.block(torch.cat([self.first.expand(len(x), -1, -1), tokens], 1))
        return self.head(checkpoint(self.last, tokens, use_reentrant=False)[:, 0])


def test_recomputed_attention_needs_fused_kernels_off_throughout() -> None:
    model, (x, y) = RecomputedTokens().double(), batch(1, 9, 9)
    attention = AttentionLoss("block")
    with attention.watching(model):
        logits = model(x)
    with pytest.raises(CaptureError, match=re.escape("enable_flash_sdp(False)")):
        attention(logits, y, masks=halves(9, 9))
    torch.backends.cuda.enable_flash_sdp(False)
    try:
        with attention.watching(model):
            logits = model(x)
        attention(logits, y, masks=halves(9, 9)).backward()
    finally:
        torch.backends.cuda.enable_flash_sdp(True)
    assert model.last.self_attn.in_proj_weight.grad.any()


def test_all_blank_maps_of_the_first_batch_are_reported() -> None:
    model, (x, y) = Smooth().double(), batch(1, 6, 6)
    nn.init.zeros_(model.head[3].weight)
    attention = AttentionLoss("act")
    with attention.watching(model):
        logits = model(x)
    with pytest.warns(UserWarning, match="every map of the first batch is blank at 'act'"):
        value = attention(logits, y, masks=halves(6, 6))
    value.backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())


# ---- errors


def call(options: dict[str, Any], **given: Any) -> Tensor:
    model, (x, y) = Smooth().double(), batch(1, 6, 6)
    attention = AttentionLoss(**options)
    with attention.watching(model):
        logits = model(x)
    return attention(logits, given.pop("labels", y), **given)


@pytest.mark.parametrize(
    ("options", "given", "error", "text"),
    [
        ({"layers": "actt"}, {}, LayerError, "layer 'actt' not found; did you mean 'act'?"),
        (
            {"layers": "act"},
            {"masks": halves(5, 5)},
            ConfigurationError,
            r"masks: got shape \[4, 5, 5\] for images of 6x6",
        ),
        ({"layers": "act"}, {"masks": halves(6, 6)[:2]}, TargetError, r"masks: got shape \[2, 6, 6\] for 4 inputs"),
        ({"layers": "act"}, {"masks": torch.ones(4, 6, 6)}, ConfigurationError, "pass a bool tensor"),
        ({"layers": "act"}, {}, ConfigurationError, "masks: got neither masks nor boxes"),
        ({"layers": "act"}, {"boxes": torch.ones(4, 3)}, ConfigurationError, r"boxes: got .* pass a tensor \[N, 4\]"),
        ({"layers": "act"}, {"maps": torch.ones(4, 6, 6)}, ConfigurationError, "maps: 'inside' does not use them"),
        ({"layers": "act", "objective": "match"}, {}, ConfigurationError, "maps: got"),
        (
            {"layers": "act", "objective": "match"},
            {"maps": torch.ones(4, 6, 18)},
            ConfigurationError,
            "whose proportions differ from",
        ),
        ({"layers": "act"}, {"labels": None}, TargetError, "labels: got none"),
        ({"layers": "act", "objective": "outside"}, {}, ConfigurationError, "valid: 'inside', 'match', 'reasons'"),
        ({"layers": "act", "objective": "reasons"}, {}, ConfigurationError, "uses no layer"),
        ({"layers": "act", "methods": "scorecam"}, {}, MethodError, "'scorecam' reruns the model"),
        ({"objective": "reasons"}, {"inputs": torch.ones(4, 1, 6, 6)}, ConfigurationError, "inputs: the watched"),
        ({"layers": "act", "warm_up": -1}, {}, ConfigurationError, "warm_up: got -1"),
    ],
)
def test_what_does_not_fit_is_named(options: Any, given: Any, error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text) as found:
        call(options, **given)
    assert len(str(found.value)) <= 500


def test_inference_mode_a_second_call_and_an_unreached_layer_are_refused() -> None:
    model, (x, y) = Smooth().double(), batch(1, 6, 6)
    attention = AttentionLoss("act")
    with torch.inference_mode(), pytest.raises(ConfigurationError, match="inference_mode=False"):
        with attention.watching(model):
            model(x)
    with attention.watching(model):
        logits = model(x)
    attention(logits, y, masks=halves(6, 6))
    with pytest.raises(CaptureError, match=re.escape("with attention.watching(model)")):
        attention(logits, y, masks=halves(6, 6))
    with pytest.raises(LayerError, match="the forward pass never reached it"), attention.watching(model):
        model.conv(x)
    with pytest.raises(CaptureError, match="no gradient reaches 'act'"):
        with attention.watching(model):
            logits = model(x)
        attention(logits.detach().requires_grad_(), y, masks=halves(6, 6))
