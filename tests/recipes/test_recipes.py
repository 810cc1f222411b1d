"""Every recipe runs as its page says, from the first code block to the last, and leaves the pictures it names."""

from __future__ import annotations

import ast
import json
import re
import sys
from pathlib import Path

import pytest

from tests.recipes.pages import FOLDER, PAGES, ROOT, check_picture, execute, files, outputs, page, run, small

NEEDS = {"hydra": "hydra"}
NOTEBOOK = ROOT / "docs" / "notebooks" / "start.ipynb"


def test_the_index_has_every_recipe_and_nothing_else() -> None:
    linked = re.findall(r"\]\((\w+)\.md\)", page("README"))
    assert sorted(linked) == list(PAGES)


@pytest.mark.parametrize("name", PAGES)
def test_a_page_is_code_that_parses_with_small_settings_and_pictures_that_are_there(name: str) -> None:
    text = page(name)
    for file, code in files(text).items():
        if file.endswith(".py"):
            ast.parse(code)
            ast.parse(small(code))
    assert outputs(text), "the page names no file below out/"
    shown = re.findall(r"!\[[^\]]+\]\(([^)]+)\)", text)
    for picture in shown:
        check_picture(FOLDER / picture)


@pytest.mark.slow
@pytest.mark.parametrize("name", PAGES)
def test_a_recipe_runs(tmp_path: Path, name: str) -> None:
    if name in NEEDS:
        pytest.importorskip(NEEDS[name])
    run(page(name), tmp_path)
    for output in outputs(page(name)):
        found = sorted(tmp_path.glob(output))
        assert found, f"{output} is not there: {sorted(str(p) for p in tmp_path.glob('out/**/*'))}"
        for path in found:
            if path.suffix in (".png", ".jpg", ".webp"):
                check_picture(path)


def test_the_notebook_is_valid_and_has_no_outputs() -> None:
    notebook = json.loads(NOTEBOOK.read_text())
    assert (notebook["nbformat"], notebook["nbformat_minor"]) >= (4, 5)
    code = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert len({cell["id"] for cell in notebook["cells"]}) == len(notebook["cells"])
    for cell in code:
        assert cell["outputs"] == []
        assert cell["execution_count"] is None
        ast.parse("".join(cell["source"]))


@pytest.mark.slow
def test_the_notebook_runs(tmp_path: Path) -> None:
    notebook = json.loads(NOTEBOOK.read_text())
    for cell in notebook["cells"]:
        if cell["cell_type"] == "code":
            cell["source"] = small("".join(cell["source"]))
    (tmp_path / "examples").symlink_to(ROOT / "examples", target_is_directory=True)
    try:
        import nbclient
        import nbformat
    except ImportError:
        shown = "def display(value):\n    assert value._repr_html_()\n"
        code = [cell["source"] for cell in notebook["cells"] if cell["cell_type"] == "code"]
        # A kernel shows a cell's last expression; here it is asked for it.
        (tmp_path / "notebook.py").write_text("\n".join([shown, *map(_displayed, code)]))
        execute([sys.executable, "notebook.py"], tmp_path)
    else:
        document = nbformat.from_dict(notebook)
        nbformat.validate(document)
        nbclient.NotebookClient(document, timeout=300, resources={"metadata": {"path": str(tmp_path)}}).execute()
        html = [o for cell in document.cells for o in cell.get("outputs", []) if "text/html" in o.get("data", {})]
        assert len(html) >= 2
    assert list(tmp_path.glob("out/start/**/report.html"))


def _displayed(source: str) -> str:
    """The cell, with its last line shown where that is a bare name."""
    *head, last = source.rstrip().split("\n")
    return "\n".join([*head, f"display({last})" if last.isidentifier() else last])
