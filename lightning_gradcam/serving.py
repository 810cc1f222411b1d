"""Giving finished work to the sinks, each on the thread that it asks for, and keeping what became of it."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial

from lightning_gradcam.failures import Failures
from lightning_gradcam.picture import Picture
from lightning_gradcam.sinks import Entry, Evolution, Histograms, Numbers, Sink


@dataclass(frozen=True)
class Outcome:
    """What became of one part of a step's work; ``error`` is ``None`` where it went well."""

    kind: str
    step: int
    error: Exception | None


class Service:
    """Serves a run's sinks.

    Those that can be called from the worker are called at once, the others by :meth:`settle`, on the training thread;
    so is everything reported there.

    Args:
        sinks: Where pictures and numbers go.
        failures: Says what happens where that fails, and what is given up.
    """

    def __init__(self, sinks: Sequence[Sink], failures: Failures) -> None:
        self._sinks = _named(sinks)
        self._failures = failures
        self._unclosed: list[Sink] = []
        self._handed: deque[tuple[str, int, Callable[[], None]]] = deque()
        self._outcomes: deque[Outcome] = deque()
        self._remarks: deque[str] = deque()

    def __bool__(self) -> bool:
        return bool(self._sinks)

    @property
    def takes_rows(self) -> bool:
        """Whether any sink has tables."""
        return any(sink.takes_rows for sink in self._sinks.values())

    def begin(self) -> None:
        """Something is going to be logged: the sinks are to be closed in the end."""
        self._unclosed = list(self._sinks.values())

    def attempt(self, kind: str, step: int, call: Callable[[], object]) -> None:
        """Does a part of a step's work, unless it is given up; failures are kept for :meth:`settle`.

        Args:
            kind: What a report calls it.
            step: Which step's.
            call: The work.
        """
        if self._failures.given_up(kind):
            return
        try:
            call()
        except Exception as error:
            self.note(kind, step, error)
        else:
            self.note(kind, step)

    def note(self, kind: str, step: int, error: Exception | None = None) -> None:
        """Keeps what became of something."""
        self._outcomes.append(Outcome(kind, step, error))

    def remark(self, text: str) -> None:
        """Keeps a warning that is no failure of ours."""
        self._remarks.append(text)

    def pictures(self, entry: Entry) -> None:
        """Gives the sinks a step's pictures."""
        self._encode(entry.pictures.values())
        self._serve(entry.step, "", lambda sink: partial(sink.log, entry))

    def numbers(self, numbers: Numbers) -> None:
        """Gives the sinks a step's numbers."""
        self._serve(numbers.step, " (numbers)", lambda sink: partial(sink.log_numbers, numbers))

    def histograms(self, histograms: Histograms) -> None:
        """Gives the sinks a step's histograms."""
        self._serve(histograms.step, " (histograms)", lambda sink: partial(sink.log_histograms, histograms))

    def evolution(self, evolution: Evolution) -> None:
        """Gives the sinks the run so far."""
        self._encode(evolution.strips.values())
        for row in evolution.rows:
            for picture in (row.original, *row.overlays.values()):
                picture.encoded("png")
        self._serve(evolution.step, " (film strips)", lambda sink: partial(sink.log_evolution, evolution))

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
            outcome = self._outcomes.popleft()
            if outcome.error is None:
                self._failures.succeeded(outcome.kind)
            elif not self._failures.given_up(outcome.kind):
                # What was under way when it was given up is not said again.
                self._failures.failed(outcome.kind, outcome.step, outcome.error, final=final)

    def close(self, step: int) -> None:
        """Closes, once, the sinks that something was logged to; failures are reported and not raised."""
        sinks, self._unclosed = self._unclosed, []
        self.settle(final=True)
        for name, sink in _named(sinks).items():
            self.attempt(f"closing {name}", step, sink.close)
        self.settle(final=True)

    def _encode(self, pictures: Iterable[Picture]) -> None:
        # Sinks that are served on the training thread find finished files.
        wanted = {tuple(sink.formats) for sink in self._sinks.values() if not sink.thread_safe}
        for picture in pictures if wanted else ():
            for formats in wanted:
                picture.file(formats)

    def _serve(self, step: int, what: str, call: Callable[[Sink], Callable[[], None]]) -> None:
        for name, sink in self._sinks.items():
            if sink.thread_safe:
                self.attempt(f"{name}{what}", step, call(sink))
            else:
                self._handed.append((f"{name}{what}", step, call(sink)))


def _named(sinks: Sequence[Sink]) -> dict[str, Sink]:
    """Returns the sinks by what a report calls them."""
    found: dict[str, Sink] = {}
    for sink in sinks:
        name = f"the sink {type(sink).__name__}"
        found[name if name not in found else f"{name} {len(found) + 1}"] = sink
    return found
