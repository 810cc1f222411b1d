"""Passes finished work to each sink on the thread that it requires, and keeps the outcome."""

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
    """One step's data for the sinks, finished and frozen.

    Attributes:
        step: The x value.
        entry: The step's sheets.
        histograms: The step's histograms.
        evolution: The run so far.
        numbers: The step's numbers, logged after the above.
        timed: Tag of the number, in seconds, to which the sinks' time for logging the above is added.
        summary: The run's findings by tag, when it has ended.
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
        """All images in the parcel."""
        found = list(self.entry.pictures.values()) if self.entry is not None else []
        if self.evolution is not None:
            found += self.evolution.strips.values()
            found += [picture for row in self.evolution.rows for picture in (row.original, *row.overlays.values())]
        return found

    @property
    def nbytes(self) -> int:
        """Memory used by images, animations and histograms, in bytes."""
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

    Thread-safe sinks are called on a dedicated background thread, so a logger that hangs delays neither the archive nor
    drawing. The others are called by :meth:`settle` on the training thread, where all failures are also reported.

    Args:
        sinks: Destinations for images and numbers.
        failures: Reports failures, and decides what is disabled.
        worker: Calls the sinks.
    """

    def __init__(self, sinks: Sequence[Sink], failures: Failures, worker: Worker) -> None:
        self._sinks = _named(sinks)
        self._failures = failures
        self._worker = worker
        self._unclosed: dict[str, Sink] = {}
        self._handed: deque[tuple[str, int, Callable[[], None]]] = deque()
        # Each outcome of a part of the work: its kind, its step, and the error if it failed.
        self._outcomes: deque[tuple[str, int, Exception | None]] = deque()
        self._in_a_row: Counter[str] = Counter()
        self._remarks: deque[str] = deque()
        self._called = ""
        self._open = True

    def __bool__(self) -> bool:
        return bool(self._sinks)

    @property
    def takes_rows(self) -> bool:
        """Whether any sink supports tables."""
        return any(sink.takes_rows for sink in self._sinks.values())

    def begin(self) -> None:
        """Marks that something will be logged, so the sinks must eventually be closed."""
        self._unclosed = dict(self._sinks)
        self._open = True

    def attempt(self, kind: str, step: int, call: Callable[[], object]) -> None:
        """Does a part of a step's work, unless this kind is disabled; failures are kept for :meth:`settle`.

        Args:
            kind: The part's name in reports.
            step: The step to which it belongs.
            call: The work.
        """
        # Failures are reported later, on the training thread; by then, a lagging worker would have tried more often.
        if self._failures.given_up(kind) or self._in_a_row[kind] >= IN_A_ROW:
            return
        try:
            call()
        except Exception as error:
            self.note(kind, step, error)
        except BaseException as error:
            # On the training thread, these two are the user's; in the background, they would go unnoticed.
            main = threading.current_thread() is threading.main_thread()
            if main and isinstance(error, (KeyboardInterrupt, SystemExit)):
                raise
            self.note(kind, step, reportable(error))
        else:
            self.note(kind, step)

    def note(self, kind: str, step: int, error: Exception | None = None) -> None:
        """Stores the outcome of a part of the work."""
        self._in_a_row[kind] = 0 if error is None else self._in_a_row[kind] + 1
        self._outcomes.append((kind, step, error))

    def remark(self, text: str) -> None:
        """Stores a warning about something that is not a failure."""
        self._remarks.append(text)

    def send(self, parcel: Parcel) -> None:
        """Schedules the calls to the sinks, in the order in which parcels are sent, without waiting.

        Once the sinks are closed, parcels that a hanging disk delayed are no longer sent.
        """
        if not self._sinks or not self._open:
            return
        job = partial(self._deliver, parcel)
        try:
            self._worker.submit(f"step {parcel.step}", job, nbytes=parcel.nbytes, wait=False)
        except StalledError as error:
            self.note(WORKER, parcel.step, error)

    def settle(self, *, final: bool = False) -> None:
        """Calls the sinks that require this thread, and reports failures since the last call.

        Args:
            final: Whether the run is over; failures are then only reported.
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
                # Don't report work that was in progress when its kind was disabled.
                self._failures.failed(kind, step, error, final=final)

    def close(self, step: int) -> None:
        """Closes the sinks that received something, once; failures are reported, not raised."""
        sinks, self._unclosed, self._open = self._unclosed, {}, False
        self.settle(final=True)
        ended: list[BaseException] = []
        for name, sink in sinks.items():
            # Only one thread at a time may call a sink.
            if name != self._called:
                try:
                    self.attempt(f"closing {name}", step, sink.close)
                except BaseException as error:  # the user's; the other sinks are still closed
                    ended.append(error)
        self.settle(final=True)
        if ended:
            raise ended[0]

    def _deliver(self, parcel: Parcel) -> None:
        """Calls the sinks for one step."""
        begin = time.perf_counter()
        # Sinks that are called on the training thread receive finished files.
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
        """Calls every sink with a part of a step, if the step has that part."""
        for name, sink in self._sinks.items() if content is not None else ():
            if not self._open:
                # Closed while another sink was hanging, which has returned by now.
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
    """Returns the sinks by name, for reports."""
    found: dict[str, Sink] = {}
    for sink in sinks:
        name = f"the sink {type(sink).__name__}"
        found[name if name not in found else f"{name} {len(found) + 1}"] = sink
    return found


def reportable(error: BaseException) -> Exception:
    """Converts an exception that would end a thread to one that can be reported and raised as any other."""
    if isinstance(error, Exception):
        return error
    found = RuntimeError(f"{type(error).__name__}({error}) was raised in the background, where it would end the thread")
    found.__cause__ = error
    return found
