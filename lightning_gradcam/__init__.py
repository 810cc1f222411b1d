"""Grad-CAM overlays of a fixed probe set, logged while a PyTorch Lightning model trains.

:class:`GradCAMCallback` goes into a Trainer; :func:`compute_cams` explains any ``nn.Module`` without Lightning.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lightning_gradcam.archive import Archive
from lightning_gradcam.compute import CamKey, Cams, compute_cams
from lightning_gradcam.drawing import Drawing
from lightning_gradcam.errors import (
    ArchiveError,
    CaptureError,
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
from lightning_gradcam.record import CamRecord
from lightning_gradcam.sinks import Entry, MemorySink, Numbers, Sink

if TYPE_CHECKING:
    from lightning_gradcam.callback import GradCAMCallback

__all__ = [
    "Archive",
    "ArchiveError",
    "CamKey",
    "CamRecord",
    "Cams",
    "CaptureError",
    "ConfigurationError",
    "Drawing",
    "DrawingError",
    "Entry",
    "GradCAMCallback",
    "LayerError",
    "LightningGradCAMError",
    "MemorySink",
    "MethodError",
    "Numbers",
    "ProbeError",
    "ProbeFileError",
    "ProbeSet",
    "Sink",
    "StalledError",
    "TargetError",
    "available_methods",
    "compute_cams",
    "register_method",
]


def __getattr__(name: str) -> Any:
    # Lightning is loaded with the callback and not before: `compute_cams` needs none of it, and the callback's base
    # class is taken from whichever Lightning package the user has imported by then.
    if name == "GradCAMCallback":
        from lightning_gradcam.callback import GradCAMCallback

        return GradCAMCallback
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
