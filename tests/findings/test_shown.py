"""Where the findings of a training are shown, and what becomes of the training where they fail."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from pytorch_lightning.loggers import TensorBoardLogger
from torch import Tensor, nn

import lightning_gradcam.findings
from lightning_gradcam import GradCAMCallback, MemorySink
from lightning_gradcam.cli.app import main
from lightning_gradcam.findings import FINDINGS
from lightning_gradcam.report import Payload, page
from lightning_gradcam.tensorboard_plugin.places import Place
from lightning_gradcam.tensorboard_plugin.runs import found
from lightning_gradcam.tensorboard_plugin.shelf import Shelf
from tests.conftest import TinyModule, loaders, trainer
from tests.findings.planted import COUNT, SPREAD, planted, spots
from tests.report.browser import Opened, as_url, launched
from tests.report.held import described


class Blank(TinyModule):
    """Every channel speaks against every class, so that all maps are blank."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv2d(1, 3, 3), nn.Linear(3, 5)
        self.head.weight.data.copy_(-self.head.weight.data.abs())
        self.conv.weight.data.abs_()

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.head(torch.relu(self.conv(x)).mean((2, 3)))
        return found

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=1e-6)


SENTENCE = "In layer 'conv', epoch 1, 4 of 4 maps are blank (zero after the ReLU): "


def fitted(root: Path, **options: Any) -> tuple[GradCAMCallback, MemorySink]:
    sink = MemorySink()
    callback = GradCAMCallback("conv", num_probes=4, sinks=[sink], **options)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*maps are blank")
        trainer(root, callbacks=callback, logger=TensorBoardLogger(root, "logs")).fit(Blank(), *loaders())
    return callback, sink


@pytest.mark.parametrize("background", [True, False])
def test_findings_of_a_training_are_in_its_last_words_loggers_folder_and_page(
    tmp_path: Path, said: list[str], background: bool
) -> None:
    callback, sink = fitted(tmp_path, background=background, on_error="raise")
    assert callback.archive is not None
    (finding,) = callback.archive.findings
    assert finding.text.startswith(SENTENCE)
    assert said[0] == f"lightning-gradcam: logged conv at 2 steps; 1 finding: {finding.text}"
    assert len(said) == 3
    assert sink.summaries == [{"gradcam_findings/1": finding.text}]
    folder = Path(callback.archive.path)
    assert finding.text in (folder / FINDINGS).read_text()
    (entry,) = described((folder / "report.html").read_text())["findings"]
    assert (entry["kind"], entry["text"], entry["epochs"]) == ("blank", finding.text, [1])


def test_findings_that_fail_stop_nothing_and_are_reported(
    tmp_path: Path, said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(archive: Any) -> Any:
        raise RuntimeError("no findings")

    monkeypatch.setattr(lightning_gradcam.findings, "find", broken)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        callback, sink = fitted(tmp_path)
    (told,) = (text for each in caught if "the findings failed" in (text := str(each.message)))
    assert "no findings.md, and no findings in the run's last lines" in told
    assert "RuntimeError: no findings" in told
    assert callback.archive is not None
    assert callback.archive.epochs == (0, 1)
    assert said[0] == "lightning-gradcam: logged conv at 2 steps"
    assert sink.summaries == []
    folder = Path(callback.archive.path)
    assert not (folder / FINDINGS).exists()
    (entry,) = described((folder / "report.html").read_text())["findings"]
    assert entry["text"] == "The findings can't be computed (RuntimeError: no findings)."


def test_the_command_writes_them_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    archive = planted(tmp_path, [-spots(*SPREAD)])
    path = Path(archive.path) / FINDINGS
    path.write_text("old")
    options = ["report", archive.path, "-o", str(tmp_path / "page.html")]
    assert main(options) == 0
    assert "6 of 6 maps are blank" in path.read_text()
    path.unlink()
    path.mkdir()
    assert main(options) == 0
    assert f"{path} can't be written (" in capsys.readouterr().err


def test_the_tab_has_them(tmp_path: Path) -> None:
    planted(tmp_path, [-spots(*SPREAD)])
    (run,) = found([Place("", str(tmp_path))]).runs.values()
    header = json.loads(Shelf().view(run).header)
    assert [entry["kind"] for entry in header["findings"]] == ["blank"]


# ---- the page


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with launched() as running:
        yield running


def test_with_several_methods_each_is_named_and_shown(browser: Any, tmp_path: Path) -> None:
    callback, _ = fitted(tmp_path, methods=["hirescam", "gradcam"])
    found = [finding.text.split(",")[0] for finding in callback.archive.findings]  # type: ignore[union-attr]
    assert found == ["In layer 'conv' (hirescam)", "In layer 'conv' (gradcam)"]
    opened = Opened(browser, as_url(Path(callback.archive.path) / "report.html"))  # type: ignore[union-attr]
    method = opened.page.get_by_label("Method")
    assert method.input_value() == "hirescam"
    opened.page.locator(".findings li").nth(1).get_by_role("button", name="Show epoch 1").click()
    opened.settle()
    assert method.input_value() == "gradcam"
    assert opened.texts(".epoch-label") == ["epoch 1"]
    assert opened.errors == []
    opened.close()


def test_the_page_begins_with_them_and_goes_to_their_epoch(browser: Any, tmp_path: Path) -> None:
    before, after = spots(*SPREAD), spots(*[(0.1, 0.9)] * COUNT)
    archive = planted(tmp_path, [before, before, after, after, after, after])
    kinds = [finding.kind for finding in archive.findings]
    assert kinds == ["shortcut", "moved_most", "settled"]
    file = tmp_path / "report.html"
    file.write_text(page([Payload.of(archive)]), encoding="utf-8")
    opened = Opened(browser, as_url(file))
    items = opened.page.locator("main > section.findings:first-child li")
    assert items.count() == 3
    assert items.nth(0).inner_text().startswith("Important: A possible shortcut: 6 of 6 probes")
    items.nth(1).get_by_role("button", name="Show epoch 2").click()
    opened.settle()
    assert opened.texts(".epoch-label") == ["epoch 2"]
    assert opened.errors == []
    opened.close()


@pytest.mark.parametrize("beside", [False, True])
def test_with_several_validations_per_epoch_it_goes_to_the_finding_s_step(
    browser: Any, tmp_path: Path, beside: bool
) -> None:
    before, blank = spots(*SPREAD), -spots(*SPREAD)
    archive = planted(tmp_path / "a", [before, before, before, blank], epochs=[0, 0, 1, 1])
    (finding,) = archive.findings
    assert (finding.kind, finding.epochs, finding.steps) == ("blank", (1,), archive.steps[-1:])
    runs = [archive]
    if beside:
        # The page names its positions after the first run, which has one step in epoch 1.
        runs = [planted(tmp_path / "b", [before, before], epochs=[0, 1]), archive]
    file = tmp_path / "report.html"
    file.write_text(page([Payload.of(run, title="ab"[place]) for place, run in enumerate(runs)]), encoding="utf-8")
    opened = Opened(browser, as_url(file, "#compare=b&epoch=0" if beside else "#epoch=0"), height=3000)
    name = f"Show epoch 1, step {archive.steps[-1]}"
    opened.page.locator(".findings li").get_by_role("button", name=name).click()
    opened.settle()
    assert opened.texts(".epoch-label") == ["epoch 1"]
    assert opened.page.locator(".cell.overlay.blank").count() == COUNT
    assert opened.errors == []
    opened.close()
