"""Fashion-MNIST from disk or from the network, or synthetic garments if neither is available."""

from __future__ import annotations

import shutil
import socket
import tempfile
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import torch
from drawn_garments import DrawnGarments
from pytorch_lightning import LightningDataModule
from pytorch_lightning.utilities import rank_zero_info
from torch.utils.data import DataLoader, Dataset, random_split
from torchvision import transforms
from torchvision.datasets import FashionMNIST

MEAN, STD = 0.286, 0.353
ANSWER_WITHIN = 4.0  # seconds to wait for a server's answer

Sample = tuple[torch.Tensor, int]


class FashionMNISTDataModule(LightningDataModule):
    """Ten classes of garments, 28x28, greyscale.

    Args:
        root: The folder that contains ``FashionMNIST/raw``, or into which it is downloaded.
        source: ``"fashion_mnist"``: the real images, downloaded if they are missing; an error if that fails.
            ``"drawn"``: synthetic garments, without files or network. ``"auto"`` (default): the real images if they
            are on disk or can be downloaded, otherwise synthetic ones; the terminal, the hyperparameters and every
            sheet state which.
        batch_size: Batch size of every loader.
        val_fraction: Share of the training images used for validation.
        num_workers: Number of worker processes of every loader; 0 loads in the training process.
        seed: Seed of the split into training and validation, and of the synthetic garments.

    Raises:
        ValueError: ``source`` or ``val_fraction`` is invalid.
        FileNotFoundError: From ``prepare_data``: ``source="fashion_mnist"``, but there is neither data nor network.
    """

    def __init__(
        self,
        root: str = "data",
        source: Literal["auto", "fashion_mnist", "drawn"] = "auto",
        batch_size: int = 128,
        val_fraction: float = 0.1,
        num_workers: int = 0,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if source not in ("auto", "fashion_mnist", "drawn"):
            raise ValueError(f"source: got {source!r}; valid: 'auto', 'fashion_mnist' and 'drawn'")
        if not 0 < val_fraction < 1:
            raise ValueError(f"val_fraction: got {val_fraction}; pass a share between 0 and 1")
        self.root = root
        self.source = source
        self.batch_size = batch_size
        self.val_fraction = val_fraction
        self.num_workers = num_workers
        self.seed = seed
        self.save_hyperparameters()
        self.transform = transforms.Compose([transforms.ToTensor(), transforms.Normalize((MEAN,), (STD,))])
        self.class_names: list[str] = []
        self.data = ""

    def prepare_data(self) -> None:
        """Downloads the real images if they are requested and missing."""
        if self.source == "drawn" or is_there(self.root) or self.data:
            return
        try:
            download(self.root)
        except (OSError, RuntimeError) as error:
            if self.source == "fashion_mnist":
                raise FileNotFoundError(
                    f"data.root: no Fashion-MNIST in {self.root!r}, and it can't be downloaded ({error}); put its "
                    "four idx files"
                    " into <root>/FashionMNIST/raw, or use --data.source drawn"
                ) from error

    def setup(self, stage: str) -> None:
        """Loads the images and splits off the validation part, once for all stages."""
        if self.data:
            return
        real = self.source != "drawn" and is_there(self.root)
        self.data = "fashion_mnist" if real else "drawn"
        # Every logger must show which data a run saw.
        self.save_hyperparameters({"data": self.data})
        if not real:
            rank_zero_info("Data: garments DRAWN in code, not Fashion-MNIST (see --data.root and --data.source)")
        training, self.test_set = self._sets(real)
        self.class_names = list(training.classes)
        validation = round(len(training) * self.val_fraction)
        split = torch.Generator().manual_seed(self.seed)
        self.train_set, self.val_set = random_split(training, [len(training) - validation, validation], split)

    def train_dataloader(self) -> DataLoader[Sample]:
        """Shuffled training images."""
        return self._loader(self.train_set, shuffle=True)

    def val_dataloader(self) -> DataLoader[Sample]:
        """The training images used for validation."""
        return self._loader(self.val_set)

    def test_dataloader(self) -> DataLoader[Sample]:
        """The test images."""
        return self._loader(self.test_set)

    def _sets(self, real: bool) -> tuple[Any, Any]:
        if real:
            both = [FashionMNIST(self.root, train=train, transform=self.transform) for train in (True, False)]
        else:
            both = [DrawnGarments(train, seed=self.seed, transform=self.transform) for train in (True, False)]
        return both[0], both[1]

    def _loader(self, dataset: Dataset[Sample], shuffle: bool = False) -> DataLoader[Sample]:
        workers = {"num_workers": self.num_workers, "persistent_workers": self.num_workers > 0}
        return DataLoader(dataset, self.batch_size, shuffle=shuffle, **workers)  # type: ignore[arg-type]


def is_there(root: str) -> bool:
    """Whether torchvision finds all of Fashion-MNIST's files below ``root``."""
    names = [Path(name).stem for name, _ in FashionMNIST.resources]
    return all((Path(root) / "FashionMNIST" / "raw" / name).is_file() for name in names)


def download(root: str) -> None:
    """Downloads Fashion-MNIST into ``root``; an incomplete download leaves no files.

    Raises:
        OSError: No server answers within a few seconds, or the folder can't be written.
        RuntimeError: The downloaded files are damaged.
    """
    rank_zero_info(f"Data: no Fashion-MNIST in {root!r}, trying to download it")
    with _patience(ANSWER_WITHIN):
        # torchvision waits without a limit, so a separate request first checks whether the server answers.
        url = FashionMNIST.mirrors[0] + FashionMNIST.resources[0][0]
        urllib.request.urlopen(urllib.request.Request(url, method="HEAD"), timeout=ANSWER_WITHIN).close()
        Path(root).mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=root, prefix=".download-") as temporary:
            FashionMNIST(temporary, train=True, download=True)
            target = Path(root) / "FashionMNIST"
            shutil.rmtree(target, ignore_errors=True)
            (Path(temporary) / "FashionMNIST").rename(target)


@contextmanager
def _patience(seconds: float) -> Iterator[None]:
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(seconds)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)
