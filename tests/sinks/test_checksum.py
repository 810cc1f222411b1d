"""Checksums of event files, held against TensorBoard's own."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from tensorboard.backend.event_processing.event_file_loader import EventFileLoader
from tensorboard.compat.tensorflow_stub.pywrap_tensorflow import crc32c as theirs
from torch.utils.tensorboard import SummaryWriter

from lightning_gradcam.render.picture import Picture
from lightning_gradcam.sinks.base import Entry
from lightning_gradcam.sinks.checksum import crc32c
from lightning_gradcam.sinks.tensorboard import TensorBoardSink


@pytest.mark.parametrize("length", [0, 1, 3, 4, 9, 255, 4095, 4096, 4097, 65_536, 100_003])
def test_a_checksum_is_tensorboards(length: int) -> None:
    data = np.random.default_rng(length).integers(0, 256, length).astype(np.uint8).tobytes()
    assert crc32c(data) == theirs(data)
    assert crc32c(bytes(length)) == theirs(bytes(length))


def test_an_event_file_is_the_same_to_its_readers(tmp_path: Path) -> None:
    class Logger:
        experiment = SummaryWriter(str(tmp_path))

    pixels = np.random.default_rng(0).integers(0, 256, (90, 90, 3)).astype(np.uint8)
    sink = TensorBoardSink(Logger)
    sink.prepare()
    sink.prepare()
    record = Logger.experiment._get_file_writer().event_writer._async_writer._writer
    assert "write" in vars(record)
    sink.log(Entry(3, 0, {"gradcam/conv": Picture(pixels)}))
    Logger.experiment.close()
    (file,) = tmp_path.iterdir()
    # The loader refuses records whose checksum is wrong.
    values = [value for event in EventFileLoader(str(file)).Load() for value in event.summary.value]
    assert [value.tag for value in values] == ["gradcam/conv"]
    assert Picture(pixels).encoded("png") in values[0].SerializeToString()
