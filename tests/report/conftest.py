"""A browser for each file of tests, and pages opened in it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from lightning_gradcam.report import Payload, page
from tests.report.browser import Opened, as_url, launched


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with launched() as found:
        yield found


@pytest.fixture
def report(browser: Any, tmp_path: Path) -> Iterator[Callable[..., Opened]]:
    """Opens runs in a page of their own; fails where anything was logged, or asked for from elsewhere."""
    opened: list[Opened] = []

    def open_(*payloads: Payload, hash: str = "", **options: Any) -> Opened:
        path = tmp_path / f"report-{len(opened)}.html"
        path.write_text(page(payloads), encoding="utf-8")
        opened.append(Opened(browser, as_url(path, hash), **options))
        return opened[-1]

    yield open_
    found = [(one.errors, one.elsewhere()) for one in opened]
    for one in opened:
        one.close()
    assert found == [([], [])] * len(opened)
