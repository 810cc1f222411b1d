"""The background thread: order, bound, end, and jobs that hang, fail, or are forked away."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

import lightning_gradcam.pipeline.worker
from lightning_gradcam import StalledError
from lightning_gradcam.pipeline.threads import Threads
from lightning_gradcam.pipeline.worker import THREAD_NAME, Worker
from tests.children import FORKED, LIMIT


def threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name == THREAD_NAME]


def until(ready: Callable[[], Any]) -> None:
    """Waits for another thread, and fails instead of waiting for ever."""
    end = time.monotonic() + LIMIT
    while not ready():
        assert time.monotonic() < end
        time.sleep(0.005)


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


@pytest.mark.parametrize("drop", [False, True])
def test_a_job_that_hangs_is_waited_for_once_and_what_waits_is_done_when_it_comes_back(drop: bool) -> None:
    worker, go, done = Worker(size=1, patience=0.2), threading.Event(), []
    worker.submit("step 4", go.wait)
    worker.submit("step 8", lambda: done.append(8))
    with pytest.raises(StalledError, match="step 4 has not finished after 0.2 seconds; step 12 waits in mem"):
        worker.submit("step 12", lambda: done.append(12))
    # Nobody waits for it again, whatever its patience.
    worker._patience = 1e9
    worker.submit("step 16", lambda: done.append(16))
    worker.finish()
    assert done == []
    then = "are dropped" if drop else "run if it ends"
    with pytest.raises(
        StalledError, match=f"step 4 still has not finished.*jobs after it {then}: step 8, step 12, step 16"
    ):
        worker.close(drop=drop)
    # A later job does not begin a second thread beside the one that hangs.
    worker.submit("step 20", lambda: done.append(threads()), wait=False)
    assert threads() == [THREAD_NAME]
    go.set()
    until(lambda: [THREAD_NAME] in done)
    assert done == ([] if drop else [8, 12, 16]) + [[THREAD_NAME]]
    worker.close()
    assert threads() == []


def test_what_waits_behind_a_job_that_hangs_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lightning_gradcam.pipeline.worker, "_MOST_BYTES", 100)
    worker, go, done = Worker(size=0, patience=0.1), threading.Event(), []
    worker.submit("step 4", go.wait, wait=False)
    with pytest.raises(StalledError, match="step 8 waits in memory"):
        worker.submit("step 8", lambda: done.append(8), nbytes=60)
    with pytest.raises(StalledError, match="step 12 is left out, because 1 jobs are already waiting"):
        worker.submit("step 12", lambda: done.append(12), nbytes=60)
    worker.submit("step 16", lambda: done.append(16), nbytes=40)
    go.set()
    until(lambda: len(done) == 2)
    worker.close()
    assert done == [8, 16]


def test_patience_counts_from_the_last_progress() -> None:
    """Ten jobs, and ten parts of one, each of which takes three quarters of the patience."""
    worker = Worker(patience=0.4)

    def in_parts() -> None:
        for _ in range(10):
            time.sleep(0.3)
            worker.tick()

    for number in range(10):
        worker.submit(f"part {number}", lambda: time.sleep(0.3), wait=False)
    worker.submit("ten parts", in_parts, wait=False)
    worker.finish()
    worker.close()


def _stopped_while_it_waits(pipe: Any) -> None:
    worker = Worker(patience=2.5)
    pipe.send("begun")
    worker.submit("a job", lambda: time.sleep(2), wait=False)
    worker.finish()
    pipe.send("finished")


@pytest.mark.slow
def test_time_in_which_the_process_is_suspended_does_not_count() -> None:
    ours, theirs = FORKED.Pipe(duplex=False)
    process = FORKED.Process(target=_stopped_while_it_waits, args=(theirs,))
    process.start()
    assert ours.recv() == "begun"
    time.sleep(0.5)
    assert process.pid is not None
    os.kill(process.pid, signal.SIGSTOP)
    time.sleep(4)
    os.kill(process.pid, signal.SIGCONT)
    assert ours.poll(LIMIT)
    assert ours.recv() == "finished"
    process.join()


@pytest.mark.parametrize("error", [SystemExit, KeyboardInterrupt, ValueError, GeneratorExit])
def test_what_a_job_raises_ends_neither_the_thread_nor_later_jobs(error: type[BaseException]) -> None:
    worker, done = Worker(size=0), []

    def fail() -> None:
        raise error("of the job")

    for number in range(5):
        worker.submit(f"job {number}", fail)
    worker.submit("the last", lambda: done.append(threads()))
    worker.close()
    assert done == [[THREAD_NAME]]
    assert [(name, type(found)) for name, found in worker.failed()] == [(f"job {n}", error) for n in range(5)]
    assert worker.failed() == []


def test_a_thread_that_was_killed_is_replaced() -> None:
    worker, done = Worker(), []
    worker.submit("the first", lambda: done.append(1))
    worker.finish()
    thread = worker._thread
    assert thread is not None
    # An exception from outside, where no job is at work.
    ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread.ident or 0), ctypes.py_object(SystemExit))
    worker.tick()
    thread.join(LIMIT)
    assert not thread.is_alive()
    worker.submit("the second", lambda: done.append(2))
    worker.close()
    assert done == [1, 2]


def test_what_waits_is_done_before_the_interpreter_ends() -> None:
    code = (
        "import time\n"
        "from lightning_gradcam.pipeline.worker import Worker\n"
        "worker = Worker()\n"
        "for n in range(3): worker.submit('a job', lambda n=n: (time.sleep(0.2), print(n, flush=True)))\n"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert found.stdout.split() == ["0", "1", "2"]
    assert found.stderr == ""


def test_a_forked_child_does_not_wait_for_its_parents_jobs() -> None:
    code = (
        "import os, sys, time\n"
        "from lightning_gradcam.pipeline.worker import Worker\n"
        "worker = Worker(patience=50)\n"
        "worker.submit('a job', lambda: time.sleep(2), wait=False)\n"
        "worker.submit('another', lambda: None, wait=False)\n"
        "begin, child = time.monotonic(), os.fork()\n"
        "if not child:\n"
        "    worker.submit('its own', lambda: print('child', flush=True))\n"
        "    worker.close()\n"
        "    sys.exit()\n"  # the exit hooks are the parent's, too
        "os.waitpid(child, 0)\n"
        "print(time.monotonic() - begin < 1.5)\n"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert found.stdout.split() == ["child", "True"]


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has priorities of threads")
def test_a_thread_that_gives_way_lowers_its_own_priority_alone() -> None:
    found: list[int] = []
    before = os.getpriority(os.PRIO_PROCESS, threading.get_native_id())
    worker = Worker(niceness=3)
    worker.submit("a job", lambda: found.append(os.getpriority(os.PRIO_PROCESS, threading.get_native_id())))
    worker.close()
    assert found == [3 if before < 3 else before]
    assert os.getpriority(os.PRIO_PROCESS, threading.get_native_id()) == before


def test_without_threads_jobs_are_done_by_the_caller_and_that_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    worker, done = Worker(), []
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        for number in range(3):
            worker.submit(f"job {number}", lambda number=number: done.append(number))
        worker.finish()
        worker.close()
    assert done == [0, 1, 2]
    assert [name for name, _ in worker.failed()] == ["starting a thread"]


def test_first_parts_are_done_ahead_of_earlier_jobs_up_to_a_job_that_has_none() -> None:
    worker, done, go = Worker(size=9), list[str](), threading.Event()

    def in_parts() -> None:
        assert go.wait(LIMIT)
        worker.ahead()
        done.append("1 rest")

    worker.submit("1", in_parts, first=lambda: done.append("1 first"))
    until(lambda: done)
    for name in "23":
        worker.submit(name, partial(done.append, f"{name} rest"), first=partial(done.append, f"{name} first"))
    worker.submit("4", partial(done.append, "4"))
    worker.submit("5", partial(done.append, "5 rest"), first=partial(done.append, "5 first"))
    go.set()
    worker.close()
    assert done == ["1 first", "2 first", "3 first", "1 rest", "2 rest", "3 rest", "4", "5 first", "5 rest"]


def test_a_first_part_that_fails_is_reported_and_costs_no_other() -> None:
    def fail() -> None:
        raise SystemExit("of the first part")

    worker, done = Worker(size=9), []
    go = threading.Event()
    worker.submit("1", go.wait, first=lambda: None)
    worker.submit("2", lambda: done.append(2), first=fail)
    go.set()
    worker.close()
    assert done == [2]
    assert [(name, type(error)) for name, error in worker.failed()] == [("2", SystemExit)]


def test_an_answer_is_not_kept_waiting_by_drawing_nor_waited_for_in_vain() -> None:
    drawn, hangs, stalled = threading.Event(), threading.Event(), list[StalledError]()
    both = Threads(partial(Worker, patience=2), stalled.append)

    def draw() -> None:
        while not drawn.wait(0.01):
            both.recording.ahead()

    both.hand_over("step 1", lambda: None, draw, 0)
    # While the first step is drawn; what was answered takes no room.
    assert [both.answer(f"measuring step {step}", partial(int, step)) for step in range(2, 9)] == [*range(2, 9)]
    both.hand_over("step 2", lambda: None, lambda: None, 0)
    drawn.set()
    both.submit("a job", hangs.wait)
    assert both.answer("measuring step 3", lambda: 3) is None
    assert "a job has not finished after 2 seconds; stopped waiting for measuring step 3" in str(stalled[0])
    hangs.set()
    both.close()
    assert len(stalled) == 1
