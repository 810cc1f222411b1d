"""`check=True`: the maps of the probes are checked once, when training ends; nothing else changes."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch

from lightning_gradcam import ConfigurationError, GradCAMCallback, check_maps
from tests.conftest import TinyModule, loaders, trainer

RELUS = ["net.relu1", "net.relu2"]


def trained(root: Path, **options: Any) -> tuple[TinyModule, GradCAMCallback]:
    pl.seed_everything(0, verbose=False)
    model, callback = TinyModule(), GradCAMCallback(**{"layers": RELUS, "num_probes": 4, **options})
    trainer(root, callbacks=[callback], max_epochs=1).fit(model, *loaders())
    return model, callback


def test_three_lines_and_two_files_and_the_same_weights(tmp_path: Path, said: list[str]) -> None:
    plain, _ = trained(tmp_path / "plain")
    del said[:]
    model, callback = trained(tmp_path / "checked", check=True)
    assert all(torch.equal(value, plain.state_dict()[name]) for name, value in model.state_dict().items())
    assert model.training == plain.training
    lines = [line.removeprefix("lightning-gradcam: ") for line in said]
    place = next(
        place for place, line in enumerate(lines) if line.startswith("check on 4 probes: 'gradcam' at 'net.relu1'")
    )
    assert re.search(r"; 'gradcam' at 'net.relu2' is [a-z -]+ \(p = [0-9.]+\)$", lines[place])
    assert lines[place + 1].startswith(("best: ", "no method is sound: "))
    assert callback.archive is not None
    folder = Path(callback.archive.path)
    assert lines[place + 2] == f"check: {folder / 'check.html'}"
    told = json.loads((folder / "check.json").read_text())
    # The verdicts are those of `check_maps` on the weights that training leaves.
    probes = callback.probes
    assert probes is not None
    found = check_maps(model, probes.inputs, RELUS)
    assert [row["verdict"] for row in told["verdicts"]] == [row.verdict for row in found.verdicts.values()]
    assert [row["figures"]["p"] for row in told["verdicts"]] == [row.figures["p"] for row in found.verdicts.values()]
    assert probes.ids[0] in (folder / "check.html").read_text()


def test_what_can_not_be_checked_is_reported_and_stops_nothing(tmp_path: Path) -> None:
    options: dict[str, Any] = {"forward_fn": lambda module, batch: module(batch[0]), "on_error": "raise"}
    with pytest.warns(UserWarning, match="the check of the maps failed at step 5 at the end of the run") as warned:
        _, callback = trained(tmp_path, check=True, **options)
    assert any("needs a forward(x) that accepts one tensor" in str(one.message) for one in warned)
    assert callback.archive is not None
    assert callback.archive.steps == (4,)
    assert (Path(callback.archive.path) / "report.html").exists()
    assert not (Path(callback.archive.path) / "check.json").exists()


def test_of_several_targets_the_predicted_class_is_checked_and_that_is_reported(
    tmp_path: Path, said: list[str]
) -> None:
    _, callback = trained(tmp_path, check=True, targets=["label", {"top": 2}], layers="net.relu2")
    assert callback.archive is not None
    told = (
        "Only the maps of the predicted class were checked, not those of the run's targets ('label', 'top1', 'top2')."
    )
    assert any(line.startswith("lightning-gradcam: check on 4 probes: ") and line.endswith(told) for line in said)
    folder = Path(callback.archive.path)
    assert json.loads((folder / "check.json").read_text())["remarks"] == [told]
    assert told.replace("'", "&#x27;") in (folder / "check.html").read_text()


def test_anything_but_true_and_false_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="check: got 'yes'; pass true or false"):
        GradCAMCallback(check="yes")  # type: ignore[arg-type]
