"""Chromium for the tests of the page: the system's, driven by Playwright; everything that goes wrong in it is kept."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
ARGUMENTS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
Pixels = np.ndarray[Any, np.dtype[np.uint8]]


@contextmanager
def launched() -> Iterator[Any]:
    """A headless Chromium; the test is skipped where there is none, or no Playwright."""
    playwright = pytest.importorskip(
        "playwright.sync_api", reason="playwright is not installed: pip install playwright"
    )
    path = next(filter(None, map(shutil.which, NAMES)), None)
    if path is None:
        pytest.skip(f"no Chromium here: none of {', '.join(NAMES)} is on the PATH (Debian: apt install chromium)")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=path, args=list(ARGUMENTS))
        try:
            yield browser
        finally:
            browser.close()


class Opened:
    """A page that shows a report, with what it logged and asked for."""

    def __init__(self, browser: Any, url: str, *, width: int = 1280, height: int = 900, **context: Any) -> None:
        self.context = browser.new_context(viewport={"width": width, "height": height}, **context)
        self.page = self.context.new_page()
        self.page.set_default_timeout(8000)
        self.errors: list[str] = []
        self.requests: list[str] = []
        kinds = ("error", "warning")
        self.page.on("console", lambda m: self.errors.append(f"{m.type}: {m.text}") if m.type in kinds else None)
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.on("requestfailed", lambda request: self.errors.append(f"failed: {request.url[:200]}"))
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.url = url
        self.page.goto(url)
        self.page.wait_for_selector("[data-ready=true]")

    def elsewhere(self) -> list[str]:
        """What was asked for beside the page itself and what lies in it."""
        own = self.url.split("#")[0]
        return [url for url in self.requests if url.split("#")[0] != own and not url.startswith(("data:", "blob:"))]

    def settle(self) -> None:
        """Waits until what was asked for is read and drawn."""
        self.until("!document.querySelector('[aria-busy=true]')")
        self.page.evaluate("() => new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")

    def until(self, condition: str) -> None:
        """Waits until an expression holds; the page's policy forbids to look from within."""
        for _ in range(200):
            if self.page.evaluate(condition):
                return
            self.page.wait_for_timeout(25)
        raise AssertionError(f"never came true: {condition}")

    def press(self, *keys: str) -> None:
        for key in keys:
            self.page.keyboard.press(key)
        self.settle()

    def pick(self, label: str, value: str) -> None:
        self.page.get_by_label(label, exact=True).select_option(value)
        self.settle()

    def drag(self, label: str, value: int) -> None:
        """Puts a slider to a value, as the mouse would."""
        self.page.get_by_label(label, exact=True).evaluate(
            "(slider, value) => { slider.value = value; slider.dispatchEvent(new Event('input', {bubbles: true})); }",
            str(value),
        )
        self.settle()

    def pixels(self, selector: str, place: int = 0) -> Pixels:
        """A canvas's pixels, `[H, W, 4]`."""
        found = (
            self.page.locator(selector)
            .nth(place)
            .evaluate(
                """c => {
              const copy = Object.assign(document.createElement('canvas'), {width: c.width, height: c.height});
              const context = copy.getContext('2d', {willReadFrequently: true});
              context.drawImage(c, 0, 0);
              return {w: c.width, h: c.height, d: [...context.getImageData(0, 0, c.width, c.height).data]};
            }"""
            )
        )
        return np.array(found["d"], np.uint8).reshape(found["h"], found["w"], 4)

    def texts(self, selector: str) -> list[str]:
        """The elements' texts, with plain spaces only."""
        return [text.replace("\u00a0", " ") for text in self.page.locator(selector).all_text_contents()]

    def hash(self) -> str:
        """The address's hash, once it has been written."""
        # The page's own clock: on a busy machine, ours may be ahead of it.
        return str(self.page.evaluate("new Promise(done => setTimeout(() => done(location.hash), 450))"))

    def go(self, hash: str) -> None:
        self.page.evaluate(
            """hash => new Promise(done => {
              const before = location.hash;
              // After the page's own listener.
              window.addEventListener('hashchange', done, {once: true});
              location.hash = hash;
              if (location.hash === before) done();
            })""",
            hash,
        )
        self.settle()

    def overflow(self) -> int:
        """By how many pixels the page is wider than its window."""
        return int(self.page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth"))

    def outside(self, selector: str) -> list[str]:
        """Elements that are seen and reach over the window's left or right edge; what scrolls by itself may."""
        return list(
            self.page.evaluate(
                """selector => [...document.querySelectorAll(selector)]
                .filter(e => !e.closest('.film-track, .table-box, .timeline') && e.getClientRects().length)
                .filter(e => {
                  const box = e.getBoundingClientRect();
                  return box.left < -0.5 || box.right > document.documentElement.clientWidth + 0.5;
                })
                .map(e => e.outerHTML.slice(0, 120))""",
                selector,
            )
        )

    def close(self) -> None:
        self.context.close()


def as_url(path: Path, hash: str = "") -> str:
    return path.as_uri() + hash
