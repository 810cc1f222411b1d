"""Failures of ours are reported, contained, and given up after three in a row."""

from __future__ import annotations

import pytest

from lightning_gradcam.failures import Failures


def fail(failures: Failures) -> None:
    with failures.contained("explaining at step 4"):
        raise OSError("disk full")


def test_reports_say_what_failed_and_what_follows() -> None:
    reports: list[str] = []
    failures = Failures("warn", reports.append)
    for _ in range(3):
        assert not failures.given_up
        fail(failures)
    assert failures.given_up
    assert all(text.startswith("lightning-gradcam: explaining at step 4 failed and is ") for text in reports)
    assert ["tried again next time" in text for text in reports] == [True, True, False]
    assert "is given up" in reports[2]
    assert all("Traceback" in text and "OSError: disk full" in text for text in reports)


def test_a_success_in_between_starts_the_count_again() -> None:
    failures = Failures("warn", lambda _: None)
    for _ in range(4):
        fail(failures)
        fail(failures)
        with failures.contained("drawing"):
            pass
    assert not failures.given_up


def test_raise_lets_it_through() -> None:
    with pytest.raises(OSError, match="disk full"):
        fail(Failures("raise", lambda _: pytest.fail("must not report")))


def test_an_interrupt_is_not_contained() -> None:
    with pytest.raises(KeyboardInterrupt), Failures("warn", lambda _: None).contained("drawing"):
        raise KeyboardInterrupt
