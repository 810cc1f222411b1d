"""Gives finished work to the sinks, each on the thread that it asks for, and keeps the outcome."""

from __future__ import annotations

import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

from lightning_gradcam.errors import StalledError
from lightning_gradcam.pipeline.failures import IN_A_ROW, Failures
from lightning_gradcam.pipeline.worker import Worker
from lightning_gradcam.render.picture import Picture
from lightning_gradcam.sinks import Entry, Evolution, Histograms, Numbers, Sink

WORKER = "the background worker"


@dataclass(frozen=True)
class Parcel:
    """What the sinks get of one step, finished and frozen.

    Attributes:
        step: The x value.
        entry: Its pictures.
        histograms: Its histograms.
        evolution: The run so far.
        numbers: Its numbers; logged last.
        timed: Which of the numbers is in seconds and still lacks what the sinks take for all that comes before it.
        summary: At the end of the run, what it shows, by tag.
    """

    step: int
    entry: Entry | None = None
    histograms: Histograms | None = None
    evolution: Evolution | None = None
    numbers: Numbers | None = None
    timed: str = ""
    summary: Mapping[str, str] | None = None

    @property
    def pictures(self) -> list[Picture]:
        """All pictures in it."""
        found = list(self.entry.pictures.values()) if self.entry is not None else []
        if self.evolution is not None:
            found += self.evolution.strips.values()
            found += [picture for row in self.evolution.rows for picture in (row.original, *row.overlays.values())]
        return found

    @property
    def nbytes(self) -> int:
        """What it keeps in memory, in bytes: pictures, animations and histograms."""
        once = {id(picture): picture.nbytes for picture in self.pictures}
        animations = self.evolution.animations.values() if self.evolution is not None else ()
        histograms = self.histograms.values.values() if self.histograms is not None else ()
        return (
            sum(once.values())
            + sum(len(animation.content) for animation in animations)
            + sum(found.counts.nbytes + found.edges.nbytes for found in histograms)
        )


class Delivery:
    """Serves a run's sinks.

    Those that can be called in the background are called on a thread that does nothing else: a logger that hangs
    holds up neither the archive nor drawing. The others are called by :meth:`settle`, on the training thread, where
    all that has failed is reported, too.

    Args:
        sinks: Where pictures and numbers go.
        failures: Reports what fails, and decides what is given up.
        worker: Calls the sinks.
    """

    def __init__(self, sinks: Sequence[Sink], failures: Failures, worker: Worker) -> None:
        self._sinks = _named(sinks)
        self._failures = failures
        self._worker = worker
        self._unclosed: dict[str, Sink] = {}
        self._handed: deque[tuple[str, int, Callable[[], None]]] = deque()
        # What became of each part of the work: its kind and step, and the error where it failed.
        self._outcomes: deque[tuple[str, int, Exception | None]] = deque()
        self._in_a_row: Counter[str] = Counter()
        self._remarks: deque[str] = deque()
        self._called = ""
        self._open = True

    def __bool__(self) -> bool:
        return bool(self._sinks)

    @property
    def takes_rows(self) -> bool:
        """Whether any sink has tables."""
        return any(sink.takes_rows for sink in self._sinks.values())

    def begin(self) -> None:
        """Something is going to be logged: the sinks have to be closed in the end."""
        self._unclosed = dict(self._sinks)
        self._open = True

    def attempt(self, kind: str, step: int, call: Callable[[], object]) -> None:
        """Does a part of a step's work, unless it is given up; failures are kept for :meth:`settle`.

        Args:
            kind: What a report calls it.
            step: Which step's.
            call: The work.
        """
        # Reports come later, on the training thread; by then a lagging worker would have tried more often.
        if self._failures.given_up(kind) or self._in_a_row[kind] >= IN_A_ROW:
            return
        try:
            call()
        except Exception as error:
            self.note(kind, step, error)
        except BaseException as error:
            # On the training thread these two are the user's; in the background they would go unnoticed.
            main = threading.current_thread() is threading.main_thread()
            if main and isinstance(error, (KeyboardInterrupt, SystemExit)):
                raise
            self.note(kind, step, reportable(error))
        else:
            self.note(kind, step)

    def note(self, kind: str, step: int, error: Exception | None = None) -> None:
        """Keeps the outcome of a part of the work."""
        self._in_a_row[kind] = 0 if error is None else self._in_a_row[kind] + 1
        self._outcomes.append((kind, step, error))

    def remark(self, text: str) -> None:
        """Keeps a warning of something that is not a failure."""
        self._remarks.append(text)

    def send(self, parcel: Parcel) -> None:
        """Has the sinks called, in the order in which parcels are sent; does not wait for them.

        Once the sinks are closed, what a disk that hung has held back until then is no longer sent.
        """
        if not self._sinks or not self._open:
            return
        job = partial(self._deliver, parcel)
        try:
            self._worker.submit(f"step {parcel.step}", job, nbytes=parcel.nbytes, wait=False)
        except StalledError as error:
            self.note(WORKER, parcel.step, error)

    def settle(self, *, final: bool = False) -> None:
        """Serves, on this thread, the sinks that ask for it, and reports what has failed since the last call.

        Args:
            final: The run is over: failures are only reported.
        """
        while self._handed:
            self.attempt(*self._handed.popleft())
        while self._remarks:
            self._failures.say(self._remarks.popleft())
        while self._outcomes:
            kind, step, error = self._outcomes.popleft()
            if error is None:
                self._failures.succeeded(kind)
            elif not self._failures.given_up(kind):
                # What was under way when it was given up is not reported again.
                self._failures.failed(kind, step, error, final=final)

    def close(self, step: int) -> None:
        """Closes, once, the sinks that something was logged to; failures are reported and not raised."""
        sinks, self._unclosed, self._open = self._unclosed, {}, False
        self.settle(final=True)
        ended: list[BaseException] = []
        for name, sink in sinks.items():
            # A sink may be called by one thread at a time.
            if name != self._called:
                try:
                    self.attempt(f"closing {name}", step, sink.close)
                except BaseException as error:  # the user's; the other sinks are closed all the same
                    ended.append(error)
        self.settle(final=True)
        if ended:
            raise ended[0]

    def _deliver(self, parcel: Parcel) -> None:
        """The sinks' part of one step."""
        begin = time.perf_counter()
        # Sinks that are served on the training thread find finished files.
        wanted = {tuple(sink.formats) for sink in self._sinks.values() if not sink.thread_safe}
        for picture in parcel.pictures if wanted else ():
            for formats in wanted:
                self.attempt("drawing", parcel.step, partial(picture.file, formats))
        step, numbers = parcel.step, parcel.numbers
        self._serve(step, "", Sink.log, parcel.entry)
        self._serve(step, " (histograms)", Sink.log_histograms, parcel.histograms)
        self._serve(step, " (film strips)", Sink.log_evolution, parcel.evolution)
        if numbers is not None and parcel.timed:
            spent = numbers.values[parcel.timed] + time.perf_counter() - begin
            numbers = replace(numbers, values={**numbers.values, parcel.timed: spent})
        self._serve(step, " (numbers)", Sink.log_numbers, numbers)
        self._serve(step, " (summary)", Sink.log_summary, parcel.summary)

    def _serve(self, step: int, what: str, method: Callable[..., None], content: object) -> None:
        """Has every sink called with a part of a step, where the step has that part."""
        for name, sink in self._sinks.items() if content is not None else ():
            if not self._open:
                # Closed while another sink, which has come back now, hung.
                return
            call = partial(getattr(sink, method.__name__), content)
            if sink.thread_safe:
                self._called = name
                self.attempt(f"{name}{what}", step, call)
                self._called = ""
                self._worker.tick()
            else:
                self._handed.append((f"{name}{what}", step, call))


def _named(sinks: Iterable[Sink]) -> dict[str, Sink]:
    """Returns the sinks by what a report calls them."""
    found: dict[str, Sink] = {}
    for sink in sinks:
        name = f"the sink {type(sink).__name__}"
        found[name if name not in found else f"{name} {len(found) + 1}"] = sink
    return found


def reportable(error: BaseException) -> Exception:
    """Returns an exception that can be reported and raised like any other, for one that would end a thread."""
    if isinstance(error, Exception):
        return error
    found = RuntimeError(f"{type(error).__name__}({error}) was raised in the background, where it would end the thread")
    found.__cause__ = error
    return found
