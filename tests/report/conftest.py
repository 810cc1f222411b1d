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
    """Opens runs in a page of their own, with the options unless `folded`.

    Fails where anything was logged, or asked for from elsewhere.
    """
    opened: list[Opened] = []

    def open_(*payloads: Payload, hash: str = "", folded: bool = False, **options: Any) -> Opened:
        path = tmp_path / f"report-{len(opened)}.html"
        path.write_text(page(payloads), encoding="utf-8")
        opened.append(Opened(browser, as_url(path, hash), **options))
        more = opened[-1].page.locator(".more")
        if not folded and more.is_visible():
            # Without the focus that a click would give it.
            more.evaluate("button => button.click()")
        return opened[-1]

    yield open_
    found = [(one.errors, one.elsewhere()) for one in opened]
    for one in opened:
        one.close()
    assert found == [([], [])] * len(opened)
