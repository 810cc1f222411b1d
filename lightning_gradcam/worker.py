"""One background thread that does jobs in order, so that the training thread need not wait for drawing and writing."""

from __future__ import annotations

import atexit
import threading
import time
from collections import deque
from collections.abc import Callable

from lightning_gradcam.errors import StalledError

THREAD_NAME = "lightning-gradcam"


class Worker:
    """Does jobs one after the other, in the order in which they were given.

    The thread begins with the first job and ends with :meth:`close`; at the interpreter's exit, what is waiting is
    done first.

    Args:
        background: ``False`` does each job at once, in the thread that gives it.
        size: How many jobs may wait; whoever gives one more waits until there is room.
        patience: Seconds that a single job may take before nobody waits for it any more.

    Example:
        >>> worker, done = Worker(), []
        >>> for step in range(3):
        ...     worker.submit(f"step {step}", lambda step=step: done.append(step))
        >>> worker.close()
        >>> done
        [0, 1, 2]
    """

    def __init__(self, *, background: bool = True, size: int = 2, patience: float = 120.0) -> None:
        self._background = background
        self._size = size
        self._patience = patience
        self._waiting: deque[tuple[str, Callable[[], object]]] = deque()
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        self._current: str | None = None
        self._since = 0.0
        self._closing = False

    def submit(self, name: str, job: Callable[[], object]) -> None:
        """Takes a job, which handles its own exceptions, and waits for room where the queue is full.

        Raises:
            StalledError: There is no room, and the job at work has run out of patience.
        """
        if not self._background:
            job()
            return
        with self._changed:
            self._wait(lambda: len(self._waiting) < self._size, f"{name} is left out")
            self._waiting.append((name, job))
            self._changed.notify_all()
        if self._thread is None:
            self._closing = False
            self._thread = threading.Thread(target=self._work, name=THREAD_NAME, daemon=True)
            self._thread.start()
            atexit.register(self.close)

    def finish(self) -> None:
        """Waits until all jobs have ended.

        Raises:
            StalledError: The job at work has run out of patience.
        """
        with self._changed:
            self._wait(lambda: not self._waiting and self._current is None, "what waits behind it is not done yet")

    def close(self) -> None:
        """Waits until all jobs have ended, and ends the thread; a later job begins a new one.

        Raises:
            StalledError: The job at work has run out of patience; the thread is left to it, and what waits is dropped.
        """
        atexit.unregister(self.close)
        thread, self._thread = self._thread, None
        if thread is None:
            return
        try:
            self.finish()
        finally:
            with self._changed:
                self._closing = True
                self._waiting.clear()
                self._changed.notify_all()
        thread.join()

    def _wait(self, ready: Callable[[], bool], otherwise: str) -> None:
        while not ready():
            if self._current is not None and time.monotonic() - self._since > self._patience:
                raise StalledError(
                    f"background: {self._current} has not come to an end in {self._patience:g} seconds; {otherwise}"
                )
            self._changed.wait(timeout=min(1.0, self._patience))

    def _work(self) -> None:
        while True:
            with self._changed:
                while not self._waiting and not self._closing:
                    self._changed.wait()
                if not self._waiting:
                    return
                self._current, job = self._waiting.popleft()
                self._since = time.monotonic()
                self._changed.notify_all()
            try:
                job()
            finally:
                # Not kept until the next job comes: what it holds is as large as a step's maps and pictures.
                del job
                with self._changed:
                    self._current = None
                    self._changed.notify_all()
