"""The callback on models whose output is anything but one row of logits: probabilities, several labels, numbers."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pytorch_lightning.loggers import CSVLogger
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_gradcam import Archive, GradCAMCallback, ProbeSet, TargetError
from tests.conftest import TinyModule, tiny_data, trainer


class Ended(TinyModule):
    """`TinyNet` with a head of another size and what comes after it; the loss takes the output as it is."""

    def __init__(self, outputs: int, end: nn.Module, loss: Any) -> None:
        super().__init__()
        self.net.head = nn.Linear(3 * 36, outputs)
        self.end, self.loss = end, loss

    def forward(self, x: Tensor) -> Tensor:
        return self.end(self.net(x))

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        loss: Tensor = self.loss(self(batch[0]), batch[1])
        return loss

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val_loss", self.loss(self(batch[0]), batch[1]))


def fit(
    root: Path, module: Ended, labels: Tensor, callback: GradCAMCallback | None = None
) -> tuple[Archive, list[str]]:
    data = TensorDataset(tiny_data(len(labels)).tensors[0], labels)
    loaders = DataLoader(data, 8), DataLoader(data, 8)
    callback = callback or GradCAMCallback("net.relu2", num_probes=4)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        trainer(root, callbacks=callback, logger=CSVLogger(root), num_sanity_val_steps=0).fit(module, *loaders)
    said = [str(warning.message) for warning in caught if str(warning.message).startswith("lightning-gradcam:")]
    return Archive.open(root / "lightning_logs" / "version_0" / "gradcam"), said


def outputs(module: Ended, archive: Archive) -> np.ndarray[Any, Any]:
    with torch.no_grad():
        found: np.ndarray[Any, Any] = module.eval()(archive.probes.inputs).numpy()
    return found


def test_a_sigmoid_at_the_end_is_the_percentage_and_remarked_once(tmp_path: Path) -> None:
    module = Ended(1, nn.Sequential(nn.Sigmoid(), nn.Flatten(0)), nn.functional.binary_cross_entropy)
    module.net.head.bias.data.fill_(-2.0)
    archive, said = fit(tmp_path, module, torch.zeros(40))
    share, record = outputs(module, archive), archive.record(len(archive.steps) - 1)
    assert (share < 0.5).all()
    assert record.predicted.tolist() == [0, 0, 0, 0]
    np.testing.assert_allclose(record.confidence, 1 - share, rtol=1e-5)
    assert archive.manifest.score == record.score == "sigmoid"
    (remark,) = [text for text in said if "sigmoid" in text]
    assert "forward_fn=" in remark


@pytest.mark.parametrize("end", [nn.Softmax(1), nn.LogSoftmax(1)])
def test_a_softmax_at_the_end_is_not_squashed_again(tmp_path: Path, end: nn.Module) -> None:
    logs = isinstance(end, nn.LogSoftmax)
    module = Ended(5, end, nn.functional.nll_loss if logs else nn.functional.cross_entropy)
    module.net.head.bias.data[2] = 4.0
    archive, said = fit(tmp_path, module, tiny_data(40).tensors[1])
    values, record = outputs(module, archive), archive.record(len(archive.steps) - 1)
    shares = np.exp(values) if logs else values
    np.testing.assert_allclose(record.confidence, shares.max(1), rtol=1e-5)
    assert record.score == ("logit" if logs else "probability")
    assert len([text for text in said if "softmax" in text]) == (0 if logs else 1)


def test_rows_of_several_labels_give_sigmoids_without_an_option(tmp_path: Path) -> None:
    module = Ended(3, nn.Identity(), nn.functional.binary_cross_entropy_with_logits)
    labels = torch.tensor([[1.0, 0.0, 1.0], [0.0, 1.0, 0.0]] * 20)
    callback = GradCAMCallback("net.relu2", targets=["predicted", "label"], num_probes=4)
    archive, _ = fit(tmp_path, module, labels, callback)
    shares = 1 / (1 + np.exp(-outputs(module, archive)))
    record = archive.record(len(archive.steps) - 1)
    np.testing.assert_allclose(record.confidence, shares.max(1), rtol=1e-5)
    np.testing.assert_allclose(record.likeliest_confidence, -np.sort(-shares, axis=1), rtol=1e-5)


def test_a_regression_is_refused_before_the_first_step_and_explained_by_its_number(tmp_path: Path) -> None:
    def made() -> Ended:
        return Ended(1, nn.Flatten(0), nn.functional.mse_loss)

    ages = torch.rand(40, generator=torch.Generator().manual_seed(5)) * 80
    with pytest.raises(TargetError, match=r"is a regression; choose the number to explain: \{'output': 0\}"):
        fit(tmp_path, made(), ages)
    callback = GradCAMCallback("net.relu2", targets={"output": 0}, num_probes=4)
    archive, _ = fit(tmp_path / "explained", module := made(), ages, callback)
    record = archive.record(len(archive.steps) - 1)
    assert record.predicted.tolist() == [-1] * 4
    np.testing.assert_allclose(record.scores["output0"], outputs(module, archive), rtol=1e-5)
    assert archive.probes.labels is None
    assert archive.probes.values is not None


@pytest.mark.parametrize(
    ("names", "labels", "said"),
    [
        (["cat", "dog"], 5, "class_names: got 2 names, but the model's output has 5 classes"),
        (None, 9, "labels: got class 5, but the model's output has 5 classes"),
    ],
)
def test_names_and_labels_that_do_not_fit_are_refused_before_the_first_step(
    tmp_path: Path, names: list[str] | None, labels: int, said: str
) -> None:
    module = Ended(5, nn.Identity(), never)
    callback = GradCAMCallback("net.relu2", num_probes=labels, class_names=names)
    with pytest.raises(TargetError, match=said):
        fit(tmp_path, module, torch.arange(45) % labels, callback)


@pytest.mark.parametrize("mark", [255, 5])
def test_the_label_that_a_loss_ignores_is_no_class_and_stops_nothing(tmp_path: Path, mark: int) -> None:
    module = Ended(5, nn.Identity(), nn.CrossEntropyLoss(ignore_index=mark))
    labels = torch.arange(40) % 5
    labels[::4] = mark
    archive, said = fit(tmp_path, module, labels, GradCAMCallback("net.relu2", num_probes=6))
    assert archive.steps
    assert archive.probes.labels is not None
    assert archive.probes.labels.tolist().count(-1) == 1
    assert archive.probes.view.true == (*((index,) for index in range(5)), ())
    (told,) = (text for text in said if "labels:" in text)
    assert f"1 of 6 probes have the label {mark}, but the model's output has 5 classes" in told


def test_a_label_of_classes_that_may_be_counted_from_one_is_no_mark(tmp_path: Path) -> None:
    module = Ended(5, nn.Identity(), never)
    with pytest.raises(TargetError, match="labels: got class 5, but the model's output has 5 classes"):
        fit(tmp_path, module, 1 + torch.arange(40) % 5, GradCAMCallback("net.relu2", num_probes=5))


def test_marks_for_other_classes_than_the_model_s_are_dropped_and_told(tmp_path: Path) -> None:
    """Two labels per sample of 0 and 1, such as a class and a domain, are no marks for five classes."""

    def loss(output: Tensor, labels: Tensor) -> Tensor:
        return nn.functional.cross_entropy(output, labels[:, 0])

    labels = torch.stack([torch.arange(40) % 2, torch.arange(40) // 2 % 2], dim=1)
    archive, said = fit(tmp_path, Ended(5, nn.Identity(), loss), labels)
    assert archive.steps
    assert archive.probes.labels is None
    # The percentages are a softmax again.
    np.testing.assert_allclose(archive.record(-1).likeliest_confidence.sum(axis=1), 1, rtol=1e-5)
    (told,) = (text for text in said if "labels:" in text)
    assert "got 2 numbers for each sample, but the model's output has 5 classes, so sheets show no true class; " in told
    inputs = archive.probes.inputs
    given = GradCAMCallback("net.relu2", probes=ProbeSet(inputs, labels=labels[: len(inputs)]))
    with pytest.raises(TargetError, match="pass one class for each sample, or 0 or 1 for each of the 5 classes"):
        fit(tmp_path / "given", Ended(5, nn.Identity(), never), labels, given)


@pytest.mark.parametrize("first", [0, 1, 2])
def test_labels_counted_from_one_are_told_though_no_probe_has_the_last(tmp_path: Path, first: int) -> None:
    """The class that the model does not have is not among the probes, so that nothing is refused."""
    outputs = 9

    def loss(output: Tensor, labels: Tensor) -> Tensor:
        return nn.functional.cross_entropy(output, labels - min(first, 1))

    labels = first + torch.arange(36) % (10 - first if first else outputs)
    drawn = GradCAMCallback("net.relu2", num_probes=4, seed=3)
    archive, said = fit(tmp_path / "as they are", Ended(outputs, nn.Identity(), loss), labels, drawn)
    true = archive.probes.labels
    assert true is not None
    assert 0 < int(true.min()) <= int(true.max()) < outputs
    told = [text for text in said if "labels: the data set's labels go up to 9 and none is 0" in text]
    assert len(told) == (first > 0)
    less = GradCAMCallback("net.relu2", num_probes=4, seed=3, label_key=lambda batch: batch[1] - min(first, 1))
    archive, said = fit(tmp_path / "less", Ended(outputs, nn.Identity(), loss), labels, less)
    assert archive.probes.labels is not None
    assert not [text for text in said if "labels:" in text]


def never(*_args: Any) -> Tensor:
    raise AssertionError("a step was taken")
