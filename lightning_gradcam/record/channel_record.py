"""The frozen record of layers' channels at one logged step: activations or filter patterns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any, Literal, get_args

import numpy as np

from lightning_gradcam.record.cam_record import FloatArray

ChannelKind = Literal["features", "patterns"]
DEAD, ACTIVATION = "dead", "activation"


@dataclass(frozen=True, eq=False)
class ChannelRecord:
    """Layers' channels at one logged step.

    Arrays are converted to float32. Those that already are float32 become read-only, so the caller must not use them
    for anything else.

    Attributes:
        epoch: The epoch, counted from 0; -1 is the untrained baseline.
        step: The step at which Lightning logs this validation's metrics.
        stage: ``"fit"``, ``"validate"`` or ``"test"``.
        kind: ``"features"``: activations of the probes. ``"patterns"``: the input to which each filter responds most.
        probe_ids: One id for each probe, in the order of the arrays; empty for patterns.
        channels: Layer to its data. Features: unscaled activations, ``[N, C, h, w]`` (``[N, C, d, h, w]`` in 3-D).
            Patterns: one image for each filter in the model's input space, ``[F, c, H, W]``.
        chosen: Layer to the indices of these ``C`` channels or ``F`` filters.
        numbers: Layer to name to a 1-D array. Features: ``"dead"``, 1 for each channel **of the layer** (including
            those not chosen) that is zero everywhere on all probes, otherwise 0. Patterns: ``"activation"``, the
            activation reached by each chosen filter, ``[F]``, and ``"silent"``, 1 if it never had a gradient.
        metrics: As in :class:`~lightning_gradcam.CamRecord`.

    Raises:
        ValueError: The arrays' shapes are inconsistent.

    Example:
        >>> maps = np.zeros((1, 2, 4, 4), np.float32)
        >>> record = ChannelRecord(0, 10, "fit", "features", ("a",), {"conv": maps}, {"conv": (0, 5)})
        >>> record.channels["conv"].flags.writeable
        False
    """

    epoch: int
    step: int
    stage: str
    kind: ChannelKind
    probe_ids: tuple[str, ...]
    channels: Mapping[str, FloatArray]
    chosen: Mapping[str, tuple[int, ...]]
    numbers: Mapping[str, Mapping[str, FloatArray]] = field(default_factory=dict)
    metrics: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.kind not in get_args(ChannelKind):
            raise ValueError(f"kind: got {self.kind!r:.40}; pass 'features' or 'patterns'")
        if self.kind == "patterns" and self.probe_ids:
            raise ValueError(f"probe_ids: got {len(self.probe_ids)} for patterns, which belong to no probe; pass ()")
        if set(self.channels) != set(self.chosen) or not set(self.numbers) <= set(self.channels):
            raise ValueError(
                f"channels, chosen, numbers: got the layers {list(self.channels)}, {list(self.chosen)} and"
                f" {list(self.numbers)}; pass the same layers in all three"
            )
        channels = {layer: _frozen(values) for layer, values in self.channels.items()}
        chosen = {layer: tuple(map(int, self.chosen[layer])) for layer in channels}
        for layer, values in channels.items():
            self._check(layer, values, len(chosen[layer]))
            if min(chosen[layer], default=0) < 0 or len(set(chosen[layer])) < len(chosen[layer]):
                raise ValueError(
                    f"chosen: {layer!r} has {chosen[layer]}; list each channel's number once, counted from 0"
                )
        numbers = {
            layer: MappingProxyType({name: _frozen(values) for name, values in named.items()})
            for layer, named in self.numbers.items()
        }
        for layer, named in numbers.items():
            for name, values in named.items():
                _check_numbers(layer, name, values, chosen[layer])
        object.__setattr__(self, "channels", MappingProxyType(channels))
        object.__setattr__(self, "chosen", MappingProxyType(chosen))
        object.__setattr__(self, "numbers", MappingProxyType(numbers))
        object.__setattr__(self, "metrics", MappingProxyType(dict(self.metrics)))

    def _check(self, layer: str, values: FloatArray, chosen: int) -> None:
        axes = (4, 5) if self.kind == "features" else (4,)
        expected = (len(self.probe_ids), chosen) if self.kind == "features" else (chosen,)
        if values.ndim not in axes or values.shape[: len(expected)] != expected or not values.size:
            what = "[N, C, h, w]" if self.kind == "features" else "[F, c, H, W]"
            raise ValueError(
                f"channels: {layer!r} is {list(values.shape)}; pass {what} for {len(self.probe_ids)} probes and "
                f"{chosen} chosen channels"
            )

    @property
    def nbytes(self) -> int:
        """Memory used by its arrays, in bytes."""
        return sum(values.nbytes for part in (self.channels, *self.numbers.values()) for values in part.values())

    def part(self, rows: Sequence[int]) -> ChannelRecord:
        """Returns the record restricted to the probes at these indices; patterns, which have none, are unchanged."""
        if self.kind == "patterns":
            return self
        chosen = list(rows)
        return replace(
            self,
            probe_ids=tuple(self.probe_ids[row] for row in chosen),
            channels={layer: values[chosen] for layer, values in self.channels.items()},
        )


def dead_numbers(record: ChannelRecord) -> dict[str, dict[str, float]]:
    """Returns the numbers that loggers receive for a record of activations.

    Args:
        record: A record of kind ``"features"``.

    Returns:
        Layer to ``"dead"``, the number of channels that are zero everywhere on all probes, and ``"dead_share"``, their
        share of all channels.

    Example:
        >>> maps = np.zeros((1, 2, 4, 4))
        >>> numbers = {"conv": {"dead": np.array([1.0, 0.0])}}
        >>> dead_numbers(ChannelRecord(0, 0, "fit", "features", ("a",), {"conv": maps}, {"conv": (0, 1)}, numbers))
        {'conv': {'dead': 1.0, 'dead_share': 0.5}}
    """
    return {
        layer: {DEAD: (dead := float(named[DEAD].sum())), "dead_share": dead / len(named[DEAD])}
        for layer, named in record.numbers.items()
        if DEAD in named
    }


def _check_numbers(layer: str, name: str, values: FloatArray, chosen: tuple[int, ...]) -> None:
    # Drawing looks up the chosen channels among the values for all channels.
    least = max(chosen, default=-1) + 1 if name == DEAD else 0
    if values.ndim != 1 or len(values) < least or (name == ACTIVATION and len(values) != len(chosen)):
        raise ValueError(
            f"numbers: {name!r} of {layer!r} is {list(values.shape)}; pass one axis, with an entry for each"
            f" {'channel of the layer' if name == DEAD else 'of the chosen ' + str(len(chosen))}"
        )


def _frozen(values: Any) -> FloatArray:
    array = np.asarray(values, np.float32)
    array.setflags(write=False)
    return array
