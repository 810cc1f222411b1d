"""Grad-CAM overlays of a fixed probe set, logged while a PyTorch Lightning model trains.

:class:`GradCAMCallback` goes into a Trainer, and so do :class:`FeatureMapCallback` and :class:`FilterPatternCallback`;
:func:`compute_cams` explains any ``nn.Module`` without Lightning, and :func:`explain` pictures from a checkpoint.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lightning_gradcam.archive import Archive
    from lightning_gradcam.callback import GradCAMCallback
    from lightning_gradcam.channels import ChannelRecord
    from lightning_gradcam.compute import CamKey, Cams, compute_cams
    from lightning_gradcam.drawing import Drawing
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
    from lightning_gradcam.explained import explain
    from lightning_gradcam.feature_callback import FeatureMapCallback
    from lightning_gradcam.features import compute_feature_maps
    from lightning_gradcam.grid import GridDrawing
    from lightning_gradcam.methods import available_methods, register_method
    from lightning_gradcam.pattern_callback import FilterPatternCallback
    from lightning_gradcam.pattern_sheet import PatternDrawing
    from lightning_gradcam.patterns import filter_patterns
    from lightning_gradcam.probes import ProbeSet
    from lightning_gradcam.record import CamRecord
    from lightning_gradcam.replaying import replay
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
    "CamKey": "compute",
    "CamRecord": "record",
    "Cams": "compute",
    "ChannelRecord": "channels",
    "Drawing": "drawing",
    "Entry": "sinks",
    "Evolution": "sinks",
    "FeatureMapCallback": "feature_callback",
    "FilterPatternCallback": "pattern_callback",
    "GradCAMCallback": "callback",
    "GridDrawing": "grid",
    "Histogram": "sinks",
    "Histograms": "sinks",
    "MemorySink": "sinks",
    "Numbers": "sinks",
    "PatternDrawing": "pattern_sheet",
    "ProbeSet": "probes",
    "Sink": "sinks",
    "available_methods": "methods",
    "compute_cams": "compute",
    "compute_feature_maps": "features",
    "explain": "explained",
    "filter_patterns": "patterns",
    "register_method": "methods",
    "replay": "replaying",
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
