"""Histograms of gradients in the real loggers."""

from __future__ import annotations

import json
import os
import struct
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pytorch_lightning.loggers import CSVLogger, TensorBoardLogger, WandbLogger
from tensorboard.backend.event_processing.event_accumulator import HISTOGRAMS, EventAccumulator

from lightning_gradcam import MemorySink, compute_cams
from lightning_gradcam.record.gradients import EDGES, GradientSummary, summarised
from lightning_gradcam.sinks import FileSink, Histograms, ScalarSink, TensorBoardSink, WandbSink
from lightning_gradcam.sinks.histograms import histograms_of, pooled
from tests.conftest import TinyNet

ROOT = Path(__file__).parents[2]


def frozen(values: torch.Tensor, scores: torch.Tensor | None = None) -> GradientSummary[Any]:
    found = summarised(values, torch.ones(len(values)) if scores is None else scores)
    return found.each(lambda _, array: array.numpy())


def gradients() -> dict[tuple[str, str], GradientSummary[Any]]:
    torch.manual_seed(0)
    cams = compute_cams(
        TinyNet(),
        torch.rand(4, 1, 8, 8),
        ["conv1", "relu2"],
        targets=["label", 2],
        labels=torch.arange(4),
        gradients=True,
    )
    return {key: summary.each(lambda _, v: v.numpy()) for key, summary in cams.gradients.items()}


TAGS = [
    f"gradcam_{kind}/{place}" for place in ("conv1", "relu2", "conv1/2", "relu2/2") for kind in ("gradients", "weights")
]


def test_tags_name_layer_and_all_targets_but_the_first() -> None:
    found = histograms_of(gradients(), "gradcam", "label")
    assert list(found) == TAGS
    assert [found[tag].number for tag in TAGS[:4]] == [4 * 4 * 64, 16, 4 * 3 * 36, 12]


def test_probes_are_put_together() -> None:
    values = torch.tensor([[1.0, -2.0, 0.0, 0.7], [0.0, 0.0, 3.5, 0.6]]).reshape(2, 1, 2, 2)
    found = pooled(frozen(values).gradients)
    assert found is not None
    assert (found.min, found.max, found.number) == (-2.0, 3.5, 8)
    assert (found.sum, found.sum_squares) == pytest.approx((3.8, 1 + 4 + 0.49 + 12.25 + 0.36))
    assert found.counts.sum() == 8
    assert len(found.edges) == len(found.counts) + 1
    # From the bin of -2, which begins there and has it as its only number, to that of 3.5, which ends there.
    assert (found.edges[0], found.edges[1]) == (-3.0, -2.0)
    assert found.edges[-2:].tolist() == [3.0, 3.5]
    assert {float(found.edges[n + 1]): int(c) for n, c in enumerate(found.counts) if c} == {
        -2.0: 1, 2.0**-126: 3, 0.75: 2, 1.5: 1, 3.5: 1
    }  # fmt: skip


@pytest.mark.parametrize("value", [0.0, 1.0, -1.0, 0.3, -0.3])
def test_equal_numbers_are_one_bin_that_is_no_point(value: float) -> None:
    found = pooled(frozen(torch.full((2, 1, 2, 2), value)).gradients)
    assert found is not None
    assert found.counts.tolist() == [8]
    assert found.edges[0] < found.edges[1]
    assert found.min == found.max == pytest.approx(value)


def test_edges_ascend_whatever_the_numbers() -> None:
    generator = torch.Generator().manual_seed(0)
    for _ in range(50):
        exponents = torch.randint(-60, 20, (2, 1, 2, 2), generator=generator).float()
        values = torch.randint(-2, 3, (2, 1, 2, 2), generator=generator) * 2**exponents
        found = pooled(frozen(values).gradients)
        assert found is not None
        assert (np.diff(found.edges) > 0).all()
        assert found.counts[0] > 0 < found.counts[-1]


def test_probes_that_are_not_finite_are_left_out() -> None:
    values = torch.ones(3, 1, 2, 2)
    values[0, 0, 0, 0] = float("inf")
    found = pooled(frozen(values, torch.tensor([1.0, 1.0, float("nan")])).gradients)
    assert found is not None
    assert (found.number, found.sum) == (4, 4.0)
    assert pooled(frozen(values[:1]).gradients) is None
    assert histograms_of({("a", "b"): frozen(values[:1])}, "gradcam", "b") == {}


def test_tensorboard_has_the_bins_as_they_are(tmp_path: Path) -> None:
    logger = TensorBoardLogger(str(tmp_path))
    sink = TensorBoardSink(logger)
    sink.prepare()
    found = histograms_of(gradients(), "gradcam", "label")
    work = [
        lambda: sink.log_histograms(Histograms(0, -1, found)),
        lambda: sink.log_histograms(Histograms(469, 3, found)),
    ]
    for call in work:
        thread = threading.Thread(target=call)
        thread.start()
        thread.join()
    logger.finalize("success")
    events = EventAccumulator(logger.log_dir, size_guidance={HISTOGRAMS: 0})
    events.Reload()
    assert sorted(events.Tags()["histograms"]) == sorted(TAGS)
    for tag in TAGS:
        seen, wanted = events.Histograms(tag), found[tag]
        assert [event.step for event in seen] == [0, 469]
        value = seen[1].histogram_value
        assert value.num == wanted.number
        # What is read back is new-style, in float32.
        np.testing.assert_allclose(
            value.min, wanted.edges[0] if wanted.min > wanted.edges[0] else wanted.min, rtol=1e-6
        )
        np.testing.assert_allclose(value.max, wanted.max, rtol=1e-6)
        np.testing.assert_array_equal(value.bucket, wanted.counts)
        np.testing.assert_allclose(value.bucket_limit[:-1], wanted.edges[1:-1], rtol=1e-6)


def wandb_rows(folder: Path) -> list[dict[str, Any]]:
    """The rows of an offline run's file, which is a log as LevelDB writes them, behind seven bytes of its own."""
    from wandb.proto import wandb_internal_pb2

    (file,) = folder.glob("wandb/offline-run-*/run-*.wandb")
    content, place, pending = file.read_bytes(), 7, b""
    rows: list[dict[str, Any]] = []
    while place + 7 <= len(content):
        if 32768 - place % 32768 < 7:
            place += 32768 - place % 32768
            continue
        size, kind = struct.unpack_from("<HB", content, place + 4)
        pending += content[place + 7 : place + 7 + size]
        place += 7 + size
        if kind in (1, 4):  # whole, or its last part
            record = wandb_internal_pb2.Record()
            record.ParseFromString(pending)
            pending = b""
            if record.WhichOneof("record_type") == "history":
                rows.append({})
                for item in record.history.item:
                    *outer, key = item.nested_key or [item.key]
                    target = rows[-1].setdefault(outer[0], {}) if outer else rows[-1]
                    target[key] = json.loads(item.value_json)
    return rows


def log_to_wandb(folder: Path) -> None:
    """Logs a step with histograms and one without; for a process of its own."""
    import wandb

    sink = WandbSink(WandbLogger(save_dir=str(folder), project="test"))
    sink.log_histograms(Histograms(469, 3, histograms_of(gradients(), "gradcam", "label")))
    sink.log_histograms(Histograms(500, 4, {}))
    # `finish` comes back before wandb's service has written all that it holds. Only `teardown` waits for the service,
    # and after it the process can't use wandb again.
    wandb.teardown()


@pytest.mark.slow
def test_wandbs_offline_file_has_one_row_of_them(tmp_path: Path) -> None:
    folders = dict.fromkeys(("WANDB_DIR", "WANDB_CACHE_DIR", "WANDB_DATA_DIR", "WANDB_CONFIG_DIR"), str(tmp_path))
    environment = {**os.environ, "WANDB_MODE": "offline", "WANDB_SILENT": "true", **folders}
    # A service that another test has started is not this process's.
    environment.pop("WANDB_SERVICE", None)
    code = f"from pathlib import Path; from {__name__} import log_to_wandb; log_to_wandb(Path({str(tmp_path)!r}))"
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = histograms_of(gradients(), "gradcam", "label")
    rows = [row for row in wandb_rows(tmp_path) if any(tag in row for tag in TAGS)]
    assert len(rows) == 1
    assert {key for key in rows[0] if not key.startswith("_")} == {*TAGS, "trainer/global_step"}
    assert rows[0]["trainer/global_step"] == 469
    for tag in TAGS:
        logged = rows[0][tag]
        assert logged["_type"] == "histogram"
        assert logged["values"] == found[tag].counts.tolist()
        np.testing.assert_allclose(logged["bins"], found[tag].edges, rtol=1e-12)


def test_a_histogram_with_all_bins_is_small_enough_for_wandb() -> None:
    import wandb

    assert len(EDGES) - 1 <= wandb.Histogram.MAX_LENGTH


def test_memory_keeps_them_and_others_take_none(tmp_path: Path) -> None:
    given = Histograms(469, 3, histograms_of(gradients(), "gradcam", "label"))
    memory = MemorySink()
    memory.log_histograms(given)
    assert memory.histograms == [given]
    for sink in (ScalarSink(CSVLogger(str(tmp_path / "csv"))), FileSink(str(tmp_path / "files"), prefix="gradcam")):
        sink.log_histograms(given)
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]
