"""The tutorials' network, and torchvision's ResNet-18 for one channel, as one LightningModule."""

from __future__ import annotations

from collections import OrderedDict
from typing import Literal

import torch
from pytorch_lightning import LightningModule
from torch import Tensor, nn
from torchmetrics import MetricCollection
from torchmetrics.classification import (
    MulticlassAccuracy,
    MulticlassConfusionMatrix,
    MulticlassF1Score,
    MulticlassPrecision,
    MulticlassRecall,
)

CLASSES = 10


class FashionMNISTClassifier(LightningModule):
    """Classifies 28x28 greyscale images of garments into ten classes.

    Args:
        architecture: ``"convnet"``: the tutorials' network, three 3x3 convolutions of 48, 32 and 16 channels (same
            padding, each with a ReLU: ``network.relu1`` to ``network.relu3``) and one linear layer. ``"resnet18"``:
            torchvision's, with random weights and a first convolution for one channel and 28x28.
        learning_rate: Learning rate of Adam.
    """

    def __init__(self, architecture: Literal["convnet", "resnet18"] = "convnet", learning_rate: float = 1e-3) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.learning_rate = learning_rate
        self.network = convnet() if architecture == "convnet" else resnet18()
        self.accuracy = MulticlassAccuracy(CLASSES, average="micro")
        self.test_metrics = MetricCollection(
            {
                "accuracy": MulticlassAccuracy(CLASSES, average="micro"),
                "precision": MulticlassPrecision(CLASSES, average="none"),
                "recall": MulticlassRecall(CLASSES, average="none"),
                "f1": MulticlassF1Score(CLASSES, average="none"),
                "confusion": MulticlassConfusionMatrix(CLASSES, normalize="true"),
            },
            compute_groups=False,
        )
        self.test_results: dict[str, Tensor] = {}

    def forward(self, images: Tensor) -> Tensor:
        """Returns logits ``[N, 10]`` for images ``[N, 1, 28, 28]``."""
        logits: Tensor = self.network(images)
        return logits

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        """Cross entropy of one batch."""
        images, labels = batch
        loss = nn.functional.cross_entropy(self(images), labels)
        self.log("train_loss", loss)
        return loss

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        """Logs ``val_loss`` and ``val_accuracy``."""
        images, labels = batch
        logits = self(images)
        self.accuracy(logits, labels)
        self.log("val_loss", nn.functional.cross_entropy(logits, labels), prog_bar=True)
        self.log("val_accuracy", self.accuracy, prog_bar=True)

    def test_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        """Collects the predictions for the report."""
        images, labels = batch
        self.test_metrics.update(self(images), labels)

    def on_test_epoch_end(self) -> None:
        """Logs ``test_accuracy`` and keeps the per-class results for the report."""
        self.test_results = dict(self.test_metrics.compute())
        self.test_metrics.reset()
        self.log("test_accuracy", self.test_results["accuracy"])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Adam."""
        return torch.optim.Adam(self.parameters(), lr=self.learning_rate)


def convnet() -> nn.Sequential:
    """Returns the tutorials' network."""
    return nn.Sequential(
        OrderedDict(
            conv1=nn.Conv2d(1, 48, 3, padding="same"),
            relu1=nn.ReLU(),
            conv2=nn.Conv2d(48, 32, 3, padding="same"),
            relu2=nn.ReLU(),
            conv3=nn.Conv2d(32, 16, 3, padding="same"),
            relu3=nn.ReLU(),
            flatten=nn.Flatten(),
            linear=nn.Linear(16 * 28 * 28, CLASSES),
        )
    )


def resnet18() -> nn.Module:
    """Returns torchvision's ResNet-18 for one channel; its first stage keeps 28x28, so that layer4 has 4x4 places."""
    from torchvision.models import resnet18 as torchvision_resnet18

    network: nn.Module = torchvision_resnet18(num_classes=CLASSES)
    network.conv1 = nn.Conv2d(1, 64, 3, padding=1, bias=False)
    network.maxpool = nn.Identity()
    return network
