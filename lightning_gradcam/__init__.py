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
    from lightning_gradcam.compute.cam_maps import compute_cams
    from lightning_gradcam.compute.feature_maps import compute_feature_maps
    from lightning_gradcam.compute.patterns import filter_patterns
    from lightning_gradcam.errors import (
        ArchiveError,
        CaptureError,
        CheckpointFileError,
        ConfigurationError,
        DrawingError,
        LayerError,
        LightningGradCAMError,
        MethodError,
        ProbeError,
        ProbeFileError,
        StalledError,
        TargetError,
    )
    from lightning_gradcam.methods import available_methods, register_method
    from lightning_gradcam.probes import ProbeSet
    from lightning_gradcam.record.cam_record import CamRecord
    from lightning_gradcam.record.cams import CamKey, Cams
    from lightning_gradcam.record.channel_record import ChannelRecord
    from lightning_gradcam.render.drawing import Drawing
    from lightning_gradcam.render.grid import GridDrawing
    from lightning_gradcam.saved_models.explanation import explain
    from lightning_gradcam.saved_models.replay import replay
    from lightning_gradcam.sheets.pattern_sheet import PatternDrawing
    from lightning_gradcam.sinks import Entry, Evolution, Histogram, Histograms, MemorySink, Numbers, Sink

__all__ = [
    "Archive",
    "ArchiveError",
    "CamKey",
    "CamRecord",
    "Cams",
    "CaptureError",
    "ChannelRecord",
    "CheckpointFileError",
    "ConfigurationError",
    "Drawing",
    "DrawingError",
    "Entry",
    "Evolution",
    "FeatureMapCallback",
    "FilterPatternCallback",
    "GradCAMCallback",
    "GridDrawing",
    "Histogram",
    "Histograms",
    "LayerError",
    "LightningGradCAMError",
    "MemorySink",
    "MethodError",
    "Numbers",
    "PatternDrawing",
    "ProbeError",
    "ProbeFileError",
    "ProbeSet",
    "Sink",
    "StalledError",
    "TargetError",
    "available_methods",
    "compute_cams",
    "compute_feature_maps",
    "explain",
    "filter_patterns",
    "register_method",
    "replay",
]

# Loaded at first use: TensorBoard imports this package at each start for its plugin and must not wait for torch; and
# the callback's base class is taken from whichever Lightning package the user has imported by then.
_HOME = {
    "Archive": "archive",
    "CamKey": "record.cams",
    "CamRecord": "record.cam_record",
    "Cams": "record.cams",
    "ChannelRecord": "record.channel_record",
    "Drawing": "render.drawing",
    "Entry": "sinks",
    "Evolution": "sinks",
    "FeatureMapCallback": "callbacks.feature_maps",
    "FilterPatternCallback": "callbacks.filter_patterns",
    "GradCAMCallback": "callbacks.gradcam",
    "GridDrawing": "render.grid",
    "Histogram": "sinks",
    "Histograms": "sinks",
    "MemorySink": "sinks",
    "Numbers": "sinks",
    "PatternDrawing": "sheets.pattern_sheet",
    "ProbeSet": "probes",
    "Sink": "sinks",
    "available_methods": "methods",
    "compute_cams": "compute.cam_maps",
    "compute_feature_maps": "compute.feature_maps",
    "explain": "saved_models.explanation",
    "filter_patterns": "compute.patterns",
    "register_method": "methods",
    "replay": "saved_models.replay",
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
