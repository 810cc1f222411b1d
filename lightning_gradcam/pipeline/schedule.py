"""Decides when to explain: the user's schedule, widened if explaining takes too large a share of the time."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any


class Schedule:
    """Decides which validations are due.

    Args:
        every_n_epochs: Explain at all validations in every n-th epoch.
        every_n_validations: Explain at every n-th validation instead.
        max_overhead: Largest share of the time that explaining may take; beyond it, the schedule is widened. ``None``:
            no limit.

    Example:
        >>> schedule = Schedule(2, None, None)
        >>> [epoch for epoch in range(6) if schedule.due(epoch, now=0.0)]
        [1, 3, 5]
    """

    def __init__(self, every_n_epochs: int, every_n_validations: int | None, max_overhead: float | None) -> None:
        self.every = self._least = every_n_validations or every_n_epochs
        self._option = f"every_n_{'epochs' if every_n_validations is None else 'validations'}={self.every}"
        self.validations = 0
        self._by_epoch = every_n_validations is None
        self._max_overhead = max_overhead
        self._place: int | None = None
        self._began = self._period = self._cost = 0.0
        self._measured = 0
        self._said = False

    def state(self) -> dict[str, Any]:
        """Returns the state for a checkpoint: the count, and any value that ``max_overhead`` has increased."""
        widened = {"widened": self.every, "widened_from": self._option} if self.every > self._least else {}
        return {"validations": self.validations, **widened}

    def resume(self, state: Mapping[str, Any]) -> None:
        """Continues from a checkpoint; an option that has changed since then replaces the increased value.

        Args:
            state: As :meth:`state` returned it.
        """
        self.validations = int(state.get("validations", 0))
        if self._max_overhead is not None and state.get("widened_from") == self._option:
            self.every = max(self._least, int(state.get("widened", 0)))

    def due(self, epoch: int, now: float) -> bool:
        """Counts a validation at time ``now``, in seconds, and returns whether to explain at it."""
        self.validations += 1
        # The validation at an epoch's end is counted when that epoch is over.
        place = epoch + 1 if self._by_epoch else self.validations
        if self._place is None or place > self._place:
            if self._place is not None:
                self._period = (now - self._began) / (place - self._place)
            self._place, self._began, self._cost = place, now, 0.0
        return place % self.every == 0

    def spent(self, seconds: float) -> str | None:
        """Receives the seconds for which an explanation has blocked training; widens the schedule if that is too long.

        Returns:
            A message for the user when the schedule is first widened; otherwise ``None``.
        """
        self._measured += 1
        # An epoch may have several validations.
        self._cost += seconds
        # The first explanation warms up caches and is slower than all others.
        if self._max_overhead is None or self._measured < 2 or self._period <= 0:
            return None
        needed = math.ceil(self._cost / (self._max_overhead * self._period))
        if needed <= self.every:
            return None
        self.every = needed
        if self._said:
            return None
        self._said = True
        unit = "epochs" if self._by_epoch else "validations"
        every = "an epoch takes" if self._by_epoch else "the time between validations is"
        return (
            f"logging blocks training for {self._cost:.2g} s, and {every} {self._period:.2g} s: from now on, maps "
            f"are logged every {needed} {unit}, to stay within max_overhead={self._max_overhead:g} (even less often "
            "if that is not enough)"
        )
