"""Grad-CAM overlays of a fixed probe set, logged while a PyTorch Lightning model trains.

:class:`GradCAMCallback` goes into a Trainer; :func:`compute_cams` explains any ``nn.Module`` without Lightning.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lightning_gradcam.archive import Archive
    from lightning_gradcam.callback import GradCAMCallback
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
    from lightning_gradcam.sinks import Entry, Evolution, MemorySink, Numbers, Sink

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
    "Evolution",
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

# Loaded at first use: TensorBoard imports this package at each start for its plugin and must not wait for torch; and
# the callback's base class is taken from whichever Lightning package the user has imported by then.
_HOME = {
    "Archive": "archive",
    "CamKey": "compute",
    "CamRecord": "record",
    "Cams": "compute",
    "Drawing": "drawing",
    "Entry": "sinks",
    "Evolution": "sinks",
    "GradCAMCallback": "callback",
    "MemorySink": "sinks",
    "Numbers": "sinks",
    "ProbeSet": "probes",
    "Sink": "sinks",
    "available_methods": "methods",
    "compute_cams": "compute",
    "register_method": "methods",
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
