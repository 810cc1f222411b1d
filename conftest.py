"""Lets the tests run where pytest-xdist is not installed, and fails a run that leaves files in the checkout."""

from __future__ import annotations

import os
from fnmatch import fnmatch
from importlib.util import find_spec
from pathlib import Path

import pytest

# Tests run side by side, one a core: threads of torch, numpy and the processes that tests start would only compete.
# They read this when they are imported, which tests/conftest.py is the first to do.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# What tools make there, those of the tests and others that someone may use meanwhile.
_OF_TOOLS = ("__pycache__", ".coverage*", ".hypothesis", ".*_cache", ".git", "*.egg-info", "build", "dist", ".venv")
# By the seconds that they take, the longest first.
_LONGEST = (
    *("test_purity.py", "test_viewer.py", "test_faults.py", "test_replay.py", "test_background.py", "test_api.py"),
    *("test_fashion_mnist.py", "test_resume.py", "test_gradcam.py", "test_names.py", "test_samplers.py"),
)
_BEFORE = pytest.StashKey[set[str]]()


def pytest_addoption(parser: pytest.Parser) -> None:
    """Takes the options that pyproject.toml gives to pytest-xdist, and does nothing with them."""
    if find_spec("xdist") is None:
        for option in ("--numprocesses", "--maxprocesses", "--dist"):
            parser.addoption(option, help="taken by pytest-xdist, which is not installed")
        parser.addoption("--no-loadscope-reorder", action="store_true", help="the same")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begins with the files that take longest: one that begins last keeps one process busy and the others idle."""
    items.sort(key=lambda item: _LONGEST.index(item.path.name) if item.path.name in _LONGEST else len(_LONGEST))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """One process more than there are cores: tests wait for browsers, disks and processes of their own."""
    return (os.cpu_count() or 1) + 1


def _entries(root: Path) -> set[str]:
    return {path.name for path in root.iterdir() if not any(fnmatch(path.name, kind) for kind in _OF_TOOLS)}


def pytest_sessionstart(session: pytest.Session) -> None:
    """Notes what the checkout holds; once, and not in each of xdist's workers, which run side by side."""
    if not hasattr(session.config, "workerinput"):
        session.config.stash[_BEFORE] = _entries(session.config.rootpath)


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """Fails the run where the checkout holds more than before."""
    config = session.config
    if _BEFORE not in config.stash:
        return
    if left := sorted(_entries(config.rootpath) - config.stash[_BEFORE]):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
        reporter = config.pluginmanager.get_plugin("terminalreporter")
        if reporter is not None:
            reporter.write_line(f"\nleft in {config.rootpath} by the tests: {', '.join(left)}; use tmp_path", red=True)
