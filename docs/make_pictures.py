"""Makes the pictures of docs/reading.md from two examples; takes some minutes, and needs Chromium and `.[dev]`.

python docs/make_pictures.py
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from PIL import Image

ROOT = Path(__file__).parent.parent
IMAGES = ROOT / "docs" / "images"
sys.path.insert(0, str(ROOT))

from lightning_gradcam.cli import main
from tests.report.browser import launched

TRAINING = [
    "fit",
    f"--config={ROOT}/configs/fashion_mnist.yaml",
    "--data.source=drawn",
    "--trainer.max_epochs=8",
    "--trainer.callbacks.num_probes=6",
    "--trainer.callbacks.seed=4",
    "--trainer.callbacks.log_untrained=true",
]


def shot(browser: Any, page: Path, name: str, *, state: str = "", height: int = 900, dark: bool = False) -> None:
    """Takes a picture of a page.

    Args:
        browser: Chromium.
        page: The page.
        name: Of the picture.
        state: What stands behind its ``#``.
        height: Of the window, in pixels.
        dark: In dark colours.
    """
    context = browser.new_context(viewport={"width": 1280, "height": height}, color_scheme="dark" if dark else "light")
    opened = context.new_page()
    opened.goto(f"{page.as_uri()}#{state}")
    opened.wait_for_selector("[data-ready=true]")
    opened.wait_for_timeout(500)
    opened.screenshot(path=str(IMAGES / name))
    context.close()


def run(folder: Path, *command: str) -> None:
    """Runs one of the examples in a folder."""
    environment = {**os.environ, "PYTHONWARNINGS": "ignore"}
    subprocess.run([sys.executable, *command], cwd=folder, env=environment, check=True)


def make() -> None:
    """Trains, and takes the pictures."""
    with tempfile.TemporaryDirectory() as temporary, launched() as browser:
        folder = Path(temporary)
        run(folder, str(ROOT / "examples" / "fashion_mnist.py"), *TRAINING)
        (archive,) = (path.parent for path in folder.rglob("manifest.json"))
        with Image.open(archive / "evolution" / "network.relu2.png") as strip:
            strip.save(IMAGES / "strip.png", optimize=True)
        shot(browser, archive / "report.html", "report.png", state="epoch=2", height=1000)
        shot(browser, archive / "report.html", "drift.png", state="number=drift&epoch=7&curves=on", height=620)
        run(folder, str(ROOT / "examples" / "shortcut.py"), "--out", "shortcut")
        both = folder / "both.html"
        runs = [str(folder / "shortcut" / name) for name in ("cheating", "fixed")]
        if main(["report", *runs, "-o", str(both)]):
            raise SystemExit(1)
        shot(browser, both, "shortcut.png", state="number=energy_inside&epoch=9", height=1150)


if __name__ == "__main__":
    make()
