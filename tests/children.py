"""Processes that a test may starve, interrupt and kill, forked from a server that has imported everything already."""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import resource
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch

from lightning_gradcam import GradCAMCallback

FORKED = multiprocessing.get_context("forkserver")
FORKED.set_forkserver_preload(["tests.children", "tests.pipeline.test_faults", "tests.archive.test_kills"])
# Whoever hangs is found here, and not by CI's own limit.
LIMIT = 120.0
NOBODY = 65534
_NEW_MOUNTS = 0x00020000
_PRIVATE = 1 << 18 | 1 << 14


def answer_of(work: Callable[..., Any], *args: Any) -> Any:
    """Returns what `work` returns in a process of its own; the test is skipped where that says it can't be done."""
    ours, theirs = FORKED.Pipe(duplex=False)
    process = FORKED.Process(target=_answer, args=(theirs, work, args))
    process.start()
    theirs.close()
    try:
        assert ours.poll(LIMIT), f"{work.__name__} does not come to an end"
        answer = ours.recv()
    finally:
        process.kill()
        process.join()
        ours.close()
    if isinstance(answer, NotHereError):
        pytest.skip(str(answer))
    if isinstance(answer, BaseException):
        raise answer
    return answer


class NotHereError(Exception):
    """What a test needs can't be had on this machine."""


def _answer(pipe: Any, work: Callable[..., Any], args: Any) -> None:
    torch.set_num_threads(1)
    try:
        pipe.send(work(*args))
    except BaseException as error:
        pipe.send(error)


@contextmanager
def warned() -> Iterator[list[str]]:
    """The texts of our own warnings in the body, but for those of blank maps: what tiny random networks give anyway."""
    texts: list[str] = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            yield texts
        finally:
            own = [text for text in (str(w.message) for w in caught) if "lightning-gradcam" in text]
            texts += [text for text in own if "blank (zero after the ReLU)" not in text]


def small_disk(folder: Path, kilobytes: int) -> None:
    """Puts a tiny disk there; it goes away with this process, and no other one sees it."""
    c = ctypes.CDLL(None, use_errno=True)
    folder.mkdir(parents=True, exist_ok=True)
    if not hasattr(c, "unshare"):
        raise NotHereError("only Linux can mount a disk for one process")
    if c.unshare(_NEW_MOUNTS) or c.mount(None, b"/", None, _PRIVATE, None):
        raise NotHereError("only root can mount a small disk")
    if c.mount(b"tmpfs", os.fsencode(folder), b"tmpfs", 0, f"size={kilobytes}k".encode()):
        raise NotHereError("no disk can be mounted here")


def fill(file: Path) -> None:
    """Leaves no room on the disk."""
    with open(file, "wb", buffering=0) as ballast, pytest.raises(OSError, match="No space left"):
        while True:
            ballast.write(bytes(1024))


def limit_files(size: int) -> None:
    """No file of this process may grow beyond that; -1: any size."""
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (hard if size < 0 else size, hard))


@contextmanager
def as_nobody() -> Iterator[None]:
    """Without root's rights, to whom every folder is open."""
    user, group = os.geteuid(), os.getegid()
    # zipfile loads this codec with the first archive that it reads, from a folder that may be root's alone.
    "".encode("cp437")
    if user == 0:
        os.setegid(NOBODY)
        os.seteuid(NOBODY)
    try:
        if not os.access(torch.__file__, os.R_OK, effective_ids=True):
            raise NotHereError("the installed packages lie in a folder that root alone may enter")
        yield
    finally:
        os.seteuid(user)
        os.setegid(group)


class At(pl.Callback):
    """Does something once, when an epoch begins and everything logged before has been written."""

    def __init__(self, epoch: int, act: Callable[[], object]) -> None:
        self.epoch, self.act = epoch, act

    def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        if trainer.current_epoch == self.epoch:
            for callback in trainer.callbacks:
                if isinstance(callback, GradCAMCallback) and callback._run.recorder is not None:
                    callback._run.recorder.finish()
            self.act()


def files_of(root: Path) -> list[str]:
    """Every file below a folder, by its path there."""
    return sorted(file.relative_to(root).as_posix() for file in root.rglob("*") if file.is_file())
