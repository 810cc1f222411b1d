"""Which validations are explained, and when that becomes rarer by itself."""

from __future__ import annotations

from lightning_gradcam.pipeline.schedule import Schedule


def run(schedule: Schedule, validations: int, *, period: float, seconds: float, per_epoch: int = 1) -> list[int]:
    """Returns the validations that were explained; each takes ``seconds``, and an epoch ``period``."""
    found, remarks = [], []
    for number in range(validations):
        if schedule.due(number // per_epoch, now=number * period / per_epoch):
            found.append(number)
            remarks.append(schedule.spent(seconds))
    assert sum(remark is not None for remark in remarks) <= 1
    return found


def test_epochs_and_validations_are_counted() -> None:
    assert run(Schedule(1, None, None), 4, period=1, seconds=9) == [0, 1, 2, 3]
    assert run(Schedule(3, None, None), 9, period=1, seconds=9) == [2, 5, 8]
    assert run(Schedule(2, None, None), 8, period=1, seconds=9, per_epoch=2) == [2, 3, 6, 7]
    assert run(Schedule(1, 3, None), 9, period=1, seconds=9, per_epoch=2) == [2, 5, 8]


def test_a_cost_within_the_limit_changes_nothing() -> None:
    assert run(Schedule(1, None, 0.02), 6, period=100, seconds=2) == [0, 1, 2, 3, 4, 5]


def test_too_large_a_share_widens_the_schedule_after_the_first_two() -> None:
    # 5 s of 100 s are 2.5 times 0.02: every third epoch.
    assert run(Schedule(1, None, 0.02), 12, period=100, seconds=5) == [0, 1, 2, 5, 8, 11]
    # Twice in every epoch: every fifth epoch.
    assert run(Schedule(1, None, 0.02), 24, period=100, seconds=5, per_epoch=2) == [0, 1, 2, 4, 5, 8, 9, 18, 19]


def test_validations_are_widened_likewise() -> None:
    assert run(Schedule(1, 2, 0.1), 24, period=10, seconds=6) == [1, 3, 5, 11, 17, 23]


def test_it_is_said_once_and_never_narrowed() -> None:
    schedule = Schedule(1, None, 0.01)
    said = []
    for epoch in range(40):
        if schedule.due(epoch, now=10.0 * epoch):
            said.append(schedule.spent(0.25 if epoch < 10 else 0.75))
    remarks = [remark for remark in said if remark]
    assert remarks == [
        "logging blocks training for 0.25 s, and an epoch takes 10 s: from now on, maps are logged every 3 epochs, "
        "to stay within"
        " max_overhead=0.01 (even less often if that is not enough)"
    ]
    assert schedule.every == 8
