"""Gradients in numbers, boxes, Guided Grad-CAM and the likeliest classes, through real training."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.cli import LightningCLI
from torch import Tensor
from torchvision.ops import box_iou

from lightning_gradcam import Archive, Drawing, GradCAMCallback, MemorySink, ProbeSet
from lightning_gradcam.stats.boxes import bounding_boxes
from tests.callbacks.test_purity import assert_all_same, run
from tests.conftest import TinyModule, loaders, tiny_data, trainer
from tests.setups import LAYERS, Setup

RELUS = ["net.relu1", "net.relu2"]
BOTH = Drawing(columns=("input", "overlay", "guided"), boxes=True, top=3)
GUIDED: dict[str, Any] = {"methods": ["gradcam", "guided_gradcam"], "drawing": BOTH}


class Dead(TinyModule):
    """Its second ReLU lets nothing through, and the optimizer can't change that."""

    def __init__(self) -> None:
        super().__init__()
        torch.nn.init.constant_(self.net.conv2.bias, -100.0)


def trained(root: Path, model: TinyModule | None = None, epochs: int = 2, **options: Any) -> tuple[Any, MemorySink]:
    pl.seed_everything(0, verbose=False)
    sink = MemorySink()
    callback = GradCAMCallback(**{"layers": RELUS, "gradients": True, **options}, sinks=[sink], on_error="raise")
    trainer(root, callbacks=[callback], max_epochs=epochs).fit(model or TinyModule(), *loaders())
    return callback, sink


def slopes_of(model: TinyModule, inputs: Tensor, target: int | None) -> dict[str, Tensor]:
    """The gradients of the summed logits with respect to both ReLUs, written out."""
    net = model.net.eval()
    first = torch.relu(net.norm1(net.conv1(inputs))).detach().requires_grad_()
    second = torch.relu(net.conv2(first))
    logits = net.head(second.flatten(1))
    classes = logits.argmax(1) if target is None else torch.full((len(inputs),), target)
    score = logits.gather(1, classes[:, None]).sum()
    return dict(zip(RELUS, torch.autograd.grad(score, [first, second]), strict=True))


def test_histograms_are_those_of_gradients_taken_plainly(tmp_path: Path) -> None:
    model = TinyModule()
    callback, sink = trained(tmp_path, model, targets=["predicted", 3])
    assert [found.step for found in sink.histograms] == [entry.step for entry in sink.entries] == [4, 9]
    last = sink.histograms[-1].values
    assert set(last) == {
        f"gradcam_{kind}/{layer}{end}" for kind in ("gradients", "weights") for layer in RELUS for end in ("", "/3")
    }
    for target, end in ((None, ""), (3, "/3")):
        for layer, slopes in slopes_of(model, callback.probes.inputs, target).items():
            for kind, values in (("gradients", slopes), ("weights", slopes.mean((2, 3)))):
                found, plain = last[f"gradcam_{kind}/{layer}{end}"], values.double()
                # Its ends are the smallest and the largest value, in float32.
                edges = torch.tensor([-1e9, *found.edges[1:-1], 1e9], dtype=torch.float64)
                counts = torch.histogram(plain.flatten(), edges).hist
                assert found.counts.tolist() == counts.tolist()
                assert found.number == plain.numel()
                facts = [found.min, found.max, found.sum, found.sum_squares]
                expected = [plain.min(), plain.max(), plain.sum(), plain.square().sum()]
                np.testing.assert_allclose(facts, expected, rtol=1e-5, atol=1e-7)


def test_the_archive_names_the_channels_with_the_largest_weights(tmp_path: Path) -> None:
    model = TinyModule()
    callback, _ = trained(tmp_path, model)
    gradients = Archive.open(callback.archive.path).record(-1).gradients
    assert list(gradients) == [(layer, "predicted") for layer in RELUS]
    for layer, slopes in slopes_of(model, callback.probes.inputs, None).items():
        weights = slopes.mean((2, 3))
        found = gradients[layer, "predicted"]
        assert found.channels.tolist() == weights.argsort(dim=1, descending=True).tolist()
        np.testing.assert_allclose(found.channel_weights, weights.sort(dim=1, descending=True).values, atol=1e-6)


def test_without_the_option_there_is_nothing_of_it(tmp_path: Path) -> None:
    callback, sink = trained(tmp_path, gradients=False)
    assert sink.histograms == []
    assert callback.archive.record(-1).gradients == {}
    assert not any("vanished" in tag for numbers in sink.numbers for tag in numbers.values)


def shares(sink: MemorySink, layer: str) -> list[float]:
    tag = f"gradcam_stats/{layer}/vanished"
    return [numbers.values[tag] for numbers in sink.numbers if tag in numbers.values]


def test_a_vanished_gradient_is_said_once_and_not_of_the_untrained_model(tmp_path: Path) -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        _, sink = trained(tmp_path, Dead(), epochs=3, layers=["net.conv2", "net.relu2"], log_untrained=True)
    said = [str(warning.message) for warning in caught if "the gradient of the score is zero" in str(warning.message)]
    assert len(said) == 1
    assert "layer 'net.conv2': in epoch 0, step 4," in said[0]
    # The untrained baseline, and three epochs.
    assert shares(sink, "net.conv2") == [1.0] * 4
    assert shares(sink, "net.relu2") == [0.0] * 4


def test_training_ends_in_the_same_bits(tmp_path: Path) -> None:
    sink = MemorySink()
    callback = GradCAMCallback(
        LAYERS,
        targets=["predicted", {"class": "b"}, {"top": 2}],
        class_names=list("abcde"),
        gradients=True,
        **GUIDED,
        log_untrained=True,
        sinks=[sink],
        on_error="raise",
    )
    with_ours = run(Setup(), tmp_path / "with", [callback])
    without = run(Setup(), tmp_path / "without", [])
    assert len(sink.histograms) == 4
    assert_all_same(without, with_ours)


def test_the_overlap_that_is_logged_is_the_mean_over_known_boxes(tmp_path: Path) -> None:
    inputs, labels = tiny_data(4, seed=2).tensors
    known = torch.tensor([[0.0, 0.0, 8.0, 8.0], [2.0, 1.0, 6.0, 5.0], [float("nan")] * 4, [0.0, 0.0, 5.0, 8.0]])
    probes = ProbeSet(inputs, labels=labels, boxes=known)
    callback, sink = trained(tmp_path, epochs=1, probes=probes, methods="layercam", log_untrained=True, numbers="all")
    maps = callback.archive.record(0).maps["net.relu1", "layercam", "predicted"]
    found = torch.from_numpy(bounding_boxes(maps, (8, 8)))
    overlaps = [float(box_iou(found[row, None], known[row, None])) for row in (0, 1, 3)]
    assert min(overlaps) > 0
    tag = "gradcam_stats/net.relu1/layercam/box_iou"
    logged = [numbers.values[tag] for numbers in sink.numbers if tag in numbers.values]
    assert logged[0] == pytest.approx(np.mean(overlaps), abs=1e-6)


def test_all_of_it_from_a_file_and_the_command_line(tmp_path: Path) -> None:
    config = tmp_path / "config.yaml"
    config.write_text(
        """
trainer:
  accelerator: cpu
  max_epochs: 1
  logger: false
  enable_progress_bar: false
  enable_model_summary: false
  enable_checkpointing: false
  callbacks:
    - class_path: lightning_gradcam.GradCAMCallback
      init_args:
        layers: [net.relu1, net.relu2]
        methods: [gradcam, guided_gradcam]
        targets: [predicted, {class: [d, a]}]
        class_names: [a, b, c, d, e]
        on_error: raise
        gradients: true
        drawing:
          columns: [input, overlay, guided]
          boxes: true
"""
    )
    arguments = ["--config", str(config), f"--trainer.default_root_dir={tmp_path}", "--trainer.callbacks.drawing.top=2"]
    cli = LightningCLI(TinyModule, args=arguments, run=False, save_config_callback=None)
    (callback,) = [own for own in cli.trainer.callbacks if isinstance(own, GradCAMCallback)]
    cli.trainer.fit(cli.model, *loaders())
    assert callback.archive is not None
    record = callback.archive.record(-1)
    assert list(record.scores) == ["predicted", "3", "0"]
    assert list(record.gradients) == [(layer, target) for target in record.scores for layer in RELUS]
    assert {key.method for key in record.maps} == {"gradcam", "guided_gradcam"}


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"drawing": Drawing(columns=("guided",))}, "add 'guided_gradcam' to methods"),
        ({"gradients": "yes"}, "gradients: got 'yes'; pass true or false"),
        ({"gradients": True, "methods": ["eigencam", "fullgrad"]}, "none of methods=.*add 'gradcam' to methods"),
        ({"targets": {"class": "coat"}, "class_names": ["boat", "coal"]}, "class 'coat' not found"),
        ({"targets": {"class": "coat"}}, "no class names are known"),
        ({"targets": ["predicted", {"class": "b"}, 1], "class_names": ["a", "b"]}, "'1' is listed 2 times"),
    ],
)
def test_what_can_not_be_fails_before_training(tmp_path: Path, options: dict[str, Any], text: str) -> None:
    class Untrained(TinyModule):
        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            raise AssertionError("training has begun")

    with pytest.raises(Exception, match=text):
        trained(tmp_path, Untrained(), **options)
