"""Reads an archive, including one that is still being written."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection
from functools import cached_property
from importlib import import_module
from typing import Any, BinaryIO, TypeVar

import numpy as np

from lightning_gradcam.archive import channel_file
from lightning_gradcam.archive.cam_file import unpacked_cams, unpacked_maps
from lightning_gradcam.archive.folder import ArchiveFolder
from lightning_gradcam.archive.manifest import MANIFEST, PROBES, STEPS, Manifest
from lightning_gradcam.errors import ArchiveError, did_you_mean
from lightning_gradcam.probes import ProbeSet
from lightning_gradcam.record.cam_record import CamRecord, FloatArray
from lightning_gradcam.record.cams import CamKey
from lightning_gradcam.record.channel_record import ChannelRecord
from lightning_gradcam.record.finding import Finding
from lightning_gradcam.render.scale import both_limits, raise_limits
from lightning_gradcam.storage import Storage

R = TypeVar("R")


class Archive(ArchiveFolder):
    """Reads an archive, including one that is still being written.

    Example::

        archive = Archive.open("lightning_logs/version_0/gradcam")
        maps = archive.maps("network.relu3")          # [steps, N, h, w]
        print(archive.epochs, archive.probes.class_names)
    """

    _found: tuple[list[str] | None, tuple[Finding, ...]] = None, ()

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> Archive:
        """Opens the archive in a folder.

        Args:
            path: The folder, as a local path or a URL that fsspec supports.

        Raises:
            ArchiveError: The manifest is missing, unreadable, damaged or has a different schema.
        """
        try:
            storage = Storage(path)
            raw = storage.read(MANIFEST)
        except (FileNotFoundError, NotADirectoryError):
            raise ArchiveError(
                f"archive: no {MANIFEST} in {os.fspath(path)!r}; pass a run's folder <log dir>/<name>"
            ) from None
        except Exception as error:  # object stores raise their own exceptions
            raise ArchiveError(
                f"archive: {os.fspath(path)!r} can't be read ({type(error).__name__}: {error!s:.200}); check the path,"
                " this process's permissions and, for a URL, that its fsspec package is installed"
            ) from error
        return cls(storage, Manifest.parse(raw, storage.root))

    def _repr_html_(self) -> str:
        # The page belongs to a later folder; import it only in a notebook.
        return str(import_module("lightning_gradcam.report.notebook").archive_html(self))

    def reader(self) -> Archive:
        """Returns a separate reader of the same archive, for use in another thread."""
        return Archive(self._storage, self.manifest)

    @cached_property
    def probes(self) -> ProbeSet:
        """The probes, with labels, class names and display pixels."""
        name = f"{self.path}/{PROBES}"
        try:
            return ProbeSet.from_bytes(self._storage.read(PROBES), name=name)
        except FileNotFoundError as error:
            raise ArchiveError(
                f"archive: {name} is missing, so maps can't be matched to probes; restore it from a copy of the run"
            ) from error
        except OSError as error:
            raise ArchiveError(
                f"archive: {name} can't be read ({type(error).__name__}: {error!s:.200}); check the disk and"
                " this process's permissions"
            ) from error

    def maps(
        self, layer: str, method: str | None = None, target: str | int | None = None, relu: bool = True
    ) -> FloatArray:
        """Returns one layer's maps over all steps, float32 ``[steps, N, h, w]``, not normalised.

        Maps of 3-D layers are ``[steps, N, d, h, w]``.

        Args:
            layer: One of :attr:`layers`.
            method: One of :attr:`methods`; ``None``: the first configured method with maps at this layer.
            target: One of :attr:`targets` (a class index also works); ``None``: the first configured target.
            relu: Whether to keep only positive evidence for the target; ``False`` returns signed maps.

        Raises:
            ArchiveError: The layer, method or target is not in the archive, or a step's file is damaged.
        """
        self._check_cams()
        key = self._key(layer, method, target)
        files = self._files()
        shape = (len(self.probes), *(self.shape_of(layer, key.method) or ()))
        # Allocate only once the first file has the shape stated in the manifest.
        stacked = np.zeros((0, *shape), np.float32)
        for row, (*_, file) in enumerate(files):
            maps = self._unpacked(file, lambda opened: unpacked_maps(opened, key))
            maps = _fitting(maps, shape, file, tuple(key))
            if row == 0:
                stacked = np.zeros((len(files), *shape), np.float32)
            stacked[row] = maps
        return np.maximum(stacked, 0, out=stacked) if relu else stacked

    @property
    def findings(self) -> tuple[Finding, ...]:
        """The run's findings: sentences with their evidence, most severe first.

        They are computed once, and again if there are new steps. Empty for channels, and if no threshold is reached.

        Raises:
            ArchiveError: A step's file is damaged.

        Example::

            for finding in archive.findings:
                print(finding.text, finding.advice)
        """
        names = [name for *_, name in self._files()]
        if self._found[0] != names:
            # Findings belong to a later folder; import it only on request.
            self._found = names, import_module("lightning_gradcam.findings").find(self)
        return self._found[1]

    def numbers(self, layer: str, method: str | None = None, target: str | int | None = None) -> dict[str, FloatArray]:
        """Returns one map's statistics at every step, each ``[steps, N]``.

        :data:`lightning_gradcam.STATS` describes them: those measured when the step was logged, plus ``drift_to_last``
        and ``rank_correlation_to_last``, which compare with the latest step in the archive. Undefined values are NaN,
        such as the drift at the first step.

        Args:
            layer: One of :attr:`layers`.
            method: As in :meth:`maps`.
            target: As in :meth:`maps`.

        Raises:
            ArchiveError: There is no such map, or a step's file is damaged.

        Example::

            archive.numbers("network.relu3")["drift"].mean(axis=1)
        """
        from lightning_gradcam.archive.to_xarray import numbers_of

        return numbers_of(self, self._key(layer, method, target))

    def to_xarray(self) -> Any:
        """Returns the whole archive as an ``xarray.Dataset`` with named axes, for your own statistics.

        Each layer is a variable ``[step, probe, cam_method, target, y, x]`` with signed maps (NaN if there is no such
        map; maps with a different shape are named ``layer/method``). Each statistic measured when steps were logged
        (see :data:`lightning_gradcam.STATS`) is a variable with a ``layer`` axis. Further variables are ``predicted``,
        ``confidence``, ``score`` and ``explained_class``, and ``metrics``, ``[step, metric]``, if steps have any. Needs
        the extra ``xarray``. (The axis is called ``cam_method`` because ``sel`` already has a ``method=`` argument.)

        Raises:
            ConfigurationError: xarray is not installed.
            ArchiveError: A step's file is damaged.

        Example::

            data = archive.to_xarray()
            data["drift"].sel(layer="network.relu3").mean("probe").plot(x="epoch")
        """
        from lightning_gradcam.archive.to_xarray import to_dataset

        return to_dataset(self)

    def channels(self, layer: str) -> FloatArray:
        """Returns one layer's recorded channels over all steps, not normalised, float32.

        Args:
            layer: One of :attr:`layers`.

        Returns:
            For a ``FeatureMapCallback``, the activations ``[steps, N, C, h, w]`` (``[steps, N, C, d, h, w]`` in 3-D);
            for a ``FilterPatternCallback``, the images in the model's input space, ``[steps, F, c, H, W]``.

        Raises:
            ArchiveError: The layer is not in the archive, this is an archive of CAMs, or a step's file is damaged.

        Example::

            Archive.open("lightning_logs/version_0/features").channels("network.relu1")[-1, 0, 5]
        """
        if layer not in self.layers:
            raise ArchiveError(f"layer: {layer!r} is not in this archive{did_you_mean(layer, self.layers)}")
        probes = (len(self.probes),) if self.manifest.kind == "features" else ()
        shape = (*probes, *self.manifest.map_shapes[layer])
        found = ((file, self._channels_in(file, layer).channels.get(layer)) for *_, file in self._files())
        stacked = [_fitting(channels, shape, file, layer) for file, channels in found]
        return np.stack(stacked) if stacked else np.zeros((0, *shape), np.float32)

    def channel_record(self, index: int) -> ChannelRecord:
        """Returns one logged step from a ``FeatureMapCallback`` or ``FilterPatternCallback``.

        Args:
            index: As in :meth:`record`.

        Raises:
            ArchiveError: There is no such step, this is an archive of CAMs, or the step's file is damaged.
        """
        return self._channels_in(self._file(index))

    def any_record(self, index: int) -> CamRecord | ChannelRecord:
        """Returns one logged step, whatever kind of archive this is."""
        return self.record(index) if self.manifest.kind == "cams" else self.channel_record(index)

    def record(
        self, index: int, *, keys: Collection[CamKey] | None = None, maps: Collection[CamKey] | None = None
    ) -> CamRecord:
        """Returns one logged step with all or some of its maps.

        Args:
            index: Its index in :attr:`steps`, as last read; negative values count from the end.
            keys: Maps to read, with their statistics and gradients; others are missing from the record. Default:
                all.
            maps: The subset of ``keys`` whose maps to read; for the others, only statistics and gradients are read.
                Default: all.

        Raises:
            ArchiveError: There is no such step or key, this is not an archive of CAMs, or the step's file is damaged.

        Example::

            archive.record(-1, keys=[CamKey("network.relu3", "gradcam", "predicted")])
        """
        self._check_cams()
        chosen = None if keys is None else [self._key(*key) for key in keys]
        return self._unpacked(self._file(index), lambda opened: unpacked_cams(opened, chosen, maps))

    def recall(self) -> tuple[CamRecord | ChannelRecord | None, dict[CamKey, FloatArray], list[str]]:
        """Returns the data that a resumed run needs about its earlier steps.

        If the last step has :attr:`CamRecord.limits`, only one file is read. In archives from older versions, no step
        has them, so every step's maps are read, one step at a time. Damaged steps are skipped.

        Returns:
            The last readable record, or ``None``; each map's limits over all steps, ``[N, 2]`` (empty for channels);
            and the reasons why steps could not be read.
        """
        last: CamRecord | ChannelRecord | None = None
        limits: dict[CamKey, FloatArray] = {}
        damaged: list[str] = []
        for index in reversed(range(len(self._files()))):
            try:
                record = self.any_record(index)
            except ArchiveError as error:
                damaged.append(str(error))
                continue
            last = record if last is None else last
            if not isinstance(record, CamRecord):
                break
            raise_limits(limits, record.limits or {key: both_limits(maps) for key, maps in record.maps.items()})
            if record.limits:
                break
        return last, limits, damaged

    def _channels_in(self, file: str, layer: str | None = None) -> ChannelRecord:
        self._check_channels()
        return self._unpacked(file, lambda opened: channel_file.unpacked_channels(opened, layer))

    def _unpacked(self, file: str, read: Callable[[BinaryIO], R]) -> R:
        self.tick()
        try:
            with self._storage.open(f"{STEPS}/{file}") as opened:
                return read(opened)
        except Exception as error:
            raise ArchiveError(
                f"archive: {self.path}/{STEPS}/{file} is damaged ({type(error).__name__}: {error!s:.200}); delete that"
                " file to read the rest"
            ) from error


def _fitting(values: FloatArray | None, shape: tuple[int, ...], file: str, what: object) -> FloatArray:
    """Returns values from a step's file if their shape matches the manifest."""
    if values is None or values.shape != shape:
        came = "nothing" if values is None else list(values.shape)
        raise ArchiveError(f"archive: {file} contains {came} for {what!r}, expected {list(shape)}")
    return values
