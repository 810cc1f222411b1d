"""The result of :func:`explain`: displays in a notebook, and saves overlays, raw maps and a page."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path

from lightning_gradcam.archive import Archive, ArchiveWriter, Manifest
from lightning_gradcam.archive.manifest import MANIFEST
from lightning_gradcam.errors import ConfigurationError
from lightning_gradcam.monitors.cam_monitor import CamMonitor
from lightning_gradcam.monitors.cam_reporter import CamReporter
from lightning_gradcam.probes import ProbeSet
from lightning_gradcam.record.cam_record import CamRecord
from lightning_gradcam.record.cams import CamKey
from lightning_gradcam.render.picture import Picture, Pixels
from lightning_gradcam.render.signals import charted
from lightning_gradcam.render.slices import Slices
from lightning_gradcam.render.tiles import draw_tiles
from lightning_gradcam.report import REPORT
from lightning_gradcam.saved_models.photographs import Photographs, placed, put_back, view_of
from lightning_gradcam.sheets.of_cams import LARGEST_OVERLAY
from lightning_gradcam.storage import Storage, join, safe_name

SHEETS, OVERLAYS = "sheets", "overlays"
STAGE = "explain"


@dataclass(frozen=True, eq=False)
class Explained:
    """The result of :func:`explain`; a notebook displays it in the viewer.

    Attributes:
        record: Signed maps, scores and classes for every image.
        probes: The images.
        manifest: The manifest for the archive that :meth:`save` writes.
        plan: The options for maps and sheets.
        path: The folder it was saved to, or ``None``.
        remarks: Notes for the user about how the model and the images were loaded, and about the maps.
        photographs: The original images, before preprocessing.
    """

    record: CamRecord
    probes: ProbeSet
    manifest: Manifest
    plan: CamMonitor
    path: str | None = None
    remarks: tuple[str, ...] = ()
    photographs: Photographs | None = None

    def save(self, folder: str | os.PathLike[str], *, force: bool = False) -> Explained:
        """Saves sheets, overlays, raw maps and a report into a folder.

        Writes ``sheets/<layer>.png`` for each layer and method,
        ``overlays/<image>.<layer>.<method>.<target>.png`` for each image and map (``.jpeg`` for photographs, if that is
        smaller), the raw maps as an archive with one step for :meth:`Archive.open`, and ``report.html``.

        Args:
            folder: A new folder, or one without an archive: a local path or a URL that fsspec supports.
            force: Whether to replace the results of an earlier ``explain`` in the folder. Your own files are kept,
                except a ``report.html``. Default: ``False``.

        Returns:
            The same result, with its ``path`` set.

        Raises:
            ConfigurationError: The folder already contains an archive or a ``report.html`` (with ``force``, the record
                of a training run).
            ArchiveError: The folder can't be written to.
        """
        root = os.fspath(folder)
        check_free(root, force=force)
        storage = Storage(root)
        if force and storage.exists(MANIFEST):
            earlier = Archive.open(root)
            drawn = _names_drawn(earlier)
            ArchiveWriter(storage, earlier.manifest).discard()
            for inner in (SHEETS, OVERLAYS):
                for file in storage.names(inner):
                    # Keep the user's own files.
                    if file.rpartition(".")[0] in drawn:
                        storage.remove(f"{inner}/{file}")
        archive, _ = ArchiveWriter.start(root, self.manifest, self.probes)
        archive.append(self.record)
        account = CamReporter(self.plan, self.probes)
        for tag, picture in account.pictures(self.record, self.record.limits).items():
            format, content = picture.file()
            name = _sheet_name(tag.removeprefix(f"{self.plan.name}/"))
            storage.write(f"{SHEETS}/{name}.{format}", content)
        for name, picture in self.overlays():
            format, content = picture.file()
            storage.write(f"{OVERLAYS}/{name}.{format}", content)
        account.report(archive)
        return replace(self, path=root)

    def overlays(self) -> Iterator[tuple[str, Picture]]:
        """Yields a file name and the overlay for each map of each image.

        An overlay has the photograph's own resolution (at most 4096 pixels per side) if that is larger than the model's
        input. Regions that the model did not see, for instance because of a crop, are paler. If it is unknown which
        part of a photograph the model saw, the overlay has the input's resolution.
        """
        largest = max(self.plan.drawing.max_tile, LARGEST_OVERLAY)
        drawing = replace(self.plan.drawing, columns=("overlay",), max_tile=largest)
        photographed = replace(drawing, magnification=1)
        pairs = dict.fromkeys((key.layer, key.method) for key in self.record.maps)
        for row, probe in enumerate(self.probes.ids):
            # One image at a time: the large overlays for a whole folder might not fit into memory.
            found = self.photographs and self.photographs.read(row, self.probes.view)
            for layer, method in pairs:
                keys = [key for key in self.record.maps if (key.layer, key.method) == (layer, method)]
                shape = self.record.maps[keys[0]].shape
                probes, look = charted(self.probes.view, drawing, shape)
                if found and len(shape) == 3:
                    pale, seen, region = placed(*found, largest)
                    probes, look = view_of(probes, seen), photographed
                slices = Slices.of(shape, probes.pixels.shape)
                tiles = draw_tiles(self.record, probes, keys, look, None, slices, [row])
                for key, tile in zip(keys, tiles, strict=True):
                    pixels: Pixels = tile.pixels[0]
                    whole = look is photographed
                    shown = put_back(pale, pixels, region) if whole else pixels
                    yield _overlay_name(probe, key), Picture(shown, enlarged=not whole)

    def lines(self, top: int = 1) -> Iterator[str]:
        """Yields one line per image: its name, its most likely classes with probabilities, and its true class.

        Args:
            top: Number of classes.
        """
        record, probes = self.record, self.probes
        width = min(max(map(len, probes.ids)), 60)
        for row, probe in enumerate(probes.ids):
            found = list(zip(record.likeliest[row].tolist(), record.likeliest_confidence[row].tolist(), strict=True))
            said = ", ".join(f"{probes.class_name(index)} {share:.1%}" for index, share in found[:top])
            if not said:
                name, scores = next(iter(record.scores.items()))
                said = f"{name} {scores[row]:.4g}"
            true = ""
            if probes.labels is not None and probes.labels.dim() == 1:
                true = f"  (true: {probes.class_name(int(probes.labels[row]))})"
            yield f"{probe:<{width}}  {said}{true}"

    def __repr__(self) -> str:
        maps = ", ".join("/".join(key) for key in self.record.maps)
        return f"Explained({len(self.probes)} images; maps: {maps}; path={self.path!r})"

    def _repr_html_(self) -> str:
        with tempfile.TemporaryDirectory() as folder:
            # The page's title is the last two parts of this path.
            count = len(self.probes)
            place = join(folder, self.plan.name, f"{count} image{'' if count == 1 else 's'}")
            archive, _ = ArchiveWriter.start(place, self.manifest, self.probes)
            archive.append(self.record)
            # The page is built from the files in an archive.
            shown: str = import_module("lightning_gradcam.report.notebook").archive_html(archive)
        return shown


def _sheet_name(tag: str) -> str:
    return safe_name(tag.replace("/", "-"))


def _overlay_name(probe: str, key: CamKey) -> str:
    name = ".".join(safe_name(part.replace("/", "-")) for part in (probe, key.layer, key.method, key.target))
    return name if len(name) <= 200 else safe_name(name)


def _names_drawn(archive: Archive) -> set[str]:
    """Returns the names of the sheets and overlays from :meth:`Explained.save`, without extensions."""
    keys = list(archive.record(0).maps)
    sheets = {_sheet_name(tag) for key in keys for tag in (key.layer, f"{key.layer}/{key.method}")}
    return sheets | {_overlay_name(probe, key) for probe in archive.probes.ids for key in keys}


def check_free(folder: str, *, force: bool = False) -> None:
    """Rejects a folder with an archive or a report, or a local one without write access, before long work starts.

    Args:
        folder: The folder.
        force: Whether to allow a report, or an archive from :func:`explain`; a training run's is never replaced.

    Raises:
        ConfigurationError: The folder can't be used.
    """
    if "://" not in folder:
        there = next((path for path in (Path(folder), *Path(folder).resolve().parents) if path.exists()), Path("."))
        if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
            why = "is not a folder" if not there.is_dir() else "can't be written to"
            raise ConfigurationError(f"output: got {folder!r}, but {str(there)!r} {why}; pass another folder (-o)")
    storage = Storage(folder)
    if not storage.exists(MANIFEST):
        if storage.exists(REPORT) and not force:
            raise ConfigurationError(
                f"output: {folder!r} already contains a {REPORT}; pass another folder (-o), or replace it (--force)"
            )
        return
    if not force:
        raise ConfigurationError(
            f"output: {folder!r} already contains an archive; pass another folder (-o), or replace it (--force)"
        )
    archive = Archive.open(folder)
    if archive.manifest.kind != "cams" or not archive.steps or archive.record(0).stage != STAGE:
        raise ConfigurationError(
            f"output: {folder!r} contains an archive that explain did not create, such as a training run's record, and "
            "explain never replaces those; pass another folder (-o)"
        )
