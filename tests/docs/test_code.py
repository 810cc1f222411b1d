"""Python blocks of the docs that stand on their own run as they are; names in the others are there."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

import lightning_gradcam

DOCS = Path(__file__).parents[2] / "docs"
PAGES = sorted(path.name for path in DOCS.glob("*.md"))


def blocks(page: str) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```", (DOCS / page).read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)


def test_the_method_of_ones_own_is_registered_and_taken() -> None:
    (code,) = blocks("layout.md")
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)


@pytest.mark.parametrize("page", PAGES)
def test_what_a_page_imports_from_the_package_is_there(page: str) -> None:
    for code in blocks(page):
        compile(code, page, "exec")
        for names in re.findall(r"^from lightning_gradcam import (.+)$", code, re.MULTILINE):
            for name in names.strip("()").split(","):
                assert hasattr(lightning_gradcam, name.strip()), name


@pytest.mark.parametrize("page", ["options.md", "../README.md"])
def test_options_in_tables_are_those_of_the_callbacks(page: str) -> None:
    """Every option that a table's row begins with is one, and none of the constructors' options is missing."""
    import inspect

    text = (DOCS / page).read_text(encoding="utf-8")
    rows = re.findall(r"^\| (`[a-z_`, ]+) \| `", text, re.MULTILINE)
    told = {name for row in rows for name in re.findall(r"`([a-z_]+)`", row)}
    kinds = (
        lightning_gradcam.GradCAMCallback,
        lightning_gradcam.FeatureMapCallback,
        lightning_gradcam.FilterPatternCallback,
        lightning_gradcam.Drawing,
        lightning_gradcam.GridDrawing,
        lightning_gradcam.PatternDrawing,
    )
    own = [set(inspect.signature(kind).parameters) for kind in kinds]
    assert told <= set().union(*own)
    if page == "options.md":
        # Pages describe the last two drawings' size limits and formats once, for the first.
        missing = {name for names in own[:4] for name in names} - told
        assert missing == set()
