"""The exceptions that this package raises.

::

    LightningGradCAMError
    ├── ConfigurationError (also a ValueError): something the user gave can't work
    │   ├── LayerError: a layer that does not exist, is not reached or has no spatial activation
    │   ├── TargetError: a target that the output or the labels can't serve
    │   ├── MethodError: a method that is unknown or can't work on a layer
    │   ├── ProbeError: probes that can't be drawn, or do not fit the model
    │   ├── RefusedError: a file names what may not be imported or called, or is YAML without bounds
    │   └── DrawingError: a colour map, scale or size that can't be drawn
    ├── ProbeFileError: a saved probe set that can't be read
    ├── CheckpointFileError: a checkpoint that can't be read
    ├── ArchiveError: an archive that can't be read or written
    ├── StalledError: work in the background that does not come to an end
    ├── OtherRankError: what all ranks do together failed on another one
    ├── LostRankError: ranks that wait for each other in different places
    └── CaptureError (also a RuntimeError): no gradient or no activation came back
"""

from __future__ import annotations

import difflib
import heapq
from collections.abc import Iterable

# What a terminal shows without scrolling; a message beyond that is no help.
MOST = 500
# What a list of names may take of it.
_ROOM, _WHOLE = 240, 300


class LightningGradCAMError(Exception):
    """Base of everything that this package raises on purpose; its text is one line of at most 500 characters."""

    def __str__(self) -> str:
        # Names of layers, classes and files are quoted in it, and may be any text, of any length.
        return shortened(printable(super().__str__()))


class ConfigurationError(LightningGradCAMError, ValueError):
    """Something the user gave can't work; the message says what can."""


class LayerError(ConfigurationError):
    """A layer does not exist, is never reached, or has no spatial activation."""


class TargetError(ConfigurationError):
    """A target does not fit the model's output or the labels at hand."""


class MethodError(ConfigurationError):
    """A CAM method is unknown or can't work on the layer."""


class ProbeError(ConfigurationError):
    """Probes can't be drawn from what was given."""


class DrawingError(ConfigurationError):
    """A drawing option is unknown or out of range."""


class RefusedError(ConfigurationError):
    """A file names what may not be imported or called, or asks for more values than a configuration has."""


class ProbeFileError(LightningGradCAMError):
    """A saved probe set is truncated, of a different schema, or not a probe set at all."""


class CheckpointFileError(LightningGradCAMError):
    """A checkpoint is missing, damaged, or none at all."""


class ArchiveError(LightningGradCAMError):
    """An archive can't be read or written, or its folder belongs to another run."""


class StalledError(LightningGradCAMError):
    """Work in the background has taken so long that nobody should wait for it any more."""


class OtherRankError(LightningGradCAMError):
    """What all ranks do together has failed on another one."""


class LostRankError(LightningGradCAMError):
    """Ranks wait for each other in different places; only a new start helps."""


class CaptureError(LightningGradCAMError, RuntimeError):
    """A layer gave no activation or no gradient where one was needed."""


def printable(text: str, *, keep: str = "") -> str:
    r"""Returns text as terminals and event files can hold it: signs that can't be printed become their escapes.

    Args:
        text: From anyone.
        keep: Signs that stay as they are, such as the line breaks of a traceback.

    Example:
        >>> printable("new\nline")
        'new\\nline'
    """
    signs = (s if s.isprintable() or s in keep else s.encode("unicode_escape").decode() for s in text)
    return "".join(signs)


def did_you_mean(value: str, choices: Iterable[str], *, limit: int = 40, listing: str = "") -> str:
    """Returns the tail of a 'not found' message: the nearest choice and what is available.

    Args:
        value: What came.
        choices: What is possible.
        limit: How many choices are listed before the nearest five are named instead; fewer where names are long.
        listing: The command that lists all; named where not all are listed.

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
    """Returns the names most like one that is wrong, the nearest first; before all, those that end in it.

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
    """Returns the first names in a line, as many as an error has room for.

    Args:
        names: The most useful first.
        count: How many at most.
        room: How many characters at most, the listing's apart; the first name is named whatever its length.
        listing: The command that lists all; named where there may be more than are named here.
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
    """Shortens an error's text by leaving out its middle, because the end says what to do.

    Example:
        >>> shortened("layers: " + "x" * 20 + "; name another", 30)
        'layers: xxxx … x; name another'
    """
    if len(text) <= most:
        return text
    last = most // 2
    return f"{text[: most - last - 3]} … {text[-last:]}"
