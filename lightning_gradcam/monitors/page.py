"""One page for several runs of any kind: CAMs in the viewer, sheets of channels below it."""

from __future__ import annotations

import os
from collections.abc import Sequence

from lightning_gradcam.archive import Archive, Manifest
from lightning_gradcam.compute.ascent import Ascent
from lightning_gradcam.errors import ArchiveError
from lightning_gradcam.monitors.channel_monitor import ChannelMonitor
from lightning_gradcam.monitors.channel_reporter import gallery_of
from lightning_gradcam.monitors.feature_monitor import FeatureMonitor
from lightning_gradcam.monitors.pattern_monitor import PatternMonitor
from lightning_gradcam.render.grid import GridDrawing
from lightning_gradcam.report import write_report
from lightning_gradcam.sheets.pattern_sheet import PatternDrawing


def write_page(archives: Sequence[Archive], path: str | os.PathLike[str], *, title: str | None = None) -> None:
    """Writes one page for all runs, either completely or not at all.

    Args:
        archives: Archives of any kind.
        path: The page's file.
        title: The page's title.

    Raises:
        ArchiveError: A run is damaged.
        ConfigurationError: There is no run.
        OSError: The file can't be written.
    """
    cams = [archive for archive in archives if archive.manifest.kind == "cams"]
    channels = [archive for archive in archives if archive.manifest.kind != "cams"]
    galleries = [gallery_of(archive, monitor_of(archive.manifest)) for archive in channels if archive.steps]
    write_report(cams, path, galleries=galleries, title=title)


def monitor_of(manifest: Manifest) -> ChannelMonitor:
    """Returns the monitor that a run of feature maps or filter patterns used.

    Args:
        manifest: The run's manifest.

    Raises:
        ArchiveError: The settings can't be used.
    """
    name, layers, settings = manifest.name, list(manifest.layers), manifest.settings or {}
    try:
        if manifest.kind == "features":
            return FeatureMonitor(name, layers, GridDrawing(**settings.get("drawing", {})))
        ascent, drawing = Ascent(**settings.get("ascent", {})), PatternDrawing(**settings.get("drawing", {}))
        return PatternMonitor(name, layers, ascent=ascent, drawing=drawing)
    except (TypeError, ValueError) as error:
        raise ArchiveError(
            f"archive: the settings in the manifest of run {manifest.run} are damaged or from another version"
            f" ({error!s:.200}); restore it from a copy of the run, or install the version that wrote it"
        ) from error
