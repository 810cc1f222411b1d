"""Logs Grad-CAM overlays for a fixed probe set while a PyTorch Lightning model trains.

Pass :class:`GradCAMCallback`, :class:`FeatureMapCallback` or :class:`FilterPatternCallback` to a Trainer.
:func:`compute_cams` computes maps for any ``nn.Module`` without Lightning, and :func:`explain` explains images with a
module or a checkpoint.
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

# Imported on first use: TensorBoard imports this package for its plugin at every start and must not wait for torch.
# The callbacks' base class also depends on which Lightning package the user has imported by then.
_HOME = {
    name: home
    for home, names in {
        "archive": "Archive",
        "callbacks.feature_maps": "FeatureMapCallback",
        "callbacks.filter_patterns": "FilterPatternCallback",
        "callbacks.gradcam": "GradCAMCallback",
        "checks.result": "MapCheck",
        "checks.run": "check_maps",
        "checks.verdicts": "MapVerdict",
        "compute.cam_maps": "compute_cams",
        "compute.feature_maps": "FeatureMaps compute_feature_maps",
        "compute.patterns": "LayerPatterns filter_patterns",
        "losses.attention": "AttentionLoss",
        "methods": "available_methods register_method",
        "methods.rerun": "Rerun",
        "probes": "ProbeSet",
        "record.blank": "Cause",
        "record.cam_record": "CamRecord",
        "record.cams": "CamKey Cams",
        "record.channel_record": "ChannelRecord",
        "record.finding": "Finding",
        "record.gradients": "GradientSummary",
        "render.drawing": "Drawing",
        "render.grid": "GridDrawing",
        "render.picture": "Picture",
        "saved_models.explained": "Explained",
        "saved_models.explanation": "explain",
        "saved_models.loader": "Loaded load_checkpoint",
        "saved_models.replay": "replay",
        "sheets.pattern_sheet": "PatternDrawing",
        "sinks": "Entry Evolution FileSink Histogram Histograms MemorySink Numbers Sink sinks_for",
        "stats": "STATS Stat agreement drift energy_inside entropy half_area pointing_game rank_correlation",
        "stats.boxes": "bounding_boxes iou",
        "stats.faithfulness": "area_under average_drop average_increase deletion_curve insertion_curve road",
        "targets": "ClassName Contrast Detect Output PerProbe Segment SimilarTo Target Top resolve_targets",
    }.items()
    for name in names.split()
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
