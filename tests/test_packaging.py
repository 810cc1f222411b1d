"""The wheel, installed elsewhere, is whole."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.mark.slow
def test_the_wheel_works_when_installed_elsewhere(tmp_path: Path) -> None:
    pytest.importorskip("build", reason="the extra [dev] is not installed")
    subprocess.run([sys.executable, "-m", "build", "--outdir", str(tmp_path), str(ROOT)], check=True)
    (wheel,) = tmp_path.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    packages = {name.split("/")[0] for name in names}
    assert packages == {"lightning_gradcam", f"{wheel.name.removesuffix('-py3-none-any.whl')}.dist-info"}
    assert {"lightning_gradcam/py.typed", "lightning_gradcam/render/assets/colormaps.png"} <= set(names)
    target = tmp_path / "elsewhere"
    subprocess.run(
        [sys.executable, "-m", "pip", "install", "--no-deps", "--target", str(target), str(wheel)], check=True
    )
    code = (
        "import lightning_gradcam as g, torch; from pathlib import Path\n"
        f"assert Path(g.__file__).is_relative_to({str(target)!r}), g.__file__\n"
        "g.GradCAMCallback('x', drawing=g.Drawing(colormap='Reds'))\n"
        "m = torch.nn.Sequential(torch.nn.Conv2d(1, 2, 3), torch.nn.Flatten(), torch.nn.Linear(18, 2))\n"
        "print(g.compute_cams(m, torch.rand(1, 1, 5, 5), '0')['0'].shape)"
    )
    environment = {**os.environ, "PYTHONPATH": str(target)}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "torch.Size([1, 3, 3])"


@pytest.mark.slow
def test_the_main_job_as_the_readme_has_it(tmp_path: Path) -> None:
    """Five epochs on drawn garments; accuracy climbs over several of them."""
    readme = (ROOT / "README.md").read_text()
    line = next(line.strip() for line in readme.splitlines() if line.strip().startswith('pip install -e ".[examples]"'))
    command = line.split("&&")[1].split()
    assert command[0] == "python"
    arguments = [str(ROOT / part) if part.startswith(("examples/", "configs/")) else part for part in command[1:]]
    done = subprocess.run(
        [sys.executable, *arguments, "--data.source", "drawn"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    log_dir = tmp_path / "lightning_logs" / "fashion_mnist" / "version_0"
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(sorted(log_dir.glob("events*"))[0]), size_guidance={"images": 0, "scalars": 0})
    events.Reload()
    accuracy = [scalar.value for scalar in events.Scalars("val_accuracy")]
    assert len(accuracy) == 5
    assert accuracy[0] < accuracy[2] < accuracy[4]
    assert accuracy[4] > 0.88
    for layer in ("relu1", "relu2", "relu3"):
        assert len(events.Images(f"gradcam/network.{layer}")) == 5
    assert "lightning-gradcam: report:" in done.stderr
