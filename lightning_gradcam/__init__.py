"""Grad-CAM overlays of a fixed probe set, logged while a PyTorch Lightning model trains.

:class:`GradCAMCallback` goes into a Trainer, and so do :class:`FeatureMapCallback` and :class:`FilterPatternCallback`;
:func:`compute_cams` explains any ``nn.Module`` without Lightning, and :func:`explain` pictures from a checkpoint.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lightning_gradcam.archive import Archive
    from lightning_gradcam.callbacks.feature_maps import FeatureMapCallback
    from lightning_gradcam.callbacks.filter_patterns import FilterPatternCallback
    from lightning_gradcam.callbacks.gradcam import GradCAMCallback
    from lightning_gradcam.checks.result import MapCheck
    from lightning_gradcam.checks.run import check_maps
    from lightning_gradcam.checks.verdicts import MapVerdict
    from lightning_gradcam.compute.cam_maps import compute_cams
    from lightning_gradcam.compute.feature_maps import FeatureMaps, compute_feature_maps
    from lightning_gradcam.compute.patterns import LayerPatterns, filter_patterns
    from lightning_gradcam.errors import (
        ArchiveError,
        CaptureError,
        CheckpointFileError,
        ConfigurationError,
        DrawingError,
        LayerError,
        LightningGradCAMError,
        LostRankError,
        MethodError,
        OtherRankError,
        ProbeError,
        ProbeFileError,
        RefusedError,
        StalledError,
        TargetError,
    )
    from lightning_gradcam.losses.attention import AttentionLoss
    from lightning_gradcam.methods import available_methods, register_method
    from lightning_gradcam.methods.rerun import Rerun
    from lightning_gradcam.probes import ProbeSet
    from lightning_gradcam.record.blank import Cause
    from lightning_gradcam.record.cam_record import CamRecord
    from lightning_gradcam.record.cams import CamKey, Cams
    from lightning_gradcam.record.channel_record import ChannelRecord
    from lightning_gradcam.record.finding import Finding
    from lightning_gradcam.record.gradients import GradientSummary
    from lightning_gradcam.render.drawing import Drawing
    from lightning_gradcam.render.grid import GridDrawing
    from lightning_gradcam.render.picture import Picture
    from lightning_gradcam.saved_models.explained import Explained
    from lightning_gradcam.saved_models.explanation import explain
    from lightning_gradcam.saved_models.loader import Loaded, load_checkpoint
    from lightning_gradcam.saved_models.replay import replay
    from lightning_gradcam.sheets.pattern_sheet import PatternDrawing
    from lightning_gradcam.sinks import (
        Entry,
        Evolution,
        FileSink,
        Histogram,
        Histograms,
        MemorySink,
        Numbers,
        Sink,
        sinks_for,
    )
    from lightning_gradcam.stats import (
        STATS,
        Stat,
        agreement,
        drift,
        energy_inside,
        entropy,
        half_area,
        pointing_game,
        rank_correlation,
    )
    from lightning_gradcam.stats.boxes import bounding_boxes, iou
    from lightning_gradcam.stats.faithfulness import (
        area_under,
        average_drop,
        average_increase,
        deletion_curve,
        insertion_curve,
        road,
    )
    from lightning_gradcam.targets import (
        ClassName,
        Contrast,
        Detect,
        Output,
        PerProbe,
        Segment,
        SimilarTo,
        Target,
        Top,
        resolve_targets,
    )

__all__ = [
    "STATS",
    "Archive",
    "ArchiveError",
    "AttentionLoss",
    "CamKey",
    "CamRecord",
    "Cams",
    "CaptureError",
    "Cause",
    "ChannelRecord",
    "CheckpointFileError",
    "ClassName",
    "ConfigurationError",
    "Contrast",
    "Detect",
    "Drawing",
    "DrawingError",
    "Entry",
    "Evolution",
    "Explained",
    "FeatureMapCallback",
    "FeatureMaps",
    "FileSink",
    "FilterPatternCallback",
    "Finding",
    "GradCAMCallback",
    "GradientSummary",
    "GridDrawing",
    "Histogram",
    "Histograms",
    "LayerError",
    "LayerPatterns",
    "LightningGradCAMError",
    "Loaded",
    "LostRankError",
    "MapCheck",
    "MapVerdict",
    "MemorySink",
    "MethodError",
    "Numbers",
    "OtherRankError",
    "Output",
    "PatternDrawing",
    "PerProbe",
    "Picture",
    "ProbeError",
    "ProbeFileError",
    "ProbeSet",
    "RefusedError",
    "Rerun",
    "Segment",
    "SimilarTo",
    "Sink",
    "StalledError",
    "Stat",
    "Target",
    "TargetError",
    "Top",
    "agreement",
    "area_under",
    "available_methods",
    "average_drop",
    "average_increase",
    "bounding_boxes",
    "check_maps",
    "compute_cams",
    "compute_feature_maps",
    "deletion_curve",
    "drift",
    "energy_inside",
    "entropy",
    "explain",
    "filter_patterns",
    "half_area",
    "insertion_curve",
    "iou",
    "load_checkpoint",
    "pointing_game",
    "rank_correlation",
    "register_method",
    "replay",
    "resolve_targets",
    "road",
    "sinks_for",
]

# Loaded at first use: TensorBoard imports this package at each start for its plugin and must not wait for torch; and
# the callback's base class is taken from whichever Lightning package the user has imported by then.
_HOME = {
    "Archive": "archive",
    "AttentionLoss": "losses.attention",
    "CamKey": "record.cams",
    "CamRecord": "record.cam_record",
    "Cams": "record.cams",
    "Cause": "record.blank",
    "ChannelRecord": "record.channel_record",
    "ClassName": "targets",
    "Contrast": "targets",
    "Detect": "targets",
    "Drawing": "render.drawing",
    "Entry": "sinks",
    "Evolution": "sinks",
    "Explained": "saved_models.explained",
    "FeatureMapCallback": "callbacks.feature_maps",
    "FeatureMaps": "compute.feature_maps",
    "FileSink": "sinks",
    "FilterPatternCallback": "callbacks.filter_patterns",
    "Finding": "record.finding",
    "GradCAMCallback": "callbacks.gradcam",
    "GradientSummary": "record.gradients",
    "GridDrawing": "render.grid",
    "Histogram": "sinks",
    "Histograms": "sinks",
    "LayerPatterns": "compute.patterns",
    "Loaded": "saved_models.loader",
    "MapCheck": "checks.result",
    "MapVerdict": "checks.verdicts",
    "MemorySink": "sinks",
    "Numbers": "sinks",
    "Output": "targets",
    "PatternDrawing": "sheets.pattern_sheet",
    "PerProbe": "targets",
    "Picture": "render.picture",
    "ProbeSet": "probes",
    "Rerun": "methods.rerun",
    "STATS": "stats",
    "Segment": "targets",
    "SimilarTo": "targets",
    "Sink": "sinks",
    "Stat": "stats",
    "Target": "targets",
    "Top": "targets",
    "agreement": "stats",
    "area_under": "stats.faithfulness",
    "available_methods": "methods",
    "average_drop": "stats.faithfulness",
    "average_increase": "stats.faithfulness",
    "bounding_boxes": "stats.boxes",
    "check_maps": "checks.run",
    "compute_cams": "compute.cam_maps",
    "compute_feature_maps": "compute.feature_maps",
    "deletion_curve": "stats.faithfulness",
    "drift": "stats",
    "energy_inside": "stats",
    "entropy": "stats",
    "explain": "saved_models.explanation",
    "filter_patterns": "compute.patterns",
    "half_area": "stats",
    "insertion_curve": "stats.faithfulness",
    "iou": "stats.boxes",
    "load_checkpoint": "saved_models.loader",
    "pointing_game": "stats",
    "rank_correlation": "stats",
    "register_method": "methods",
    "replay": "saved_models.replay",
    "resolve_targets": "targets",
    "road": "stats.faithfulness",
    "sinks_for": "sinks",
}


def __getattr__(name: str) -> Any:
    home = _HOME.get(name, "errors" if name in __all__ else None)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{home}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
