"""The exceptions that this package raises.

::

    LightningGradCAMError
    ├── ConfigurationError (also a ValueError): an argument or option is invalid
    │   ├── LayerError: a layer that does not exist, is not reached or has no spatial activation
    │   ├── TargetError: a target that does not fit the output or the labels
    │   ├── MethodError: a method that is unknown or does not work on a layer
    │   ├── ProbeError: probes that can't be drawn, or do not fit the model
    │   ├── RefusedError: a file names something that must not be imported or called, or its YAML is too large
    │   └── DrawingError: a colour map, scale or size that can't be drawn
    ├── ProbeFileError: a saved probe set that can't be read
    ├── CheckpointFileError: a checkpoint that can't be read
    ├── ArchiveError: an archive that can't be read or written
    ├── StalledError: background work that does not finish
    ├── OtherRankError: joint work of all ranks failed on another rank
    ├── LostRankError: ranks that wait for each other at different points
    └── CaptureError (also a RuntimeError): a gradient or activation is missing
"""

from __future__ import annotations

import difflib
import heapq
from collections.abc import Iterable

# As much as a terminal shows without scrolling; longer messages do not help.
MOST = 500
# The part of it that a list of names may take.
_ROOM, _WHOLE = 240, 300


class LightningGradCAMError(Exception):
    """Base of the exceptions that this package raises on purpose; the text is one line of at most 500 characters."""

    def __str__(self) -> str:
        # It quotes names of layers, classes and files, which may be any text of any length.
        return shortened(printable(super().__str__()))


class ConfigurationError(LightningGradCAMError, ValueError):
    """An argument or option can't work; the message names valid choices."""


class LayerError(ConfigurationError):
    """A layer does not exist, is never reached, or has no spatial activation."""


class TargetError(ConfigurationError):
    """A target does not fit the model's output or the available labels."""


class MethodError(ConfigurationError):
    """A CAM method is unknown or does not work on the layer."""


class ProbeError(ConfigurationError):
    """Probes can't be drawn, or do not fit the model."""


class DrawingError(ConfigurationError):
    """A drawing option is unknown or out of range."""


class RefusedError(ConfigurationError):
    """A file names something that must not be imported or called, or its YAML has too many values."""


class ProbeFileError(LightningGradCAMError):
    """A saved probe set is truncated, has a different schema, or is not a probe set."""


class CheckpointFileError(LightningGradCAMError):
    """A checkpoint is missing or damaged, or the file is not a checkpoint."""


class ArchiveError(LightningGradCAMError):
    """An archive can't be read or written, or its folder belongs to another run."""


class StalledError(LightningGradCAMError):
    """Background work has taken so long that nothing should wait for it any longer."""


class OtherRankError(LightningGradCAMError):
    """Joint work of all ranks failed on another rank."""


class LostRankError(LightningGradCAMError):
    """Ranks wait for each other at different points; only a restart helps."""


class CaptureError(LightningGradCAMError, RuntimeError):
    """A layer provided no activation or no gradient where one was needed."""


def printable(text: str, *, keep: str = "") -> str:
    r"""Returns text that is safe for terminals and event files: unprintable characters are escaped.

    Args:
        text: Any text.
        keep: Characters to leave unchanged, such as the line breaks of a traceback.

    Example:
        >>> printable("new\nline")
        'new\\nline'
    """
    signs = (s if s.isprintable() or s in keep else s.encode("unicode_escape").decode() for s in text)
    return "".join(signs)


def did_you_mean(value: str, choices: Iterable[str], *, limit: int = 40, listing: str = "") -> str:
    """Returns the tail of a 'not found' message: the nearest choice and what is available.

    Args:
        value: The value received.
        choices: The valid choices.
        limit: The largest number of choices to list; with more, only the nearest five are named (fewer if names are
            long).
        listing: The command that lists all choices; named if not all are listed.

    Returns:
        For example ``"; did you mean 'layer4'? available: layer3, layer4"``.
    """
    names = list(choices)
    near = difflib.get_close_matches(value, names, n=1, cutoff=0.5)
    hint = f"; did you mean {near[0]!r}?" if near else ";"
    whole = ", ".join(names)
    if len(names) <= limit and len(whole) <= _WHOLE:
        return f"{hint} available: {whole or '(none)'}"
    return f"{hint} the nearest of {len(names)}: {listed(nearest(value, names), listing=listing)}"


def nearest(value: str, names: Iterable[str], *, count: int = 5) -> list[str]:
    """Returns the names most similar to a wrong one, the nearest first; names that end in it come before all others.

    Example:
        >>> nearest("layer4", ["model.layer4", "layer3", "model.head"], count=2)
        ['model.layer4', 'layer3']
    """
    matcher = difflib.SequenceMatcher(autojunk=False)
    matcher.set_seq2(value)

    def likeness(name: str) -> tuple[bool, float]:
        matcher.set_seq1(name)
        return value != "" and name.endswith(f".{value}"), matcher.ratio()

    return heapq.nlargest(count, names, key=likeness)


def listed(names: Iterable[str], *, count: int = 5, room: int = _ROOM, listing: str = "") -> str:
    """Returns the first names in one line, as many as fit into an error.

    Args:
        names: The names, the most useful first.
        count: The largest number of names.
        room: The largest number of characters, without the listing; the first name is included whatever its length.
        listing: The command that lists all; named if there may be more names.
    """
    every = list(names)
    shown = every[:1]
    for name in every[1:count]:
        if len(", ".join([*shown, name])) > room:
            break
        shown.append(name)
    command = f" (`{listing}` lists all)" if listing else ""
    return f"{', '.join(shown)}{command}" if shown else "(none)"


def shortened(text: str, most: int = MOST) -> str:
    """Shortens an error's text by omitting its middle, because the end says what to do.

    Example:
        >>> shortened("layers: " + "x" * 20 + "; name another", 30)
        'layers: xxxx … x; name another'
    """
    if len(text) <= most:
        return text
    last = most // 2
    return f"{text[: most - last - 3]} … {text[-last:]}"
