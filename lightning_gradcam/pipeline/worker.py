"""A background thread that runs jobs in order, so the training thread does not wait for drawing and writing."""

from __future__ import annotations

import atexit
import os
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

from lightning_gradcam.errors import StalledError

THREAD_NAME = "lightning-gradcam"
# Seconds between two readings of the clock: suspending the process adds at most this much to the waiting time.
_LOOK = 0.25
# Seconds that a hanging job has to finish when the worker is closed.
_GRACE = 1.0
# Limits on jobs that wait for a hanging job; they are kept in case it finishes.
_MOST_BYTES, _MOST_JOBS = 256 * 2**20, 1000


@dataclass(eq=False)
class _Job:
    name: str
    call: Callable[[], object] | None
    nbytes: int
    first: Callable[[], object] | None
    begun: bool = False

    def now(self) -> None:
        """Runs the whole job."""
        if self.first is not None and not self.begun:
            self.first()
        if self.call is not None:
            self.call()


class Worker:
    """Runs jobs one after the other, in the order in which they were submitted.

    A job may have a first part that does not wait for the rest of earlier jobs: see :meth:`ahead`.

    The thread starts with the first job and ends with :meth:`close`; there is never more than one. When the interpreter
    exits, waiting jobs run first. After waiting in vain for a job, callers do not wait for it again: until it ends,
    later jobs are only kept, up to a limit.

    Args:
        background: Whether to run jobs in the background; ``False`` runs each immediately, on the submitting thread.
        size: Maximum number of waiting jobs; a caller that submits one more waits until there is room.
        patience: Seconds without progress after which callers stop waiting. Time during which the process was suspended
            does not count.
        niceness: How much to lower the thread's priority, so that it yields to training (on Linux; elsewhere, only
            whole processes have priorities). Only for jobs that start no threads or processes, which would inherit it.

    Example:
        >>> worker, done = Worker(), []
        >>> for step in range(3):
        ...     worker.submit(f"step {step}", lambda step=step: done.append(step))
        >>> worker.close()
        >>> done
        [0, 1, 2]
    """

    def __init__(self, *, background: bool = True, size: int = 2, patience: float = 120.0, niceness: int = 0) -> None:
        self._background = background
        self._niceness = niceness
        self._size = size
        self._patience = patience
        self._begin()

    def _begin(self) -> None:
        self._waiting: deque[_Job] = deque()
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        self._current: str | None = None
        self._progress = 0
        self._stalled = False
        self._closing = False
        # Jobs that an earlier call to `close` reported and left behind.
        self._left: list[str | None] = []
        self._failed: deque[tuple[str, BaseException]] = deque()
        self._process = os.getpid()

    @property
    def here(self) -> bool:
        """Whether the caller is one of the worker's own jobs."""
        return threading.current_thread() is self._thread

    def submit(
        self,
        name: str,
        job: Callable[[], object] | None,
        *,
        first: Callable[[], object] | None = None,
        nbytes: int = 0,
        wait: bool = True,
    ) -> None:
        """Queues a job, then waits until there is room again; if interrupted, the job stays in the queue.

        Args:
            name: The job's name in errors.
            job: The work; its exceptions end neither the thread nor later jobs, and are kept for :meth:`failed`.
                ``None`` if there is only a first part.
            first: Runs before the job, and before earlier waiting jobs if they also have a first part.
            nbytes: Memory, in bytes, that the job uses while it waits.
            wait: Whether to wait for room.

        Raises:
            StalledError: The current job exceeded the patience (raised once for each such job), or so many jobs or
                bytes are waiting that this one is left out.
        """
        if not self._background:
            _Job(name, job, nbytes, first).now()
            return
        self._leave_parent()
        with self._changed:
            kept = nbytes + sum(job.nbytes for job in self._waiting)
            if self._stalled and (len(self._waiting) >= _MOST_JOBS or kept > _MOST_BYTES):
                raise StalledError(
                    f"background: {self._current} still has not finished; {name} is left out, because"
                    f" {len(self._waiting)} jobs are already waiting"
                )
            self._waiting.append(_Job(name, job, nbytes, first))
            if not self.here:
                # A job that submits more jobs must not keep a thread alive that should end.
                self._closing = False
            self._run()
            self._changed.notify_all()
        if wait:
            self.wait_for_room(name)

    def wait_for_room(self, name: str) -> None:
        """Waits, as :meth:`wait_until`, until there is room for more jobs; ``name`` is the caller's job."""
        self.wait_until(lambda: len(self._waiting) <= self._size, f"{name} waits in memory")

    def finish(self) -> None:
        """Waits, as :meth:`wait_until`, until all jobs have ended."""
        self.wait_until(lambda: not self._waiting and self._current is None, "the jobs after it have not run yet")

    def wait_until(self, ready: Callable[[], bool], otherwise: str) -> None:
        """Waits until jobs have fulfilled a condition.

        Args:
            ready: Returns whether the condition is fulfilled.
            otherwise: The consequence if it is not, for the error.

        Raises:
            StalledError: The current job exceeded the patience; waiting jobs are kept.
        """
        self._leave_parent()
        with self._changed:
            waited, progress = 0.0, self._progress
            while not ready() and not self._stalled:
                self._run()
                if progress != self._progress:
                    waited, progress = 0.0, self._progress
                if waited >= self._patience:
                    self._stalled = True
                    raise StalledError(
                        f"background: {self._current} has not finished after {self._patience:g} seconds; {otherwise}"
                    )
                look = min(_LOOK, self._patience - waited)
                begin = time.monotonic()
                self._changed.wait(timeout=look)
                # Time that passed while the process was suspended is not the job's.
                waited += min(time.monotonic() - begin, look)

    def close(self, *, drop: bool = False) -> None:
        """Waits until all jobs have ended, and ends the thread; a later job starts a new one.

        Args:
            drop: If the current job hangs, drop the waiting jobs; otherwise the thread continues if that job finishes.

        Raises:
            StalledError: The current job hangs, and its thread is abandoned; raised once for the same jobs.
        """
        self._leave_parent()
        thread = self._thread
        if thread is None:
            atexit.unregister(self.close)
            return
        try:
            with self._changed:
                # A hanging job may finish at this moment.
                self._changed.wait_for(lambda: not self._stalled, timeout=min(_GRACE, self._patience))
            self.finish()
        finally:
            with self._changed:
                hangs, waiting = self._current, [job.name for job in self._waiting]
                self._closing = True
                if drop:
                    self._waiting.clear()
                told = self._left == [hangs, *waiting]
                if self._stalled:
                    # By now it has been reported.
                    self._left = [hangs, *(job.name for job in self._waiting)]
                self._changed.notify_all()
        # Not earlier: if the wait is interrupted, the remaining jobs run at the interpreter's exit.
        atexit.unregister(self.close)
        if hangs is None:
            thread.join()
        elif not told:
            then = "the jobs after it are dropped" if drop else "the jobs after it run if it ends"
            raise StalledError(
                f"background: {hangs} still has not finished; {then}: {', '.join(waiting[:3]) or 'nothing'}"
                + (f" and {len(waiting) - 3} more" if len(waiting) > 3 else "")
            )

    def failed(self) -> list[tuple[str, BaseException]]:
        """Returns the jobs that raised an exception, each once, with the exception."""
        return [self._failed.popleft() for _ in range(len(self._failed))]

    def tick(self) -> None:
        """Called by a job with several parts to report progress."""
        with self._changed:
            self._advance()

    def ahead(self) -> None:
        """Runs waiting jobs' first parts in order, from within a job, up to the first job without one.

        The worker does this before each job; a job with several long parts may call it between them.
        """
        while True:
            with self._changed:
                job = next((job for job in self._waiting if job.first is None or not job.begun), None)
                if job is None or job.first is None:
                    return
                job.begun = True
                if job.call is None:
                    self._waiting.remove(job)
            self._do(job.name, job.first)
            self.tick()

    def _leave_parent(self) -> None:
        """Starts over in a forked process: the thread and its jobs belong to the parent."""
        if self._process != os.getpid():
            self._begin()

    def _run(self) -> None:
        """Starts the thread if there is none, or if it was killed."""
        if self._thread is not None and self._thread.is_alive():
            return
        self._current, self._stalled = None, False
        self._thread = threading.Thread(target=self._work, name=THREAD_NAME, daemon=True)
        try:
            self._thread.start()
        except RuntimeError as error:
            # The system has no more threads: from now on, each job runs immediately, on the submitting thread.
            self._thread, self._background = None, False
            self._failed.append(("starting a thread", error))
            while self._waiting:
                self._waiting.popleft().now()
            return
        atexit.unregister(self.close)
        atexit.register(self.close)

    def _advance(self) -> None:
        self._progress += 1
        self._stalled = False
        self._left = []
        self._changed.notify_all()

    def _work(self) -> None:
        if self._niceness and sys.platform == "linux":
            with suppress(OSError):
                os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), self._niceness)
        while True:
            with self._changed:
                while not self._waiting and not self._closing:
                    self._changed.wait()
                if not self._waiting:
                    self._thread = None
                    return
                job = self._waiting.popleft()
                self._current = job.name
                self._advance()
            if job.first is not None:
                if not job.begun:
                    self._do(job.name, job.first)
                self.ahead()
            if job.call is not None:
                self._do(job.name, job.call)
            # Don't keep it until the next job arrives: it uses as much memory as a step's maps and sheets.
            del job
            with self._changed:
                self._current = None
                self._advance()

    def _do(self, name: str, call: Callable[[], object]) -> None:
        try:
            call()
        except BaseException as error:
            # Including `SystemExit`, which would end the thread.
            self._failed.append((name, error))
