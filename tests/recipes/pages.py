"""The recipes' pages as scripts: their code blocks in order, in a folder of their own, with small settings."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "docs" / "recipes"
PAGES = tuple(sorted(page.stem for page in FOLDER.glob("*.md") if page.stem != "README"))
# What a page's constants become here: short training on drawn garments, nothing from the network.
SMALL = {"EPOCHS": "1", "BATCHES": "12", "SOURCE": '"drawn"', "MODELS": "[]", "STEPS": "4", "SIDE": "80"}
# Of what a page assigns and calls, this is defined with its functions.
CARRIED = ("seen", "kept", "drawing", "watch")
CALLED = ("sys.path.insert", "register_method")
_BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_CONSTANTS = re.compile(r"^([A-Z]+(?:, [A-Z]+)*) = (.+)$", re.MULTILINE)
_FILE = re.compile(r"^# (\S+\.(?:py|yaml))\n")
_OUTPUT = re.compile(r"`(out/[\w./*-]+)`")


def page(name: str) -> str:
    """A page's text."""
    return (FOLDER / f"{name}.md").read_text()


def files(text: str) -> dict[str, str]:
    """A page's files: a block that begins with a comment of its name is a file, all others are the script."""
    found = {"recipe.py": ""}
    for language, block in _BLOCK.findall(text):
        named = _FILE.match(block)
        if named is not None:
            found[named.group(1)] = block
        elif language == "python":
            found["recipe.py"] += block + "\n"
    return found


def outputs(text: str) -> list[str]:
    """The paths below ``out/`` that a page names."""
    return list(dict.fromkeys(_OUTPUT.findall(text)))


def small(code: str, settings: Mapping[str, str] = SMALL) -> str:
    """The code with other settings; a constant that has none here stays."""

    def changed(found: re.Match[str]) -> str:
        names = found.group(1).split(", ")
        if not set(names) & set(settings):
            return found.group(0)
        # Pages write a tuple of plain values.
        own = dict(zip(names, re.split(r", (?![^\[]*\])", found.group(2)), strict=False))
        return f"{found.group(1)} = {', '.join(settings.get(name, own[name]) for name in names)}"

    return _CONSTANTS.sub(changed, code)


def definitions(text: str) -> dict[str, Any]:
    """Runs what a page defines, and nothing that trains, computes or draws.

    These are its imports, its constants, its functions, the methods that it registers, and its callback.

    Returns:
        The page's names.
    """
    kept = []
    for node in ast.parse(small(files(text)["recipe.py"])).body:
        assigned = [ast.unparse(target) for target in node.targets] if isinstance(node, ast.Assign) else []
        called = ast.unparse(node.value.func) if isinstance(node, ast.Expr) and isinstance(node.value, ast.Call) else ""
        constant = bool(assigned) and all(name in CARRIED or not re.search("[a-z]", name) for name in assigned)
        if isinstance(node, ast.Import | ast.ImportFrom | ast.FunctionDef) or constant or called in CALLED:
            kept.append(node)
    names: dict[str, Any] = {}
    exec(compile(ast.Module(kept, []), "recipe.py", "exec"), names)
    return names


def command(text: str) -> list[str]:
    """What runs a page: its first command in a ``sh`` block, or its script."""
    for language, block in _BLOCK.findall(text):
        if language == "sh" and block.startswith("python "):
            return [sys.executable, *block.splitlines()[0].split()[1:]]
    return [sys.executable, "recipe.py"]


def run(text: str, folder: Path, *, settings: Mapping[str, str] = SMALL, limit: float = 300) -> str:
    """Runs a page in a folder, with other settings than its own, and returns what it printed."""
    for name, code in files(text).items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(small(code, settings))
    for shared in ("examples", "configs"):
        if not (folder / shared).exists():
            (folder / shared).symlink_to(ROOT / shared, target_is_directory=True)
    return execute(command(text), folder, limit)


def execute(called: list[str], folder: Path, limit: float = 300) -> str:
    """Runs a command in a folder, on one thread and without a screen."""
    hidden = ("LOCAL_RANK", "NODE_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", "PL_GLOBAL_SEED")
    environment = {key: value for key, value in os.environ.items() if key not in hidden}
    environment |= {"OMP_NUM_THREADS": "1", "MPLBACKEND": "Agg", "PYTHONWARNINGS": "ignore", "CUDA_VISIBLE_DEVICES": ""}
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), environment.get("PYTHONPATH")]))
    done = subprocess.run(
        called, cwd=folder, env=environment, capture_output=True, text=True, check=False, timeout=limit
    )
    assert done.returncode == 0, f"{done.stdout[-2000:]}\n{done.stderr[-6000:]}"
    return done.stdout + done.stderr


def check_picture(path: Path) -> None:
    """A picture has something on it: a size, many values, no single colour all over."""
    with Image.open(path) as image:
        pixels = np.asarray(image.convert("RGB"))
    assert min(pixels.shape[:2]) >= 100, f"{path.name}: {pixels.shape}"
    colors, counts = np.unique(pixels.reshape(-1, 3), axis=0, return_counts=True)
    assert len(colors) >= 20, f"{path.name}: {len(colors)} colours"
    assert counts.max() < 0.97 * counts.sum(), f"{path.name}: nearly one colour"
