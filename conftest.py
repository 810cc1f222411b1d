"""Lets the tests run where pytest-xdist is not installed: one after the other."""

from __future__ import annotations

from importlib.util import find_spec

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    """Takes the options that pyproject.toml gives to pytest-xdist, and does nothing with them."""
    if find_spec("xdist") is None:
        for option in ("--numprocesses", "--maxprocesses", "--dist"):
            parser.addoption(option, help="taken by pytest-xdist, which is not installed")
