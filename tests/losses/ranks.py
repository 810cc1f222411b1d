"""One of two processes that train with the loss: `python -m tests.losses.ranks`, run by `test_ranks.py`."""

from __future__ import annotations

import os
import sys
import warnings
from pathlib import Path

import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader, TensorDataset

from tests.conftest import tiny_data, trainer
from tests.losses.models import halves
from tests.losses.test_attention import Guided


class Still(Guided):
    """Without what differs between one process and two: batch norm's statistics and dropout."""

    def __init__(self) -> None:
        # Whose maps are never blank: those count nothing, and each rank divides by what counts there.
        super().__init__(1.0, warm_up=3, methods="gradcam_elementwise")
        self.net.norm1.eval()
        self.net.drop.p = 0.0

    def on_train_batch_start(self, batch: object, batch_idx: int) -> None:
        self.net.norm1.eval()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.01)


def main(processes: int, out: Path) -> None:
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    pl.seed_everything(3, verbose=False)
    model = Still()
    images, labels = tiny_data(24).tensors
    # Lightning starts the second process with its number in the environment.
    rank = int(os.environ.get("LOCAL_RANK", 0))
    # Every rank's part of a batch has as many masks, so that the mean over ranks is that over the batch.
    masks = halves(8, 8, samples=25)[:24]
    data = DataLoader(TensorDataset(images, labels, masks), 8 // processes, sampler=range(rank, 24, processes))
    strategy = "ddp" if processes > 1 else "auto"
    fit = trainer(
        out,
        devices=processes,
        strategy=strategy,
        limit_val_batches=0,
        max_epochs=1,
        use_distributed_sampler=False,
    )
    fit.fit(model, data)
    torch.save(model.state_dict(), out / f"{processes}-{fit.global_rank}.pt")
    if processes > 1:
        # As in `tests.callbacks.ranks`.
        torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]))
