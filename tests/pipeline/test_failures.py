"""Failures of ours are reported, contained, and given up by kind after three in a row."""

from __future__ import annotations

import pytest

from lightning_gradcam.pipeline.failures import Failures


def fail(failures: Failures, kind: str = "explaining") -> None:
    with failures.contained(kind, step=4):
        raise OSError("disk full")


def test_reports_say_what_failed_and_what_follows() -> None:
    reports: list[str] = []
    failures = Failures("warn", reports.append)
    for _ in range(3):
        assert not failures.given_up("explaining")
        fail(failures)
    assert failures.given_up("explaining")
    assert not failures.given_up("the archive")
    assert all(text.startswith("lightning-gradcam: explaining failed at step 4 ") for text in reports)
    assert ["tried again next time" in text for text in reports] == [True, True, False]
    assert "3rd time in a row, and is disabled" in reports[2]
    assert all("OSError: disk full" in text for text in reports)
    assert ["Traceback" in text for text in reports] == [True, False, False]


def test_every_kind_has_its_own_count_and_traceback() -> None:
    reports: list[str] = []
    failures = Failures("warn", reports.append)
    for _ in range(2):
        fail(failures, "explaining")
        fail(failures, "the archive")
    assert ["Traceback" in text for text in reports] == [True, True, False, False]
    fail(failures, "the archive")
    assert failures.given_up("the archive")
    assert not failures.given_up("explaining")


def test_a_success_in_between_starts_the_count_again() -> None:
    failures = Failures("warn", lambda _: None)
    for _ in range(4):
        fail(failures)
        fail(failures)
        with failures.contained("explaining", step=5):
            pass
    assert not failures.given_up("explaining")


def test_raise_lets_it_through_until_the_run_is_over() -> None:
    reports: list[str] = []
    failures = Failures("raise", reports.append)
    with pytest.raises(OSError, match="disk full"):
        fail(failures)
    assert not reports
    failures.failed("closing", 4, OSError("disk full"), final=True)
    assert "closing failed at step 4 at the end of the run" in reports[0]


def test_an_interrupt_is_not_contained() -> None:
    with pytest.raises(KeyboardInterrupt), Failures("warn", lambda _: None).contained("drawing", step=1):
        raise KeyboardInterrupt


def test_an_exception_without_a_readable_text_is_reported_too() -> None:
    class UnreadableError(Exception):
        def __str__(self) -> str:
            raise KeyError("text")

    reports: list[str] = []
    failures = Failures("warn", reports.append)
    for step in (1, 2):
        with failures.contained("explaining", step=step):
            raise UnreadableError
    assert ["UnreadableError" in report for report in reports] == [True, True]
