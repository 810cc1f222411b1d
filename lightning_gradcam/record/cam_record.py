"""The frozen record of one logged step: signed maps and what they explain, on the CPU."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from lightning_gradcam.record.blank import Codes
from lightning_gradcam.record.cams import CamKey, Cams
from lightning_gradcam.record.gradients import DTYPES, GradientSummary, NumPyArray
from lightning_gradcam.targets import ScoreKind

FloatArray = npt.NDArray[np.float32]
IntArray = npt.NDArray[np.int64]

UNTRAINED_EPOCH = -1


@dataclass(frozen=True, eq=False)
class CamRecord:
    """What one logged step found for every probe. Arrays are read-only.

    Attributes:
        epoch: The epoch, counted from 0; -1 is the untrained baseline.
        step: The step at which Lightning logs this validation's metrics.
        stage: ``"fit"``, ``"validate"`` or ``"test"``.
        score: What ``scores`` hold: ``"logit"``, ``"probability"`` or ``"sigmoid"``.
        probe_ids: One for each probe, in the order of the arrays.
        maps: :class:`~lightning_gradcam.CamKey` to signed maps, float32 ``[N, h, w]``
            (``[N, d, h, w]`` in 3-D, ``[N, t, h, w]`` of folded frames, ``[N, l]`` of signals), not normalised.
        scores: Target name to explained scores, float32 ``[N]``.
        classes: Target name to explained classes, int64 ``[N]``; -1 where there is none.
        predicted: The model's most likely classes, int64 ``[N]``; -1 where its output has no classes.
        confidence: Their probabilities, float32 ``[N]``; NaN there.
        confidences: Target name to the probabilities of the explained classes, float32 ``[N]``; NaN where not known.
        numbers: Key to the numbers of its maps (:data:`~lightning_gradcam.STATS`), each float32 ``[N]``; empty
            before they are measured.
        likeliest: The most likely classes, the first being ``predicted``: int64 ``[N, k]``, ten at most; ``[N, 0]``
            where the output has no classes.
        likeliest_confidence: Their probabilities, float32 ``[N, k]``.
        gradients: ``(layer, target)`` to the gradients in numbers, where they were asked for, as NumPy arrays
            (:class:`~lightning_gradcam.GradientSummary`); sums and norms float64, other such numbers
            float32.
        peaks: Key to each map's largest value in this and all earlier logged steps of the run, float32 ``[N]``: a
            resumed run goes on with them. Empty where they are not known, as in archives of version 0.1.0.
        causes: Key to why maps are blank, int8 ``[N]``, 0 where they are not (see
            :class:`~lightning_gradcam.Cause`); keys without a blank map are missing.
        levels: ``(layer, target)`` to the feature map that each probe is explained at, ``N`` names such as
            ``"fpn[1]"`` or ``"head#2"``, of layers with several (:class:`~lightning_gradcam.Cams`).

    Example:
        The channels with the largest weights for the first probe, ``record`` being the first of an archive::

            record = Archive.open("lightning_logs/version_0/gradcam").record(0)
            record.gradients["backbone.layer4", "predicted"].channels[0]
    """

    epoch: int
    step: int
    stage: str
    score: ScoreKind
    probe_ids: tuple[str, ...]
    maps: Mapping[CamKey, FloatArray]
    scores: Mapping[str, FloatArray]
    classes: Mapping[str, IntArray]
    predicted: IntArray
    confidence: FloatArray
    confidences: Mapping[str, FloatArray] = field(default_factory=dict)
    numbers: Mapping[CamKey, Mapping[str, FloatArray]] = field(default_factory=dict)
    likeliest: IntArray = field(default_factory=lambda: np.zeros((0, 0), np.int64))
    likeliest_confidence: FloatArray = field(default_factory=lambda: np.zeros((0, 0), np.float32))
    gradients: Mapping[tuple[str, str], GradientSummary[NumPyArray]] = field(default_factory=dict)
    peaks: Mapping[CamKey, FloatArray] = field(default_factory=dict)
    causes: Mapping[CamKey, Codes] = field(default_factory=dict)
    levels: Mapping[tuple[str, str], tuple[str, ...]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        # Copied: whoever keeps the peaks raises them with the next step.
        peaks = {key: _frozen(np.array(values, np.float32)) for key, values in self.peaks.items()}
        object.__setattr__(self, "peaks", MappingProxyType(peaks))
        for name in ("likeliest", "likeliest_confidence"):
            if not getattr(self, name).size:
                object.__setattr__(self, name, _frozen(getattr(self, name).reshape(len(self.probe_ids), 0)))

    @classmethod
    def from_cams(
        cls, cams: Cams, *, probe_ids: tuple[str, ...], epoch: int, step: int, stage: str, score: ScoreKind
    ) -> CamRecord:
        """Copies signed maps to the CPU and freezes them, with the step and epoch at which they were made."""
        count = len(probe_ids)
        predicted, confidence = np.full(count, -1, np.int64), np.full(count, np.nan, np.float32)
        if cams.predicted is not None and cams.confidence is not None:
            predicted, confidence = _array(cams.predicted, np.int64), _array(cams.confidence, np.float32)
        likeliest, shares = np.zeros((count, 0), np.int64), np.zeros((count, 0), np.float32)
        if cams.likeliest is not None and cams.likeliest_confidence is not None:
            likeliest, shares = _array(cams.likeliest, np.int64), _array(cams.likeliest_confidence, np.float32)
        return cls(
            epoch=epoch,
            step=step,
            stage=stage,
            score=score,
            probe_ids=probe_ids,
            maps=MappingProxyType({key: _array(value, np.float32) for key, value in cams.items()}),
            scores=MappingProxyType({name: _array(value, np.float32) for name, value in cams.scores.items()}),
            classes=MappingProxyType({name: _array(value, np.int64) for name, value in cams.classes.items()}),
            predicted=_frozen(predicted),
            confidence=_frozen(confidence),
            confidences=MappingProxyType(
                {
                    name: _array(cams.confidences[name], np.float32)
                    if name in cams.confidences
                    else _frozen(np.full(count, np.nan, np.float32))
                    for name in cams.scores
                }
            ),
            likeliest=likeliest,
            likeliest_confidence=shares,
            gradients=MappingProxyType(
                {key: summary.each(lambda name, v: _array(v, DTYPES[name])) for key, summary in cams.gradients.items()}
            ),
            causes=MappingProxyType(
                {key: codes for key, v in cams.causes.items() if (codes := _array(v, np.int8)).any()}
            ),
            levels=MappingProxyType(dict(cams.levels)),
        )

    @property
    def nbytes(self) -> int:
        """What its arrays keep in memory, in bytes."""
        named: list[Mapping[Any, Any]] = [self.maps, self.scores, self.classes, self.confidences, self.peaks]
        named += [*self.numbers.values(), *(summary.arrays() for summary in self.gradients.values())]
        alone = self.predicted, self.confidence, self.likeliest, self.likeliest_confidence
        return sum(int(values.nbytes) for values in (*alone, *(found for part in named for found in part.values())))

    def changed_from(self, other: CamRecord) -> dict[str, npt.NDArray[np.bool_]]:
        """Returns where the explained class is another than in a record of the same probes: target to bool ``[N]``."""
        return {
            name: classes != other.classes[name] if name in other.classes else np.zeros(len(classes), np.bool_)
            for name, classes in self.classes.items()
        }

    def part(self, rows: Sequence[int]) -> CamRecord:
        """Returns the record of some of the probes, at these places."""
        chosen = list(rows)

        def of(values: Mapping[Any, Any]) -> Mapping[Any, Any]:
            return MappingProxyType({name: found[chosen] for name, found in values.items()})

        return replace(
            self,
            probe_ids=tuple(self.probe_ids[row] for row in chosen),
            maps=of(self.maps),
            scores=of(self.scores),
            classes=of(self.classes),
            predicted=self.predicted[chosen],
            confidence=self.confidence[chosen],
            confidences=of(self.confidences),
            numbers=MappingProxyType({key: of(stats) for key, stats in self.numbers.items()}),
            likeliest=self.likeliest[chosen],
            likeliest_confidence=self.likeliest_confidence[chosen],
            gradients=MappingProxyType(
                {key: summary.each(lambda _, values: values[chosen]) for key, summary in self.gradients.items()}
            ),
            peaks=of(self.peaks),
            causes=of(self.causes),
            levels=MappingProxyType({key: tuple(names[row] for row in chosen) for key, names in self.levels.items()}),
        )


def _array(values: Tensor, dtype: Any) -> Any:
    # A copy, so that nothing of the model's memory is kept or can change under the record.
    return _frozen(values.detach().to("cpu", copy=True).to(_TORCH[dtype]).numpy())


def _frozen(values: Any) -> Any:
    values.setflags(write=False)
    return values


_TORCH = {
    np.float32: torch.float32,
    np.float64: torch.float64,
    np.int64: torch.int64,
    np.bool_: torch.bool,
    np.int8: torch.int8,
}
