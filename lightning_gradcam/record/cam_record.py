"""The frozen record of one logged step: signed maps and the scores they explain, on the CPU."""

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
    """The results of one logged step for every probe. Arrays are read-only.

    Attributes:
        epoch: The epoch, counted from 0; -1 is the untrained baseline.
        step: The step at which Lightning logs this validation's metrics.
        stage: ``"fit"``, ``"validate"`` or ``"test"``.
        score: The kind of ``scores``: ``"logit"``, ``"probability"`` or ``"sigmoid"``.
        probe_ids: One id for each probe, in the order of the arrays.
        maps: :class:`~lightning_gradcam.CamKey` to signed maps, float32 ``[N, h, w]`` (``[N, d, h, w]`` in 3-D,
            ``[N, t, h, w]`` for folded frames, ``[N, l]`` for signals), not normalised.
        scores: Target name to explained scores, float32 ``[N]``.
        classes: Target name to explained classes, int64 ``[N]``; -1 if there is none.
        predicted: The model's most likely classes, int64 ``[N]``; -1 if it does not output classes or its output is
            NaN.
        confidence: Their probabilities, float32 ``[N]``; NaN if it does not output classes.
        confidences: Target name to the probabilities of the explained classes, float32 ``[N]``; NaN if unknown.
        numbers: Key to its maps' statistics (:data:`~lightning_gradcam.STATS`), each float32 ``[N]``; empty until they
            are measured.
        likeliest: The most likely classes, at most ten, starting with ``predicted``: int64 ``[N, k]``; ``[N, 0]`` if
            the model does not output classes.
        likeliest_confidence: Their probabilities, float32 ``[N, k]``.
        gradients: ``(layer, target)`` to gradient statistics, if requested, as NumPy arrays
            (:class:`~lightning_gradcam.GradientSummary`); sums and norms are float64, other floating-point values
            float32.
        limits: Key to the upper limits of each map's colours on the run's scale, float32 ``[N, 2]``: the largest 98th
            percentile over its positions in this and all earlier logged steps, after the ReLU and of the magnitudes
            (for signed drawing). A resumed run continues them. Empty if unknown, as in archives from version 0.1.0.
        causes: Key to the cause of each blank map, int8 ``[N]``, 0 for maps that are not blank (see
            :class:`~lightning_gradcam.Cause`); keys without a blank map are missing.
        levels: For layers with several feature maps, ``(layer, target)`` to the one at which each probe is explained,
            ``N`` names such as ``"fpn[1]"`` or ``"head#2"`` (see :class:`~lightning_gradcam.Cams`).
        metrics: The contents of ``trainer.callback_metrics`` at the end of this validation, by name: its results and
            the latest training metrics, without the numbers that ``monitor=`` adds. Values that are not single finite
            numbers are omitted. Empty for the untrained baseline, outside a Trainer, in archives from version 0.1.0,
            and if training stopped, or another callback read the archive, before Lightning had computed them.

    Example:
        Print the channels with the largest weights for the first probe, in an archive's first record::

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
    limits: Mapping[CamKey, FloatArray] = field(default_factory=dict)
    causes: Mapping[CamKey, Codes] = field(default_factory=dict)
    levels: Mapping[tuple[str, str], tuple[str, ...]] = field(default_factory=dict)
    metrics: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        # Copy, because the owner of the limits raises them at the next step.
        changed: dict[str, Any] = {"limits": {key: _frozen(np.array(v, np.float32)) for key, v in self.limits.items()}}
        for name in ("likeliest", "likeliest_confidence"):
            if not getattr(self, name).size:
                changed[name] = _frozen(getattr(self, name).reshape(len(self.probe_ids), 0))
        for name, values in {**vars(self), **changed}.items():
            read_only = isinstance(values, Mapping) and not isinstance(values, MappingProxyType)
            object.__setattr__(self, name, MappingProxyType(values) if read_only else values)

    @classmethod
    def from_cams(
        cls, cams: Cams, *, probe_ids: tuple[str, ...], epoch: int, step: int, stage: str, score: ScoreKind
    ) -> CamRecord:
        """Copies signed maps to the CPU and freezes them, with the step and epoch at which they were computed."""
        count = len(probe_ids)
        unknown = _frozen(np.full(count, np.nan, np.float32))

        def of(values: Mapping[Any, Tensor], dtype: Any) -> dict[Any, Any]:
            return {key: _array(value, dtype) for key, value in values.items()}

        def either(values: Tensor | None, missing: NumPyArray) -> Any:
            return _frozen(missing) if values is None else _array(values, missing.dtype)

        return cls(
            epoch=epoch,
            step=step,
            stage=stage,
            score=score,
            probe_ids=probe_ids,
            maps=of(cams, np.float32),
            scores=of(cams.scores, np.float32),
            classes=of(cams.classes, np.int64),
            predicted=either(cams.predicted, np.full(count, -1, np.int64)),
            confidence=either(cams.confidence, unknown),
            confidences={**dict.fromkeys(cams.scores, unknown), **of(cams.confidences, np.float32)},
            likeliest=either(cams.likeliest, np.zeros((count, 0), np.int64)),
            likeliest_confidence=either(cams.likeliest_confidence, np.zeros((count, 0), np.float32)),
            gradients={k: each.each(lambda name, v: _array(v, DTYPES[name])) for k, each in cams.gradients.items()},
            causes={key: codes for key, codes in of(cams.causes, np.int8).items() if codes.any()},
            levels=dict(cams.levels),
        )

    @property
    def nbytes(self) -> int:
        """Memory used by its arrays, in bytes."""
        return _nbytes(vars(self))

    def changed_from(self, other: CamRecord) -> dict[str, npt.NDArray[np.bool_]]:
        """Returns where the explained class differs from another record of the same probes: target to bool ``[N]``.

        Where either score is not finite, the classes are not compared, because a NaN output has no largest value.
        """
        changed = {}
        for name, classes in self.classes.items():
            differs = classes != other.classes.get(name, classes)
            finite = np.isfinite(self.scores[name]) & np.isfinite(other.scores.get(name, self.scores[name]))
            changed[name] = np.asarray(differs & finite)
        return changed

    def part(self, rows: Sequence[int]) -> CamRecord:
        """Returns the record restricted to the probes at these indices."""
        return replace(self, **{name: _at(values, list(rows)) for name, values in vars(self).items()})


def _at(values: Any, rows: list[int]) -> Any:
    """Returns the rows of some probes from an array, or from every array in a mapping."""
    if isinstance(values, Mapping):
        return MappingProxyType({name: _at(each, rows) for name, each in values.items()})
    if isinstance(values, GradientSummary):
        return values.each(lambda _, each: each[rows])
    if isinstance(values, tuple):
        return tuple(values[row] for row in rows)
    return values[rows] if isinstance(values, np.ndarray) else values


def _nbytes(values: Any) -> int:
    if isinstance(values, GradientSummary):
        values = values.arrays()
    if isinstance(values, Mapping):
        return sum(map(_nbytes, values.values()))
    return values.nbytes if isinstance(values, np.ndarray) else 0


def _array(values: Tensor, dtype: npt.DTypeLike) -> Any:
    # Copy, so that the record neither keeps the model's memory alive nor changes with it.
    return _frozen(values.detach().to("cpu", copy=True).to(getattr(torch, np.dtype(dtype).name)).numpy())


def _frozen(values: Any) -> Any:
    values.setflags(write=False)
    return values
