"""The background thread: order, bound, end, and work that does not come to an end."""

from __future__ import annotations

import subprocess
import sys
import threading

import pytest

from lightning_gradcam import StalledError
from lightning_gradcam.worker import THREAD_NAME, Worker


def threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name == THREAD_NAME]


def test_jobs_are_done_in_order_by_one_thread_that_ends() -> None:
    worker, done = Worker(), []
    assert threads() == []
    for number in range(20):
        worker.submit(f"job {number}", lambda number=number: done.append((number, threading.current_thread().name)))
    assert threads() == [THREAD_NAME]
    worker.finish()
    assert done == [(number, THREAD_NAME) for number in range(20)]
    worker.close()
    assert threads() == []
    worker.close()
    worker.submit("one more", lambda: done.append((20, "")))
    worker.close()
    assert done[-1] == (20, "")


def test_in_line_every_job_is_done_by_the_caller_at_once() -> None:
    worker, done = Worker(background=False), []
    worker.submit("a job", lambda: done.append(threading.current_thread()))
    assert done == [threading.main_thread()]
    assert threads() == []
    worker.finish()
    worker.close()


def test_the_queue_is_bounded() -> None:
    worker, go, given = Worker(size=2), threading.Event(), []

    def give() -> None:
        for number in range(5):
            worker.submit(f"job {number}", go.wait)
            given.append(number)

    giver = threading.Thread(target=give)
    giver.start()
    # One at work and two waiting; the fourth has to wait for room.
    while len(given) < 3:
        giver.join(0.01)
    giver.join(0.2)
    assert given == [0, 1, 2]
    go.set()
    giver.join()
    assert given == [0, 1, 2, 3, 4]
    worker.close()


def test_a_job_that_hangs_is_named_and_nobody_waits_for_ever() -> None:
    worker, go = Worker(size=1, patience=0.2), threading.Event()
    worker.submit("step 4", go.wait)
    worker.submit("step 8", lambda: pytest.fail("was dropped"))
    with pytest.raises(StalledError, match="step 4 has not come to an end in 0.2 seconds; step 12 is left out"):
        worker.submit("step 12", lambda: None)
    with pytest.raises(StalledError, match="step 4 has not come to an end"):
        worker.finish()
    with pytest.raises(StalledError, match="step 4 has not come to an end"):
        worker.close()
    go.set()
    while threads():
        pass


def test_what_waits_is_done_before_the_interpreter_ends() -> None:
    code = (
        "import time\n"
        "from lightning_gradcam.worker import Worker\n"
        "worker = Worker()\n"
        "for n in range(3): worker.submit('a job', lambda n=n: (time.sleep(0.2), print(n, flush=True)))\n"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert found.stdout.split() == ["0", "1", "2"]
    assert found.stderr == ""
