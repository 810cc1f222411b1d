"""Keeps images in memory, for tests and notebooks."""

from __future__ import annotations

from collections.abc import Mapping

from lightning_gradcam.sinks.base import Entry, Evolution, Histograms, Numbers, Sink


class MemorySink(Sink):
    """Keeps every entry.

    Attributes:
        entries: The logged images, in order.
        numbers: The logged numbers, in order.
        histograms: The histograms, in order.
        evolutions: The film strips and animations, in order.
        summaries: The findings by tag, in order.
        closed: Whether the run has ended.

    Example:
        >>> sink = MemorySink()
        >>> sink.log(Entry(step=10, epoch=0, pictures={}))
        >>> [entry.step for entry in sink.entries]
        [10]
    """

    thread_safe = True
    takes_rows = True

    def __init__(self) -> None:
        self.entries: list[Entry] = []
        self.numbers: list[Numbers] = []
        self.histograms: list[Histograms] = []
        self.evolutions: list[Evolution] = []
        self.summaries: list[dict[str, str]] = []
        self.closed = False

    def log(self, entry: Entry) -> None:
        """Appends the entry."""
        self.entries.append(entry)

    def log_numbers(self, numbers: Numbers) -> None:
        """Appends the numbers."""
        self.numbers.append(numbers)

    def log_histograms(self, histograms: Histograms) -> None:
        """Appends the histograms."""
        self.histograms.append(histograms)

    def log_evolution(self, evolution: Evolution) -> None:
        """Appends the evolution."""
        self.evolutions.append(evolution)

    def log_summary(self, summary: Mapping[str, str]) -> None:
        """Appends the summary."""
        self.summaries.append(dict(summary))

    def close(self) -> None:
        """Records that the run has ended; the entries are kept."""
        self.closed = True
