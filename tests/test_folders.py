"""The layout: which folder may know which, what lies in the root, and that a name means one thing."""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest

import lightning_gradcam

PACKAGE = Path(lightning_gradcam.__file__).parent
NAME = PACKAGE.name

# A folder imports only from those above it, and from itself. `docs/layout.md` says what each owns.
ORDER = [
    "errors",
    "storage",
    "npz",
    "warn",
    "naming",
    "guard",
    "capture",
    "probes",
    "targets",
    "methods",
    "record",
    "compute",
    "losses",
    "stats",
    "checks",
    "render",
    "sheets",
    "archive",
    "findings",
    "report",
    "tensorboard_plugin",
    "sinks",
    "monitors",
    "pipeline",
    "callbacks",
    "saved_models",
    "",  # the package itself, which shows public names of all folders above
    "cli",
]
# Displaying a result in a notebook, picture or page, and an archive's findings, imported by string when asked for.
BY_STRING = {
    ("record", f"{NAME}.report.notebook"),
    ("record", f"{NAME}.sheets.of_cams"),
    ("archive", f"{NAME}.report.notebook"),
    ("archive", f"{NAME}.findings"),
    ("checks", f"{NAME}.report.check_page"),
}
LIGHTNING = ("lightning", "pytorch_lightning", "lightning_fabric")
# `add` puts a command into the parser; `main` is the entry point, and what it calls.
SEVERAL_TIMES = {"add", "main"}

MODULES = sorted(path for path in PACKAGE.rglob("*.py") if path != PACKAGE / "__init__.py")
TREES = {path: ast.parse(path.read_text()) for path in MODULES}


def folder(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def is_module(dotted: str) -> bool:
    if not all(part.isidentifier() for part in dotted.split(".")):
        return False
    path = PACKAGE.joinpath(*dotted.split("."))
    return path.with_suffix(".py").is_file() or (path / "__init__.py").is_file()


def imported(tree: ast.Module) -> Iterator[str]:
    """Every module that is imported, under TYPE_CHECKING and inside functions too."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: a relative import"
            yield node.module or ""
            if node.module == NAME:  # `from lightning_gradcam import storage`
                yield from (f"{NAME}.{alias.name}" for alias in node.names if is_module(alias.name))
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


def imported_by_string(tree: ast.Module) -> Iterator[str]:
    """Texts that name a module: those that `import_module` and `__import__` take, and those in tables for either.

    A module with a `__getattr__` may name modules without the package's name before them.
    """
    lazy = any(isinstance(node, ast.FunctionDef) and node.name == "__getattr__" for node in tree.body)
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and ast.unparse(node.func).split(".")[-1] in ("import_module", "__import__"):
            first = node.args[0]
            start = first.values[0] if isinstance(first, ast.JoinedStr) else first
            if isinstance(start, ast.Constant):
                yield str(start.value).rstrip(".")
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            inner = node.value.removeprefix(f"{NAME}.")
            if (inner != node.value or lazy) and is_module(inner):
                yield f"{NAME}.{inner}"


def refused(path: Path, tree: ast.Module) -> list[str]:
    """What a module imports and may not."""
    own = folder(path)
    names = [*imported(tree), *(name for name in imported_by_string(tree) if (own, name) not in BY_STRING)]
    found = []
    for name in names:
        top, _, inner = name.partition(".")
        other = inner.split(".")[0]
        if top == NAME and other != own and ORDER.index(other) > ORDER.index(own):
            found.append(name)
        if top in LIGHTNING and own != "callbacks":
            found.append(name)
    return found


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_a_folder_imports_only_from_those_above_it(path: Path) -> None:
    assert refused(path, TREES[path]) == []


@pytest.mark.parametrize(
    ("place", "code", "expected"),
    [
        ("stats/resize.py", "from lightning_gradcam.render.drawing import Interpolation", ["render.drawing"]),
        ("stats/resize.py", "from lightning_gradcam.record.cams import Cams", []),
        ("stats/resize.py", "import lightning_gradcam.stats.numbers", []),
        ("stats/resize.py", "def f():\n    import lightning_gradcam.sinks", ["sinks"]),
        ("stats/resize.py", "import_module('lightning_gradcam.report.page')", ["report.page"]),
        ("stats/resize.py", "importlib.import_module(f'lightning_gradcam.cli.{name}')", ["cli"]),
        ("stats/resize.py", "__import__('lightning_gradcam.render')", ["render"]),
        ("stats/resize.py", "_HOME = {'a': 'lightning_gradcam.render.drawing'}", ["render.drawing"]),
        ("stats/__init__.py", "_HOME = {'a': 'render.drawing'}\ndef __getattr__(name): ...", ["render.drawing"]),
        ("record/cams.py", "import_module('lightning_gradcam.report.notebook')", []),
        ("record/cams.py", "from lightning_gradcam.report.notebook import cams_html", ["report.notebook"]),
        ("stats/resize.py", "from lightning_gradcam import Archive", [""]),
        ("errors.py", "from lightning_gradcam.storage import join", ["storage"]),
    ],
)
def test_what_is_refused(place: str, code: str, expected: list[str]) -> None:
    found = refused(PACKAGE / place, ast.parse(code))
    assert sorted(set(found)) == [f"{NAME}.{name}".rstrip(".") for name in expected]


@pytest.mark.parametrize("code", ["from pytorch_lightning import Trainer", "import_module('lightning.pytorch.cli')"])
def test_only_the_callbacks_know_lightning(code: str) -> None:
    assert refused(PACKAGE / "callbacks" / "host.py", ast.parse(code)) == []
    assert refused(PACKAGE / "saved_models" / "loader.py", ast.parse(code))


def test_every_folder_has_a_place_and_says_what_it_owns() -> None:
    folders = {path.name for path in PACKAGE.iterdir() if path.is_dir() and any(path.glob("*.py"))}
    modules = {path.stem for path in PACKAGE.glob("*.py")} - {"__init__"}
    assert folders | modules == set(ORDER) - {""}
    assert len(modules) <= 4
    assert not folders & set(lightning_gradcam.__all__), "an import of such a folder would hide the public name"
    for name in folders:
        said = ast.get_docstring(ast.parse((PACKAGE / name / "__init__.py").read_text())) or ""
        assert len(said.splitlines()) >= 2, f"{name}/__init__.py: say what it owns, and what it may not know"
        assert all((inner / "__init__.py").is_file() for inner in (PACKAGE / name).iterdir() if any(inner.glob("*.py")))


def test_the_page_has_the_same_list() -> None:
    page = (Path(__file__).parents[1] / "docs" / "layout.md").read_text()
    rows = [line.split(" | ")[0] for line in page.splitlines() if line.startswith("| `")]
    assert [name for row in rows for name in re.findall(r"`(\w+)(?:/|\.py)`", row)] == [name for name in ORDER if name]


def test_a_name_means_one_thing() -> None:
    places = defaultdict(list)
    for path, tree in TREES.items():
        for node in tree.body:
            if isinstance(node, ast.ClassDef | ast.FunctionDef) and not node.name.startswith("_"):
                places[node.name].append(str(path.relative_to(PACKAGE)))
    assert {name: found for name, found in places.items() if len(found) > 1 and name not in SEVERAL_TIMES} == {}


def test_the_tests_lie_in_the_same_folders() -> None:
    tests = Path(__file__).parent
    others = {"docs", "examples", "recipes", "benchmarks", "shapes"}
    found = {path.name for path in tests.iterdir() if path.is_dir() and any(path.glob("test_*.py"))}
    assert found - others <= set(ORDER)
    assert all((tests / name / "__init__.py").is_file() for name in found - {"examples"})
