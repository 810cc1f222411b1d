"""Models of 1-D signals: finds the input's time axis and the layers whose positions correspond to time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import nn
from torch.nn.modules.conv import _ConvNd

from lightning_gradcam.capture.layers import is_channels_first
from lightning_gradcam.capture.layout import Layout
from lightning_gradcam.capture.trail import Seen
from lightning_gradcam.errors import LayerError

_ONE_AXIS = (nn.Conv1d, nn.ConvTranspose1d)
_CHANNELS_LAST = (nn.Linear, nn.LayerNorm, nn.RMSNorm, nn.RNNBase, nn.MultiheadAttention)


@dataclass(frozen=True)
class Signal:
    """The meaning of a signal's axes.

    Attributes:
        axes: ``"NL"``, ``"NCL"`` or ``"NLC"``.
        length: Number of time steps.
    """

    axes: str
    length: int


def find_signal(shape: Sequence[int], calls: Sequence[Seen]) -> Signal | None:
    """Detects whether a model takes a signal: its first convolution runs along a single axis.

    With three axes, that convolution's number of input channels shows which one is time.

    Args:
        shape: The input's shape, ``[N, …]``.
        calls: The modules called, in order.

    Returns:
        The signal; ``None`` for images, and if neither axis has the convolution's number of input channels.
    """
    first = next((seen.module for seen in calls if isinstance(seen.module, _ConvNd)), None)
    if not isinstance(first, _ONE_AXIS) or len(shape) not in (2, 3):
        return None
    if len(shape) == 2:
        return Signal("NL", shape[1])
    before, behind = shape[1:]
    # A single channel may become several before the convolution, as in a spectrogram computed by the model.
    if before in (first.in_channels, 1):
        return Signal("NCL", behind)
    if behind in (first.in_channels, 1):
        return Signal("NLC", before)
    return None


def signal_layout(calls: Sequence[Seen], at: int, samples: int) -> Layout:
    """Returns the layout of a layer in a model of signals.

    Args:
        calls: The modules called, in order.
        at: Index of the layer's call.
        samples: Number of samples given to the model.

    Raises:
        LayerError: Its output can't be confirmed to be ``[N, C, l]``.
    """
    seen = calls[at]
    if len(seen.shape) == 3 and seen.shape[0] == samples and _is_channels_first(calls[: at + 1]):
        return Layout("NCL", seen.shape[2:])
    why = (
        "has rows that are not the samples"
        if samples not in seen.shape[:2]
        else "is not known to have channels before time"
    )
    raise LayerError(
        f"layers: {seen.name!r} has the output {list(seen.shape)} for {samples} signals, and {why}; name a 1-D"
        f" convolution or a block of these, or pass layout={{{seen.name!r}: 'NLC:1x{seen.shape[1]}'}} where axis 1 is"
        " time (drawn as one row)"
    )


def _is_channels_first(calls: Sequence[Seen]) -> bool:
    """Whether the last call returned ``[N, C, l]``, judged by its class or by the module that made this tensor."""
    last = calls[-1]
    alike = [seen for seen in reversed(calls) if len(seen.shape) == 3 and seen.shape[:2] == last.shape[:2]]
    for seen in sorted(alike, key=lambda seen: seen.value[0] != last.value[0]):
        if is_channels_first(seen.module, seen.shape):
            return True
        if isinstance(seen.module, _CHANNELS_LAST):
            return False
    return False
