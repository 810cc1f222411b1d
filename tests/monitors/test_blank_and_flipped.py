"""Blank maps and flipped predictions of a run: what is reported, logged, archived and drawn, with numbers by hand."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_gradcam import Archive, CamKey, Drawing, GradCAMCallback, MemorySink, ProbeSet
from lightning_gradcam.monitors.cam_reporter import CamReporter
from lightning_gradcam.record.blank import HIRESCAM, Cause, blank_sentence
from lightning_gradcam.report import Payload
from lightning_gradcam.sheets.film import Film
from lightning_gradcam.sheets.film_lines import film_footer
from lightning_gradcam.sheets.header import blank_lines
from tests.conftest import trainer
from tests.monitors.test_meter import BLANK, KEY, LEFT, RIGHT, plan, probes, record

# What each probe shows at the two places of its only channel.
PICTURES = torch.tensor([[4.0, 1.0], [1.0, 4.0], [2.0, 2.0]], dtype=torch.float64).reshape(3, 1, 1, 2)
# The head's weights for class 0 in each epoch; class 1 has them with the opposite sign, class 0 and 1 a bias.
WEIGHTS = [[1.0, 0.0], [1.0, -1.5], [0.0, 1.0]]
SENTENCE = (
    "1 of 3 maps is blank (zero after the ReLU): the gradient mostly cancels out when averaged over locations, as is"
    " common before a linear layer on flattened features. Use methods=['hirescam'] or an earlier layer."
)


class Planned(pl.LightningModule):
    """A network that is given its weights: each epoch those of WEIGHTS."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Conv2d(1, 1, 1, bias=False), nn.Identity(), nn.Flatten(), nn.Linear(2, 2)).double()
        nn.init.ones_(self.net[0].weight)
        nn.init.zeros_(self.net[3].bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return self(batch[0]).sum()

    def on_validation_start(self) -> None:
        first = torch.tensor(WEIGHTS[self.current_epoch], dtype=torch.float64)
        with torch.no_grad():
            self.net[3].weight.copy_(torch.stack([first, -first]))

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val_loss", self(batch[0]).sum())

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.0)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Archive, MemorySink, list[str]]:
    sink = MemorySink()
    callback = GradCAMCallback(
        "net.0",
        probes=ProbeSet(PICTURES, labels=torch.tensor([0, 0, 0])),
        sinks=[sink],
        on_error="raise",
        numbers="all",
    )
    data = DataLoader(TensorDataset(PICTURES, torch.zeros(3)), 3)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        trainer(tmp_path_factory.mktemp("run"), callbacks=callback, max_epochs=3, num_sanity_val_steps=0).fit(
            Planned(), data, data
        )
    assert callback.archive is not None
    said = [str(warning.message) for warning in caught if "blank" in str(warning.message)]
    return Archive.open(callback.archive.path), sink, said


def test_the_story_by_hand(run: tuple[Archive, MemorySink, list[str]]) -> None:
    """Epoch 1: logits of class 0 are 2.5, -5 and -1, so that the last two flip; the first mean is -0.25."""
    archive, _, _ = run
    assert [archive.record(n).predicted.tolist() for n in range(3)] == [[0, 0, 0], [0, 1, 1], [0, 0, 0]]
    maps = archive.maps("net.0", relu=False)
    mean = np.array([[0.5, 0.5, 0.5], [-0.25, 0.25, 0.25], [0.5, 0.5, 0.5]])
    expected = mean[..., None] * PICTURES.reshape(3, 2).numpy()
    np.testing.assert_allclose(maps[:, :, 0], expected, rtol=2e-3)
    key = CamKey("net.0", "gradcam", "predicted")
    assert {key: codes.tolist() for key, codes in archive.record(1).causes.items()} == {
        key: [Cause.CANCELLED + HIRESCAM, 0, 0]
    }
    assert dict(archive.record(0).causes) == dict(archive.record(2).causes) == {}


def test_one_warning_a_layer_names_it_and_says_why(run: tuple[Archive, MemorySink, list[str]]) -> None:
    (said,) = run[2]
    assert said.startswith(f"lightning-gradcam: layer 'net.0', method 'gradcam': in epoch 1, step 1, {SENTENCE} (")
    assert len(said) <= 500


def test_counts_are_logged_and_are_no_drift(run: tuple[Archive, MemorySink, list[str]]) -> None:
    logged = [n.values for n in run[1].numbers if "gradcam_stats/net.0/blank" in n.values]
    names = ("compared", "flipped", "went_blank", "came_back")
    assert [[values.get(f"gradcam_stats/net.0/{name}") for name in names] for values in logged] == [
        [None] * 4,
        [0.0, 2.0, 1.0, 0.0],
        [0.0, 2.0, 0.0, 1.0],
    ]
    # Nothing is left to compare.
    assert not any("gradcam_stats/net.0/drift" in values for values in logged)
    assert logged[1]["gradcam_stats/net.0/blank"] == pytest.approx(1 / 3)
    # Of the first and the last step, which have the same classes and maps of the same shape.
    late = [n.values for n in run[1].numbers if "gradcam_stats/net.0/drift_to_last" in n.values]
    assert [values["gradcam_stats/net.0/drift_to_last"] for values in late] == pytest.approx([0, 0], abs=1e-6)


def test_sheet_strip_and_page_have_the_same_sentence(run: tuple[Archive, MemorySink, list[str]]) -> None:
    archive = run[0]
    key, second = CamKey("net.0", "gradcam", "predicted"), archive.record(1)
    lines = blank_lines(second, [key], Drawing(), 456)
    assert " ".join(filter(None, lines)) == SENTENCE
    # As many lines where none is blank.
    assert len(blank_lines(archive.record(0), [key], Drawing(), 456)) == len(lines)
    records = [archive.record(n) for n in range(3)]
    film = Film.of(records, archive.probes, key=key, drawing=Drawing(), limits=None, side=112)
    strip = [text for text, _ in film_footer(film, 5000)]
    assert SENTENCE.replace("3 maps is", "9 maps in these steps is") in strip
    steps = Payload.of(archive).header["steps"]
    assert [step["maps"][0].get("blank") for step in steps] == [None, SENTENCE, None]
    assert steps[1]["maps"][0]["numbers"]["flipped"] == [0, 1, 1]


def test_drift_compares_maps_of_the_same_class() -> None:
    """Of two probes that both moved to the right, the second one is explained for another class now."""
    meter = CamReporter(plan(), probes())
    meter.measured(record({KEY: [LEFT, LEFT]}))
    other = {"predicted": np.array([0, 0]), "label": np.array([0, 1])}
    measured = meter.measured(record({KEY: [[[1.0, 1.0]], RIGHT]}, 1, classes=other))
    np.testing.assert_allclose(measured.numbers[KEY]["drift"], [1 - 0.5**0.5, np.nan], atol=1e-7)
    assert np.isnan(measured.numbers[KEY]["rank_correlation"][1])
    means = meter.means(measured)
    assert means["cams_stats/conv/drift"] == pytest.approx(1 - 0.5**0.5)
    assert (means["cams_stats/conv/compared"], means["cams_stats/conv/flipped"]) == (1, 1)
    last = record({KEY: [LEFT, LEFT]}, 2)
    found = meter.means_to_last(measured, last)["cams_stats/conv/drift_to_last"]
    assert found == pytest.approx(1 - 0.5**0.5)


def test_a_change_between_blank_and_not_blank_is_counted_by_itself() -> None:
    meter = CamReporter(plan(), probes())
    meter.measured(record({KEY: [LEFT, BLANK]}))
    means = meter.means(meter.measured(record({KEY: [BLANK, LEFT]}, 1)))
    counts = {name: means[f"cams_stats/conv/{name}"] for name in ("compared", "flipped", "went_blank", "came_back")}
    assert counts == {"compared": 0, "flipped": 0, "went_blank": 1, "came_back": 1}
    assert "cams_stats/conv/drift" not in means


def test_blank_maps_are_left_out_of_shares_and_the_alarm_names_its_n() -> None:
    masks = torch.tensor([[[True, False]], [[True, False]]])
    meter = CamReporter(plan(min_energy_inside=0.5), probes(masks=masks))
    label = CamKey("conv", "gradcam", "label")
    measured = meter.measured(record({KEY: [RIGHT, BLANK], label: [RIGHT, LEFT]}))
    np.testing.assert_array_equal(measured.numbers[KEY]["pointing_game"], [0, np.nan])
    np.testing.assert_array_equal(measured.numbers[KEY]["agreement"], [1, np.nan])
    assert "conv: 0%, mean of 1 of 2 probes" in str(meter.alarm(measured))


def test_the_untrained_model_and_a_layer_that_was_named_are_not_warned_of() -> None:
    meter = CamReporter(plan(), probes())
    assert meter.blanks(record({KEY: [BLANK, BLANK]}, -1)) == []
    (said,) = meter.blanks(record({KEY: [LEFT, BLANK]}))
    assert f"epoch 0, step 10, {blank_sentence(np.array([0, 1], np.int8))}" in said
    assert meter.blanks(record({KEY: [BLANK, BLANK]}, 1)) == []


def test_an_archive_of_version_0_1_0_has_no_causes() -> None:
    path = Path(__file__).parents[1] / "archive" / "written_by_0_1_0"
    assert dict(Archive.open(path).record(0).causes) == {}
