"""A run's two background threads, and the time that training has waited for them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import TypeVar

from lightning_gradcam.errors import StalledError
from lightning_gradcam.pipeline.worker import Worker

T = TypeVar("T")

# The niceness of the thread that measures and draws.
_NICENESS = 10


class Threads:
    """The thread that measures, writes the archive and draws, and the one that calls loggers.

    Args:
        worker: Creates a background worker.
        stalled: Receives the error if a thread makes no progress, instead of the waiting caller.

    Attributes:
        recording: Measures, writes the archive and draws.
        serving: Calls loggers.
    """

    def __init__(self, worker: Callable[..., Worker], stalled: Callable[[StalledError], None]) -> None:
        # Loggers start their own threads and processes, which belong to the user.
        self.recording, self.serving = worker(niceness=_NICENESS), worker()
        self._stalled = stalled
        self._blocked = 0.0

    @contextmanager
    def blocking(self) -> Iterator[None]:
        """Counts the body's time as training's waiting time."""
        begin = time.perf_counter()
        try:
            yield
        finally:
            self._blocked += time.perf_counter() - begin

    def blocked_before(self) -> float:
        """Returns the seconds that training has waited, and resets the count."""
        blocked, self._blocked = self._blocked, 0.0
        return blocked

    def hand_over(self, name: str, keep: Callable[[], None], show: Callable[[], None], nbytes: int) -> None:
        """Schedules the recording of a step, once there is room for it.

        Args:
            name: The step's name in reports.
            keep: The first part of the work, which does not wait for earlier steps' second part.
            show: The second part.
            nbytes: Memory that the step uses, in bytes.
        """
        with self.blocking():
            self._wait_for(partial(self.recording.submit, name, show, first=keep, nbytes=nbytes))
            # Slow sinks delay training, but not the archive.
            self._wait_for(partial(self.serving.wait_for_room, name))

    def answer(self, name: str, question: Callable[[], T]) -> T | None:
        """Calls a function on the recording thread, before further drawing of earlier steps, and waits for the result.

        Args:
            name: The answer's name in reports.
            question: The function.

        Returns:
            The function's result; ``None`` if the thread makes no progress.
        """
        found: list[T] = []

        def first() -> None:
            found.append(question())

        self._wait_for(partial(self.recording.submit, name, None, first=first, wait=False))
        self._wait_for(partial(self.recording.wait_until, lambda: bool(found), f"stopped waiting for {name}"))
        return found[0] if found else None

    def submit(self, name: str, job: Callable[[], object]) -> None:
        """Submits a job to the recording thread, without waiting."""
        self._wait_for(partial(self.recording.submit, name, job, wait=False))

    def failed(self) -> Iterator[tuple[str, BaseException]]:
        """Yields the jobs that failed since the last call, with the exceptions."""
        for worker in (self.recording, self.serving):
            yield from worker.failed()

    def recorded(self) -> None:
        """Waits until the recording thread has finished all jobs."""
        self._wait_for(self.recording.finish)

    def finish(self) -> None:
        """Waits until both threads have finished all jobs."""
        self.recorded()
        self._wait_for(self.serving.finish)

    def close(self) -> None:
        """Waits until everything is written, and ends both threads."""
        self._wait_for(self.recording.close)
        # Closed sinks no longer accept anything.
        self._wait_for(partial(self.serving.close, drop=True))

    def _wait_for(self, call: Callable[[], None]) -> None:
        try:
            call()
        except StalledError as error:
            self._stalled(error)
