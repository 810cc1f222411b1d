"""The tab in a real TensorBoard and a real browser."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from lightning_gradcam.archive import ArchiveWriter
from tests.report.archives import record, written
from tests.report.browser import launched

# A TensorBoard and a browser take a minute together; the routes are tested without them, too.
pytestmark = pytest.mark.slow

PREFIX = "/behind/a/proxy"


@pytest.fixture(scope="module")
def logdir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("logs")


@pytest.fixture(scope="module")
def url(logdir: Path) -> Iterator[str]:
    """A TensorBoard that ends with the tests."""
    (logdir / "logs").mkdir()
    said = logdir / "tensorboard.txt"
    command = [sys.executable, "-m", "tensorboard.main", "--logdir", "logs", "--port", "0", "--host", "127.0.0.1"]
    # From elsewhere than the checkout, where the metadata of an earlier installation may lie.
    with (
        said.open("w") as file,
        subprocess.Popen([*command, "--path_prefix", PREFIX], cwd=logdir, stderr=file, stdout=file) as process,
    ):
        try:
            while not (found := re.search(r"at (http://127\.0\.0\.1:\d+\S*)", said.read_text())):
                assert process.poll() is None, f"TensorBoard has not started:\n{said.read_text()}"
                time.sleep(0.1)
            yield found[1]
        finally:
            process.terminate()
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with launched() as found:
        yield found


@pytest.fixture
def logs(logdir: Path, request: pytest.FixtureRequest) -> Iterator[Path]:
    """An empty log directory, the one of the TensorBoard that runs."""
    yield logdir / "logs"
    (logdir / "logs").rename(logdir / request.node.name)
    (logdir / "logs").mkdir()


class Tab:
    """The plugin's page: in TensorBoard's frame, or by itself, which opens faster."""

    def __init__(self, browser: Any, url: str, *, framed: bool = False, **context: Any) -> None:
        self.context = browser.new_context(**{"viewport": {"width": 1280, "height": 900}, **context})
        self.page = self.context.new_page()
        self.asked: list[str] = []
        self.errors: list[str] = []
        self.page.on("request", lambda request: self.asked.append(request.url))
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.on("console", self.hear)
        self.framed = framed
        if framed:
            self.page.goto(url)
            self.page.get_by_text("Grad-CAM", exact=True).first.click()
        else:
            self.page.goto(f"{url}data/plugin_entry.html?name=gradcam")
        self.attach()

    def hear(self, message: Any) -> None:
        # TensorBoard's own page warns of itself, and asks for fonts beside a path prefix.
        if message.type in ("error", "warning") and "gradcam" in message.location["url"]:
            self.errors.append(f"{message.type}: {message.text} {message.location['url']}")

    def attach(self) -> None:
        self.frame = self.page.wait_for_selector("iframe").content_frame() if self.framed else self.page.main_frame
        self.frame.wait_for_selector("#gradcam[data-ready=true]")

    def look(self) -> None:
        """Asks for the list of runs at once, as when the window is shown again."""
        with self.page.expect_response(lambda response: response.url.endswith("/runs")):
            self.frame.evaluate("document.dispatchEvent(new Event('visibilitychange'))")

    def until(self, selector: str, text: str) -> None:
        """Waits until an element's text has something in it."""
        self.frame.wait_for_function(
            "([selector, text]) => (document.querySelector(selector)?.textContent || '').includes(text)",
            arg=[selector, text],
        )

    def names(self) -> list[str]:
        return [text.replace("\u200b", "") for text in self.frame.locator(".runs-name").all_text_contents()]

    def box(self, name: str) -> Any:
        return self.frame.locator(".runs-list label", has_text=name).locator("input")

    def wait_shown(self, *names: str) -> None:
        for name in names:
            self.until(".facts", name)
        self.frame.wait_for_function(
            "count => (document.querySelector('.card')?.querySelectorAll('.badge').length || 0) === count",
            arg=len(names) if len(names) > 1 else 0,
        )


def wait_listed(url: str, logs: Path) -> None:
    """Waits until TensorBoard has found what is there: it looks at most every few seconds."""
    there = {
        file.parent.relative_to(logs).as_posix(): len(list(file.parent.glob("steps/*.npz")))
        for file in logs.rglob("manifest.json")
    }
    until = time.monotonic() + 60
    while True:
        with urllib.request.urlopen(f"{url}data/plugin/gradcam/runs") as answer:
            found = {entry["run"]: entry["steps"] for entry in json.load(answer)["runs"]}
        if found == there:
            return
        assert time.monotonic() < until, f"TensorBoard lists {found}, there is {there}"
        time.sleep(0.2)


@contextmanager
def opened(browser: Any, url: str, logs: Path, **context: Any) -> Iterator[Tab]:
    wait_listed(url, logs)
    tab = Tab(browser, url, **context)
    try:
        yield tab
        assert tab.errors == []
        beside = [address for address in tab.asked if not address.startswith((url.split(PREFIX)[0], "data:", "blob:"))]
        assert beside == []
    finally:
        tab.context.close()


def grown(logs: Path, *names: str, **options: Any) -> list[ArchiveWriter]:
    return [written(logs / name / "gradcam", run=name, seed=place, **options) for place, name in enumerate(names)]


def test_the_tab_shows_a_run_with_nothing_to_configure(browser: Any, url: str, logs: Path) -> None:
    grown(logs, "version_0")
    with opened(browser, url, logs, framed=True) as tab:
        tab.wait_shown("version_0/gradcam")
        tab.until(".epoch-label", "epoch 1")
        assert tab.names() == ["version_0/gradcam"]
        assert tab.frame.locator(".card").count() == 3
        canvas = tab.frame.locator(".card canvas").nth(1)
        colours = canvas.evaluate("c => new Set(c.getContext('2d').getImageData(0, 0, c.width, c.height).data).size")
        assert colours > 10, "the overlay is drawn"
        asked = [address for address in tab.asked if "/plugin/gradcam/" in address]
        assert all(f"{PREFIX}/data/plugin/gradcam/" in address for address in asked)


def test_a_run_that_goes_on_gets_its_new_epochs(browser: Any, url: str, logs: Path) -> None:
    (archive,) = grown(logs, "version_0")
    with opened(browser, url, logs) as tab:
        tab.until(".epoch-label", "epoch 1")
        archive.append(record(archive.probes, 2))
        tab.until(".epoch-label", "epoch 2")  # by itself, after some seconds
        maps = [address for address in tab.asked if "/maps?" in address]
        assert ["start=0&stop=2" in maps[0], "start=2&stop=3" in maps[1], len(maps)] == [True, True, 2]
        tab.frame.get_by_label("Filter runs (regex)").fill("0")
        archive.rewind(10)
        tab.look()
        tab.until(".epoch-label", "epoch 0")
        archive.append(record(archive.probes, 1, seed=5))
        tab.look()
        tab.until(".epoch-label", "epoch 1")
        assert "start=1&stop=2" in [address for address in tab.asked if "/maps?" in address][-1]
        assert tab.frame.get_by_label("Filter runs (regex)").input_value() == "0", "what was typed stays"


def test_the_first_epoch_of_a_run_appears_by_itself(browser: Any, url: str, logs: Path) -> None:
    (archive,) = grown(logs, "version_0", epochs=[])
    with opened(browser, url, logs) as tab:
        tab.until(".status", "No run is chosen.")
        assert tab.box("version_0").is_disabled()
        archive.append(record(archive.probes, 0))
        tab.look()
        tab.wait_shown("version_0/gradcam")
        assert tab.box("version_0").is_checked()


def test_runs_are_compared_as_they_are_checked(browser: Any, url: str, logs: Path) -> None:
    grown(logs, "a", "b", "c")
    written(logs / "other" / "gradcam", [0], run="other", probes=1)
    with opened(browser, url, logs) as tab:
        tab.box("other").dblclick()
        tab.wait_shown("other/gradcam")
        assert [tab.box(name).is_checked() for name in ("a/", "b/", "c/", "other/")] == [False, False, False, True]
        tab.box("a/").check()
        tab.until(".runs-note", "have other probes")
        tab.box("other").uncheck()
        tab.wait_shown("a/gradcam")
        tab.box("b/").check()
        tab.wait_shown("a/gradcam", "b/gradcam")
        assert tab.frame.locator(".runs-side").all_text_contents() == ["A", "B", "", ""]
        assert not tab.frame.locator(".runs-pair").is_visible()
        tab.frame.locator(".runs-all input").check()
        tab.until(".runs-note", "4 runs are ticked; two are shown side by side.")
        tab.frame.get_by_label("B", exact=True).select_option("c/gradcam")
        tab.wait_shown("a/gradcam", "c/gradcam")
        assert tab.frame.get_by_label("B", exact=True).locator("option").all_text_contents() == [
            "b/gradcam",
            "c/gradcam",
        ]
        tab.frame.locator(".runs-all input").uncheck()
        tab.until(".status", "No run is chosen.")


def test_runs_have_the_names_and_bands_of_a_report(browser: Any, url: str, logs: Path) -> None:
    grown(logs, "a", "b", "c", "d")
    for name, (rate, seed) in zip("abcd", [(0.1, 0), (0.1, 1), (0.1, 2), (0.2, 0)], strict=True):
        (logs / name / "hparams.yaml").write_text(f"lr: {rate}\nseed: {seed}\n")
    with opened(browser, url, logs) as tab:
        assert tab.names() == ["lr=0.1, seed=0", "lr=0.1, seed=1", "lr=0.1, seed=2", "lr=0.2, seed=0"]
        tab.frame.get_by_label("Filter runs (regex)").fill("lr=0.1|d/")
        # A run that can't be read once is part of the band later.
        tab.page.route("**/gradcam/run?run=c*", lambda route: route.abort())
        tab.frame.locator(".runs-all input").check()
        tab.frame.get_by_label("B", exact=True).select_option("d/gradcam")
        tab.wait_shown("lr=0.1, seed=0", "lr=0.2, seed=0")
        tab.until(".about", "(seeds 0, 1)")
        tab.page.unroute("**/gradcam/run?run=c*")
        tab.look()
        tab.until(".about", "(seeds 0, 1, 2)")
        tab.box("seed=2").uncheck()
        tab.until(".about", "n = 2 runs like A")
        tab.errors[:] = [error for error in tab.errors if "ERR_FAILED" not in error]


def test_the_filter_is_a_regular_expression_and_counts(browser: Any, url: str, logs: Path) -> None:
    grown(logs, "fast/version_0", "slow/version_0", "slow/version_1")
    with opened(browser, url, logs) as tab:
        field = tab.frame.get_by_label("Filter runs (regex)")
        tab.frame.locator(".runs-all input").check()
        # By keyboard: the viewer's keys, such as f, s and the arrows, must leave the field alone.
        field.press_sequentially("^SLOWs.*_[0-9]/")
        for key in ("Home", *["ArrowRight"] * 6, "Backspace"):
            field.press(key)
        assert field.input_value() == "^SLOW.*_[0-9]/"
        tab.wait_shown("slow/version_0", "slow/version_1")
        assert tab.names() == ["slow/version_0/gradcam", "slow/version_1/gradcam"]
        field.fill("_1")
        tab.wait_shown("slow/version_1")
        field.fill("(")
        tab.until(".runs-error", "This is not a valid regular expression.")
        assert len(tab.names()) == 3
        field.fill("nothing")
        tab.until(".runs-none", "No run matches.")


def test_a_reload_keeps_what_was_chosen(browser: Any, url: str, logs: Path) -> None:
    grown(logs, "a", "b", epochs=[0, 1, 2])
    with opened(browser, url, logs, framed=True) as tab:
        tab.box("a/").check()
        tab.box("b/").check()
        tab.frame.get_by_label("Filter runs (regex)").fill("[ab]/")
        tab.wait_shown("a/gradcam", "b/gradcam")
        tab.frame.locator("button.step").first.click()
        tab.until(".epoch-label", "epoch 1")
        tab.page.wait_for_timeout(500)  # until the address has been written
        assert "plugin_entry.html?name=gradcam#" in tab.frame.url
        tab.page.reload()
        tab.attach()
        tab.wait_shown("a/gradcam", "b/gradcam")
        tab.until(".epoch-label", "epoch 1")
        assert tab.frame.get_by_label("Filter runs (regex)").input_value() == "[ab]/"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_fits_every_window_and_follows_tensorboards_theme(browser: Any, url: str, logs: Path, scheme: str) -> None:
    grown(logs, "a_rather_long_name_of_an_experiment/with_parts/version_0", "version_1")
    with opened(browser, url, logs, framed=True, color_scheme=scheme) as tab:
        tab.frame.wait_for_selector(f"html[data-theme={scheme}]")
        seen = "names => names.map((name) => getComputedStyle(document.querySelector(name)).backgroundColor)"
        papers = {"light": ["rgb(244, 245, 247)", "rgb(255, 255, 255)"], "dark": ["rgb(15, 17, 21)", "rgb(48, 48, 48)"]}
        assert tab.frame.evaluate(seen, ["body", ".runs"]) == papers[scheme]
        for width in (1280, 2560, 360):
            tab.page.set_viewport_size({"width": width, "height": 800})
            tab.frame.wait_for_function("width => window.innerWidth === width", arg=width)
            assert tab.frame.locator(".runs-list").is_visible()
            assert tab.frame.evaluate("document.documentElement.scrollWidth") <= width
        tab.frame.locator(".runs-toggle").click()
        assert not tab.frame.locator(".runs-list").is_visible()
        tab.page.evaluate("document.body.classList.toggle('dark-mode')")
        tab.frame.wait_for_selector(f"html[data-theme={'light' if scheme == 'dark' else 'dark'}]")


def test_on_a_telephone_the_list_of_runs_is_folded_at_first(browser: Any, url: str, logs: Path) -> None:
    grown(logs, "a", "b")
    with opened(browser, url, logs, viewport={"width": 360, "height": 780}) as tab:
        assert not tab.frame.locator(".runs-list").is_visible()
        tab.frame.get_by_text("Runs: 1 of 2").click()
        assert tab.frame.locator(".runs-list").is_visible()
        assert tab.frame.evaluate("document.documentElement.scrollWidth") == 360


def test_damage_is_said_and_the_rest_goes_on(browser: Any, url: str, logs: Path) -> None:
    grown(logs, "a", "b")
    (logs / "b" / "gradcam" / "manifest.json").write_text("{")
    with opened(browser, url, logs) as tab:
        tab.wait_shown("a/gradcam")
        tab.until(".runs-problem", "its manifest.json can't be read")
        (logs / "a" / "gradcam").rename(logs / "a" / "moved")
        tab.look()
        tab.wait_shown("a/moved")
        # The page may have asked for the run just after it was moved.
        tab.errors[:] = [error for error in tab.errors if "run=a%2Fgradcam" not in error]


def test_a_remark_goes_with_its_reason(browser: Any, url: str, logs: Path) -> None:
    grown(logs, "a")
    with opened(browser, url, logs) as tab:
        remark = "b can't be read (PermissionError)."
        listed = "**/gradcam/runs"
        tab.page.route(listed, lambda route: route.fulfill(json={**route.fetch().json(), "notes": [remark]}))
        tab.look()
        tab.until(".runs-remarks", remark)
        tab.page.unroute(listed)
        tab.look()
        tab.frame.wait_for_function("document.querySelector('.runs-remarks').textContent === ''")


def test_what_could_not_be_read_once_is_asked_for_again(browser: Any, url: str, logs: Path) -> None:
    grown(logs, "a", "b")
    with opened(browser, url, logs) as tab:
        other = "a/" if tab.box("b/").is_checked() else "b/"
        tab.page.route("**/gradcam/run?*", lambda route: route.abort())
        tab.box(other).dblclick()
        tab.until(".status", "The maps can't be shown")
        tab.page.unroute("**/gradcam/run?*")
        tab.look()
        tab.wait_shown(f"{other}gradcam")
        tab.errors[:] = [error for error in tab.errors if "ERR_FAILED" not in error]


def test_a_tensorboard_that_does_not_answer_is_waited_for(browser: Any, url: str, logs: Path) -> None:
    (archive,) = grown(logs, "a")
    with opened(browser, url, logs) as tab:
        tab.wait_shown("a/gradcam")
        tab.page.route("**/gradcam/runs", lambda route: route.abort())
        tab.frame.evaluate("document.dispatchEvent(new Event('visibilitychange'))")
        tab.frame.wait_for_selector(".runs-away:not([hidden])")
        tab.page.unroute("**/gradcam/runs")
        archive.append(record(archive.probes, 2))
        tab.look()
        tab.until(".epoch-label", "epoch 2")
        assert not tab.frame.locator(".runs-away").is_visible()
        tab.errors[:] = [error for error in tab.errors if "ERR_FAILED" not in error]
