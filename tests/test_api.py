"""The public surface, and what importing it costs."""

from __future__ import annotations

import ast
import inspect
import re
import subprocess
import sys
from pathlib import Path

import pytest

import lightning_gradcam

PACKAGE = Path(lightning_gradcam.__file__).parent


def imports(path: Path) -> list[str]:
    """Every module that a file imports, those under TYPE_CHECKING and inside functions too."""
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module is not None:
            assert node.level == 0, f"{path}: relative import"
            found.append(node.module)
        elif isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
    return found


MODULES = sorted(path for path in PACKAGE.rglob("*.py") if path != PACKAGE / "__init__.py")


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_nothing_calls_backward_or_reads_pickles(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            assert node.func.attr != "backward", f"{path}:{node.lineno}: gradients come from torch.autograd.grad"
            assert not (
                node.func.attr == "load"
                and any(k.arg == "allow_pickle" and getattr(k.value, "value", True) for k in node.keywords)
            )
    assert "pickle" not in imports(path)


def test_all_is_what_is_there() -> None:
    for name in lightning_gradcam.__all__:
        assert getattr(lightning_gradcam, name) is not None
    # As ruff sorts: constants first.
    assert lightning_gradcam.__all__ == sorted(lightning_gradcam.__all__, key=lambda name: (not name.isupper(), name))
    with pytest.raises(AttributeError, match="no attribute 'GradCam'"):
        lightning_gradcam.GradCam  # noqa: B018


ROOT = Path(__file__).parents[1]
PAGES = sorted(
    path
    for pattern in ("README.md", "docs/**/*.md", "docs/**/*.ipynb", "examples/*.py", "configs/*.yaml")
    for path in ROOT.glob(pattern)
    # For those who work on the package itself.
    if path != ROOT / "docs" / "layout.md"
)


@pytest.mark.parametrize("path", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_pages_and_examples_name_what_is_public_and_nothing_deeper(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    named = re.findall(r"\blightning_gradcam\.(\w+)", text)
    for names in re.findall(r"from lightning_gradcam import \(?([\w, \n]+)", text):
        named += re.findall(r"\w+", names.split("\\n")[0] if path.suffix == ".ipynb" else names.split("\n\n")[0])
    assert set(named) <= {*lightning_gradcam.__all__, "cli"} - ({"cli"} if path.suffix == ".md" else set())


def test_what_public_functions_return_is_public() -> None:
    kinds = [getattr(lightning_gradcam, name) for name in lightning_gradcam.__all__]
    for function in filter(inspect.isfunction, kinds):
        returned = re.findall(r"\b[A-Z]\w+", str(inspect.signature(function).return_annotation))
        own = [name for name in returned if hasattr(sys.modules[function.__module__], name)]
        for kind in (getattr(sys.modules[function.__module__], name) for name in own):
            if isinstance(kind, type) and kind.__module__.startswith("lightning_gradcam"):
                assert kind in kinds, f"{function.__name__} returns {kind.__name__}"


def loaded_by(code: str) -> set[str]:
    """Top-level modules loaded in a fresh process."""
    script = f"{code}\nimport sys; print(*sorted({{name.split('.')[0] for name in sys.modules}}))"
    return set(
        subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout.split()
    )


def test_the_core_loads_neither_lightning_nor_any_extra() -> None:
    code = (
        "import torch, lightning_gradcam as g\n"
        "m = torch.nn.Sequential(torch.nn.Conv2d(1, 2, 3), torch.nn.Flatten(), torch.nn.Linear(18, 2))\n"
        "g.compute_cams(m, torch.rand(1, 1, 5, 5), '0')\n"
        "g.Drawing(colormap='Reds')"
    )
    extras = {"lightning", "pytorch_lightning", "torchvision", "matplotlib", "wandb", "tensorboard", "torchmetrics"}
    assert not loaded_by(code) & extras


def test_importing_the_package_and_listing_its_names_loads_no_torch() -> None:
    assert not loaded_by("import lightning_gradcam as g; dir(g)") & {"torch", "numpy", "PIL", "lightning"}


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        pytest.param("import pytorch_lightning", "pytorch_lightning", marks=pytest.mark.slow),
        ("import lightning.pytorch", "lightning.pytorch"),
        pytest.param("import lightning.pytorch, pytorch_lightning", "lightning.pytorch", marks=pytest.mark.slow),
        pytest.param("import pytorch_lightning, lightning.pytorch", "pytorch_lightning", marks=pytest.mark.slow),
        ("", "pytorch_lightning"),
    ],
)
def test_the_callbacks_base_is_that_of_the_loaded_lightning(code: str, expected: str) -> None:
    if "lightning." in code:
        pytest.importorskip("lightning", reason="the package `lightning` is not installed")
    script = (
        f"{code}\nfrom lightning_gradcam import GradCAMCallback\n"
        "print([b.__module__ for b in GradCAMCallback.__mro__ if b.__name__ == 'Callback'][0])"
    )
    out = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    assert out.strip().startswith(expected)
