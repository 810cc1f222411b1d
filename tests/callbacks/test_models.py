"""The callback on models of other kinds: several inputs, other outputs, tokens, clips, several labels, all methods."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.cli import LightningCLI
from pytorch_lightning.loggers import CSVLogger
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, TensorDataset

from lightning_gradcam import (
    Archive,
    ArchiveError,
    ConfigurationError,
    GradCAMCallback,
    LayerError,
    MemorySink,
    ProbeSet,
    available_methods,
    compute_cams,
)
from lightning_gradcam.capture.inspection import Survey
from tests.conftest import TinyModule, TinyNet, loaders, tiny_data, trainer


def fit(root: Path, module: pl.LightningModule, callback: GradCAMCallback, data: Any = None, **options: Any) -> None:
    pl.seed_everything(0, verbose=False)
    trainer(root, callbacks=callback, logger=CSVLogger(root), **options).fit(module, *(data or loaders()))


def read(root: Path, name: str = "gradcam") -> Archive:
    return Archive.open(root / "lightning_logs" / "version_0" / name)


class NoForward(TinyModule):
    """Two inputs a sample, under names of a dict, and no plain `forward`."""

    forward = pl.LightningModule.forward

    def logits(self, batch: dict[str, Tensor]) -> Tensor:
        return self.net(batch["photo"]) * batch["weight"].float()[:, None]

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return nn.functional.cross_entropy(self.logits(batch), batch["label"])

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val_loss", nn.functional.cross_entropy(self.logits(batch), batch["label"]))


class Weighted(Dataset[dict[str, Any]]):
    def __init__(self) -> None:
        self.inner = tiny_data()
        self.targets = self.inner.tensors[1]

    def __len__(self) -> int:
        return len(self.inner)

    def __getitem__(self, index: int) -> dict[str, Any]:
        photo, label = self.inner[index]
        # A second tensor of four axes stands before the picture, so that only the key tells which is meant.
        return {"depth": photo[:, :3, :3], "weight": 1.0 + index / 10, "photo": photo, "label": int(label)}


def of_batch(module: NoForward, batch: dict[str, Tensor]) -> Tensor:
    return module.logits(batch)


def test_forward_fn_explains_modules_without_forward_and_with_several_inputs(tmp_path: Path) -> None:
    torch.manual_seed(0)
    module, data = NoForward(), DataLoader(Weighted(), 8)
    callback = GradCAMCallback(
        "net.relu2",
        methods=["gradcam", "scorecam"],
        forward_fn=of_batch,
        input_key="photo",
        on_error="raise",
        num_probes=5,
    )
    fit(tmp_path, module, callback, (data, data))
    archive = read(tmp_path)
    batch = torch.utils.data.default_collate([Weighted()[int(index)] for index in archive.probes.ids])
    weight = batch["weight"].float()
    expected = compute_cams(
        module,
        batch["photo"],
        "net.relu2",
        methods=["gradcam", "scorecam"],
        forward=lambda x: module.net(x) * weight.repeat(-(-len(x) // 5))[: len(x), None],
        relu=False,
    )
    for method in ("gradcam", "scorecam"):
        maps = expected["net.relu2", method, "predicted"].numpy()
        size = np.abs(maps).max()
        assert size > 0
        found = archive.maps("net.relu2", method, relu=False)[-1]
        np.testing.assert_allclose(found, maps, rtol=2e-3, atol=2e-3 * size)


def test_a_module_without_forward_is_told_of_forward_fn(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"defines no forward\(\).* or pass the callback forward_fn="):
        fit(tmp_path, NoForward(), GradCAMCallback("net.relu2"), (DataLoader(Weighted(), 8),) * 2)
    with pytest.raises(ConfigurationError, match=r"forward_fn: got 'net'; pass a function \(module, batch\) -> output"):
        GradCAMCallback(forward_fn="net")  # type: ignore[arg-type]


class WholeBatch(TinyModule):
    def forward(self, batch: Any) -> Tensor:
        images, _ = batch
        return self.net(images)  # type: ignore[no-any-return]

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return nn.functional.cross_entropy(self(batch), batch[1])

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self(batch)


def test_a_forward_of_the_whole_batch_is_told_of_a_forward_fn_that_works(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError) as caught:
        fit(tmp_path, WholeBatch(), GradCAMCallback("net.relu2"))
    advice = "if forward() accepts the batch, pass forward_fn=lambda module, batch: module(batch)"
    assert str(caught.value).endswith(advice)
    assert len(str(caught.value)) <= 500
    forward_fn = eval(advice.split("forward_fn=")[1])
    fit(tmp_path / "works", WholeBatch(), GradCAMCallback("net.relu2", forward_fn=forward_fn, on_error="raise"))
    assert read(tmp_path / "works").maps("net.relu2", relu=False).any()


class DictOutput(TinyModule):
    def forward(self, x: Tensor) -> Any:
        return {"features": x, "logits": self.net(x)}

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return nn.functional.cross_entropy(self(batch[0])["logits"], batch[1])

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        pass


def test_output_key_names_the_logits(tmp_path: Path) -> None:
    fit(tmp_path, DictOutput(), GradCAMCallback("net.relu2", output_key="logits", on_error="raise"))
    assert read(tmp_path).maps("net.relu2", relu=False).any()


def test_an_output_key_that_is_missing_fails_before_the_first_step(tmp_path: Path) -> None:
    module = DictOutput()
    before = module.net.head.weight.clone()
    with pytest.raises(ConfigurationError, match="output_key: got 'logit', .* a dict with 'features', 'logits'"):
        fit(tmp_path, module, GradCAMCallback("net.relu2", output_key="logit"))
    assert torch.equal(module.net.head.weight, before)


WORKING = [name for name in available_methods() if name not in ("cam", "legrad", "mean_activation")]


@pytest.mark.slow
def test_every_method_is_logged_archived_and_leaves_training_alone(tmp_path: Path) -> None:
    def weights(callbacks: list[Any]) -> dict[str, Tensor]:
        pl.seed_everything(1, verbose=False)
        module = TinyModule()
        running = trainer(tmp_path, callbacks=callbacks, logger=CSVLogger(tmp_path), accumulate_grad_batches=2)
        running.fit(module, *loaders())
        return {**module.state_dict(), "rng": torch.get_rng_state()}

    plain = weights([])
    sink = MemorySink()
    callback = GradCAMCallback(
        ["net.conv1", "net.relu2"], methods=WORKING, targets=["predicted", 1], sinks=[sink], on_error="raise"
    )
    explained = weights([callback])
    assert all(torch.equal(plain[name], value) for name, value in explained.items())
    tags = set(sink.entries[0].pictures)
    assert {"gradcam/net.conv1", "gradcam/net.relu2/scorecam", "gradcam/model/fullgrad"} <= tags
    assert not tags & {"gradcam/net.conv1/fullgrad", "gradcam/model"}
    archive = Archive.open(tmp_path / "lightning_logs" / "version_1" / "gradcam")
    assert archive.layers == ("net.conv1", "net.relu2", "model")
    assert archive.maps("net.relu2", "ablationcam").shape == (2, 8, 6, 6)
    assert archive.maps("net.relu2", "guided_gradcam").shape == (2, 8, 8, 8)
    assert archive.maps("model").shape == archive.maps("model", "fullgrad").shape == (2, 8, 8, 8)
    assert all(archive.maps("model", name, relu=False).any() for name in ("fullgrad", "guided_backprop"))
    with pytest.raises(ArchiveError, match="method: 'fullgrad' is not in this archive at layer 'net.conv1'"):
        archive.maps("net.conv1", "fullgrad")
    with pytest.raises(ArchiveError, match="method: 'gradcam' is not in this archive at layer 'model'"):
        archive.maps("model", "gradcam")


def test_a_method_that_cannot_work_fails_before_the_first_step(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="'cam' needs global average pooling and one linear layer"):
        fit(tmp_path, TinyModule(), GradCAMCallback("net.relu2", methods=["gradcam", "cam"]))


class TinyTransformer(nn.Module):
    """Patches of 2 by 2, a class token, one block; the head begins at zero."""

    def __init__(self) -> None:
        super().__init__()
        self.patch = nn.Conv2d(1, 8, 2, stride=2)
        self.token = nn.Parameter(torch.randn(1, 1, 8))
        self.norm1, self.norm2, self.norm = nn.LayerNorm(8), nn.LayerNorm(8), nn.LayerNorm(8)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.mlp = nn.Linear(8, 8)
        self.head = nn.Linear(8, 5)
        nn.init.zeros_(self.head.weight)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patch(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(len(x), -1, -1), x], 1)
        y = self.norm1(x)
        x = x + self.attention(y, y, y, need_weights=False)[0]
        x = x + self.mlp(self.norm2(x))
        return self.head(self.norm(x)[:, 0])


def test_auto_on_tokens_is_looked_for_once_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    surveys: list[int] = []
    original = Survey.__init__

    def counted(self: Survey, *args: Any, **options: Any) -> None:
        surveys.append(1)
        original(self, *args, **options)

    monkeypatch.setattr(Survey, "__init__", counted)
    module = TinyModule()
    module.net = TinyTransformer()  # type: ignore[assignment]
    callback = GradCAMCallback("auto", methods=["gradcam", "legrad"], on_error="raise")
    # `legrad` finds no attention in a norm, and names what to do.
    with pytest.raises(ConfigurationError, match="'legrad' needs attention, but layer 'net.norm1' has none"):
        fit(tmp_path / "a", module, callback)
    surveys.clear()
    fit(tmp_path / "b", module, GradCAMCallback("auto", on_error="raise"), max_epochs=3)
    assert len(surveys) == 1
    archive = Archive.open(tmp_path / "b" / "lightning_logs" / "version_0" / "gradcam")
    assert archive.layers == ("net.norm1",)
    assert archive.maps("net.norm1").shape == (3, 8, 4, 4)


class Clips(pl.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.Conv3d(3, 4, 3, stride=(2, 2, 2), padding=1), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x).relu().mean((2, 3, 4)))

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return nn.functional.cross_entropy(self(batch[0]), batch[1])

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        pass

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), 0.1)


def test_clips_give_maps_with_slices(tmp_path: Path) -> None:
    data = DataLoader(TensorDataset(torch.rand(8, 3, 6, 12, 16), torch.arange(8) % 2), 4)
    sink = MemorySink()
    callback = GradCAMCallback(
        methods=["gradcam", "scorecam", "fullgrad"], num_probes=3, sinks=[sink], on_error="raise"
    )
    fit(tmp_path, Clips(), callback, (data, data))
    archive = read(tmp_path)
    assert archive.maps("body").shape == (2, 3, 3, 6, 8)
    assert archive.maps("model", "fullgrad").shape == (2, 3, 6, 12, 16)
    assert archive.probes.pixels.shape == (3, 6, 12, 16, 3)
    assert len(sink.entries[0].pictures) == 3


class ManyLabels(TinyModule):
    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return nn.functional.binary_cross_entropy_with_logits(self(batch[0]), batch[1])

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        pass


def test_several_labels_a_picture(tmp_path: Path) -> None:
    labels = torch.eye(5)[torch.arange(40) % 5] + torch.eye(5)[torch.arange(40) * 2 % 5]
    data = DataLoader(TensorDataset(tiny_data().tensors[0], labels.clamp(max=1)), 8)
    sink = MemorySink()
    callback = GradCAMCallback(
        "net.relu2", targets=["label", {"top": 2}], score="sigmoid", sinks=[sink], on_error="raise"
    )
    fit(tmp_path, ManyLabels(), callback, (data, data))
    probes = read(tmp_path).probes
    assert probes.labels is not None
    assert probes.labels.shape == (8, 5)
    record = read(tmp_path).record(-1)
    assert record.score == "sigmoid"
    assert ((record.scores["label"] > 0) & (record.scores["label"] < probes.labels.sum(1).numpy())).all()


class Bursting(TinyModule):
    """From its third epoch on, one probe's activations are not finite."""

    def forward(self, x: Tensor) -> Tensor:
        if self.current_epoch >= 2 and not self.training:
            x = x.clone()
            x[0] = float("nan")
        return self.net(x)


def test_activations_that_are_not_finite_give_a_marked_record_and_training_goes_on(tmp_path: Path) -> None:
    probes = ProbeSet(tiny_data(3).tensors[0], labels=torch.tensor([0, 1, 2]))
    callback = GradCAMCallback(
        "net.relu2", methods=["gradcam", "eigencam", "scorecam"], probes=probes, on_error="raise"
    )
    fit(tmp_path, Bursting(), callback, max_epochs=4)
    for method in ("gradcam", "eigencam", "scorecam"):
        maps = read(tmp_path).maps("net.relu2", method)
        assert np.isfinite(maps[:2]).all()
        assert not np.isfinite(maps[2:, 0]).any()
        assert np.isfinite(maps[:, 1:]).all()


def test_every_new_option_comes_from_yaml(tmp_path: Path) -> None:
    config = tmp_path / "config.yaml"
    config.write_text(
        """
trainer:
  callbacks:
    - class_path: lightning_gradcam.GradCAMCallback
      init_args:
        layers: [net.conv1, net.relu2]
        methods: [gradcam, smoothgradcam++, fullgrad]
        targets:
          - predicted
          - 2
          - {detect: 1, boxes: [[0, 0, 4, 4.5]]}
          - {segment: predicted}
          - {similar_to: 0}
          - {contrast: [predicted, label]}
        score: sigmoid
        layout: {net.conv1: NCHW, net.relu2: "NLC:1+14x14"}
        output_key: logits
        forward_fn: tests.callbacks.test_models.of_batch
"""
    )
    cli = LightningCLI(
        NoForward, run=False, args=["--config", str(config)], save_config_callback=None, auto_configure_optimizers=False
    )
    callback = next(c for c in cli.trainer.callbacks if isinstance(c, GradCAMCallback))  # type: ignore[attr-defined]
    plan = callback._options.monitor
    assert plan.layout == {"net.conv1": "NCHW", "net.relu2": "NLC:1+14x14"}
    assert (plan.output_key, plan.score) == ("logits", "sigmoid")
    assert callback._options.forward_fn is of_batch
    assert plan.targets[2] == {"detect": 1, "boxes": [[0, 0, 4, 4.5]]}  # type: ignore[index]
    assert plan.targets[3] == {"segment": "predicted"}  # type: ignore[index]


def test_layout_is_taken_where_the_shape_does_not_tell(tmp_path: Path) -> None:
    class Turned(TinyNet):
        def __init__(self) -> None:
            super().__init__()
            self.last = nn.Identity()

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.last(self.relu2(self.conv2(self.conv1(x))).permute(0, 2, 3, 1)).flatten(1))

    module = TinyModule()
    module.net = Turned()
    fit(tmp_path, module, GradCAMCallback("net.last", layout="NHWC", on_error="raise"))
    assert read(tmp_path).maps("net.last").shape == (2, 8, 6, 6)


class Lazy(TinyModule):
    """Its parameters are drawn in the first forward; `unused` never runs."""

    def __init__(self, *, unused: bool = False) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.LazyConv2d(4, 3), nn.ReLU(), nn.Flatten(), nn.LazyLinear(5))  # type: ignore[assignment]
        if unused:
            self.unused = nn.LazyLinear(2)


def test_lazy_modules_are_waited_for_and_that_is_said_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    callback = GradCAMCallback("net.1", log_untrained=True, on_error="raise")
    with pytest.warns(UserWarning, match="log_untrained=True: there is no baseline"):
        trainer(tmp_path, callbacks=callback, num_sanity_val_steps=0).fit(Lazy(), *loaders())
    assert callback.archive is not None
    assert callback.archive.epochs == (0, 1)
    said = "'net.0' (LazyConv2d), 'net.3' (LazyLinear) get their parameters in the first forward pass"
    assert sum(said in message for message in caplog.messages) == 1


def test_after_the_sanity_check_lazy_modules_are_like_others(tmp_path: Path) -> None:
    callback = GradCAMCallback("net.1", log_untrained=True, on_error="raise")
    trainer(tmp_path, callbacks=callback).fit(Lazy(), *loaders())
    assert callback.archive is not None
    assert callback.archive.epochs == (-1, 0, 1)


def test_a_wrong_layer_of_a_lazy_module_is_refused_after_the_first_batch(tmp_path: Path) -> None:
    running = trainer(tmp_path, callbacks=GradCAMCallback("net.7"), num_sanity_val_steps=0)
    with pytest.raises(LayerError, match=r"'net.7' not found"):
        running.fit(Lazy(), *loaders())
    assert running.global_step == 1


def test_a_lazy_module_that_never_runs_is_named_at_the_end(tmp_path: Path) -> None:
    callback = GradCAMCallback("net.1", on_error="raise")
    with pytest.warns(UserWarning, match=r"nothing was logged: 'unused' \(LazyLinear\) never ran"):
        trainer(tmp_path, callbacks=callback).fit(Lazy(unused=True), *loaders())
    assert callback.archive is None


@pytest.mark.parametrize("stage", ["validate", "test"])
def test_validate_and_test_wait_for_lazy_modules_too(tmp_path: Path, stage: str) -> None:
    sink, model = MemorySink(), Lazy()
    trained = Lazy()
    trained(torch.rand(2, 1, 8, 8))
    model.load_state_dict(trained.state_dict())
    running = trainer(tmp_path, callbacks=GradCAMCallback("net.1", sinks=[sink], on_error="raise"))
    getattr(running, stage)(model, loaders()[1], verbose=False)
    assert [entry.step for entry in sink.entries] == [0]
