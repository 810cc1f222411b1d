"""One folder a run: the probes once, and a small file of signed maps for each logged step.

::

    manifest.json   schema, run, parent, layers, methods, targets, score, map shapes, fingerprint, versions
    probes.npz      the probe set
    steps/step-0000000469-epoch-0003.npz

Step files hold maps as float16 shares of a float32 scale each (their largest magnitude), so that maps of small
probabilities survive. No pickle is read or written. Each file appears whole or not at all, and the manifest comes
last, so a run killed at any moment leaves a readable archive.
"""

from __future__ import annotations

import io
import json
import os
import platform
import re
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timezone
from functools import cached_property
from importlib.metadata import version
from types import MappingProxyType
from typing import Any

import numpy as np
import torch

from lightning_gradcam.compute import CamKey
from lightning_gradcam.errors import ArchiveError, did_you_mean
from lightning_gradcam.probes import ProbeSet
from lightning_gradcam.record import CamRecord, FloatArray
from lightning_gradcam.storage import Storage

SCHEMA = 1
MANIFEST, PROBES, STEPS = "manifest.json", "probes.npz", "steps"
_STEP_FILE = re.compile(r"step-(\d+)-epoch-(untrained|\d+)\.npz")
_REMAINS = re.compile(rf"\.?{_STEP_FILE.pattern}(\.\d+\.tmp)?")
_BROKEN = (ValueError, KeyError, TypeError, OSError, EOFError, zipfile.BadZipFile, RuntimeError)


@dataclass(frozen=True)
class Manifest:
    """What an archive says of itself.

    Attributes:
        run: The run's own id; a folder that holds another one is never written to.
        name: The callback's name.
        layers: Their names, in the order configured.
        methods: Likewise.
        targets: Likewise.
        score: ``"logit"`` or ``"probability"``.
        map_shapes: Layer to ``[h, w]``.
        fingerprint: Of the probes.
        parent: Folder, run and last step of the run that this one continues, or ``None``.
        created: Date and time in UTC, ISO 8601.
        versions: Of the libraries at work.
        schema: Of the archive's layout.
    """

    run: str
    name: str
    layers: tuple[str, ...]
    methods: tuple[str, ...]
    targets: tuple[str, ...]
    score: str
    map_shapes: Mapping[str, Sequence[int]]
    fingerprint: str
    parent: Mapping[str, Any] | None = None
    created: str = ""
    versions: Mapping[str, str] | None = None
    schema: int = SCHEMA

    def differences(self, other: Manifest) -> list[str]:
        """Returns what keeps the maps of two archives from standing in one: differing fields, by name."""
        names = ("layers", "methods", "targets", "score", "map_shapes", "fingerprint")
        return [name for name in names if getattr(self, name) != getattr(other, name)]


class Archive:
    """Reads an archive; follows one that is still being written.

    Example::

        archive = Archive.open("lightning_logs/version_0/gradcam")
        maps = archive.maps("network.relu3")          # [steps, N, h, w]
        print(archive.epochs, archive.probes.class_names)
    """

    def __init__(self, storage: Storage, manifest: Manifest) -> None:
        self._storage = storage
        self.manifest = manifest

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> Archive:
        """Opens the archive in a folder.

        Args:
            path: The folder, local or a URL that fsspec knows.

        Raises:
            ArchiveError: There is no manifest, or it is damaged or of another schema.
        """
        storage = Storage(path)
        try:
            raw = storage.read(MANIFEST)
        except (FileNotFoundError, NotADirectoryError):
            raise ArchiveError(
                f"archive: no {MANIFEST} in {storage.root!r}; give the folder <log dir>/<name> of a run"
            ) from None
        try:
            values = json.loads(raw)
            if values["schema"] != SCHEMA:
                raise ArchiveError(
                    f"archive: {storage.root!r} has schema {values['schema']!r}, this version reads {SCHEMA}; install"
                    " the version that wrote it"
                )
            values.update({key: tuple(values[key]) for key in ("layers", "methods", "targets")})
            manifest = Manifest(**values)
        except _BROKEN as error:
            raise ArchiveError(f"archive: the manifest in {storage.root!r} is damaged ({error})") from error
        return cls(storage, manifest)

    def __repr__(self) -> str:
        return f"Archive({self.path!r}, {len(self.steps)} steps, layers {list(self.layers)})"

    @property
    def path(self) -> str:
        """The archive's folder."""
        return self._storage.root

    @property
    def steps(self) -> tuple[int, ...]:
        """The logged steps in order: the x values at which Lightning logged the validation metrics."""
        return tuple(step for step, _, _ in self._files())

    @property
    def epochs(self) -> tuple[int, ...]:
        """The epoch of each logged step; -1 is the untrained baseline."""
        return tuple(epoch for _, epoch, _ in self._files())

    @property
    def layers(self) -> tuple[str, ...]:
        """Names of the layers, in the order configured."""
        return self.manifest.layers

    @property
    def methods(self) -> tuple[str, ...]:
        """Names of the methods, in the order configured."""
        return self.manifest.methods

    @property
    def targets(self) -> tuple[str, ...]:
        """Names of the targets, in the order configured."""
        return self.manifest.targets

    @cached_property
    def probes(self) -> ProbeSet:
        """The probes, with labels, class names and display pixels."""
        name = f"{self.path}/{PROBES}"
        try:
            return ProbeSet.from_bytes(self._storage.read(PROBES), name=name)
        except FileNotFoundError as error:
            raise ArchiveError(f"archive: {name} is missing; its maps can't be told apart without it") from error

    def maps(
        self, layer: str, method: str | None = None, target: str | int | None = None, relu: bool = True
    ) -> FloatArray:
        """Returns one layer's maps over all steps, float32 ``[steps, N, h, w]``, not normalised.

        Args:
            layer: One of :attr:`layers`.
            method: One of :attr:`methods`; ``None``: the first configured.
            target: One of :attr:`targets` (a class index may stand for its name); ``None``: the first configured.
            relu: Keep only what speaks for the target; ``False`` gives signed maps.

        Raises:
            ArchiveError: The layer, method or target is not in the archive, or a step's file is damaged.
        """
        chosen = {
            "layer": (layer, self.layers),
            "method": (self.methods[0] if method is None else method, self.methods),
            "target": (self.targets[0] if target is None else str(target), self.targets),
        }
        for argument, (value, choices) in chosen.items():
            if value not in choices:
                raise ArchiveError(f"{argument}: {value!r} is not in this archive{did_you_mean(value, choices)}")
        key = CamKey(*(value for value, _ in chosen.values()))
        files = self._files()
        stacked = np.zeros((len(files), len(self.probes), *self.manifest.map_shapes[layer]), np.float32)
        for row, (_, _, file) in enumerate(files):
            maps = self._read(file).maps.get(key)
            if maps is None or maps.shape != stacked[row].shape:
                came = "nothing" if maps is None else list(maps.shape)
                raise ArchiveError(
                    f"archive: {file} holds {came} for {tuple(key)}, expected {list(stacked[row].shape)}"
                )
            stacked[row] = maps
        return np.maximum(stacked, 0, out=stacked) if relu else stacked

    def record(self, index: int) -> CamRecord:
        """Returns everything of one logged step.

        Args:
            index: Its place in :attr:`steps`; negative counts from the end.

        Raises:
            ArchiveError: There is no such step, or its file is damaged.
        """
        files = self._files()
        if not -len(files) <= index < len(files):
            raise ArchiveError(f"index: got {index}; the archive has {len(files)} steps")
        return self._read(files[index][2])

    def _files(self) -> list[tuple[int, int, str]]:
        matches = [match for name in self._storage.names(STEPS) if (match := _STEP_FILE.fullmatch(name))]
        found = [(int(m[1]), -1 if m[2] == "untrained" else int(m[2]), m[0]) for m in matches]
        return sorted(found)

    def _read(self, file: str) -> CamRecord:
        try:
            return _unpacked(self._storage.read(f"{STEPS}/{file}"))
        except _BROKEN as error:
            raise ArchiveError(
                f"archive: {self.path}/{STEPS}/{file} is damaged ({type(error).__name__}: {error}); delete that file to"
                " read the rest"
            ) from error


class ArchiveWriter(Archive):
    """Appends steps to an archive that this run owns."""

    @classmethod
    def start(
        cls,
        path: str,
        manifest: Manifest,
        probes: ProbeSet,
        *,
        parent: Mapping[str, Any] | None = None,
        copy_steps: bool = True,
    ) -> tuple[ArchiveWriter, str | None]:
        """Creates the archive, or goes on with this run's own.

        Args:
            path: Its folder.
            manifest: What it is to say; ``parent``, date and versions are filled in here.
            probes: Written once.
            parent: ``{"archive": folder, "run": id, "step": last}`` of the checkpoint's run, where one was resumed.
            copy_steps: Training goes on from the checkpoint: take over the parent's steps up to it; in the parent's
                own folder, later ones are deleted.

        Returns:
            The writer, and a remark for the user where the parent's steps could not be taken over.

        Raises:
            ArchiveError: The folder belongs to another run, or to this one with another configuration.
        """
        storage = Storage(path)
        if storage.exists(MANIFEST):
            existing = Archive.open(path).manifest
            # A checkpoint that is only looked at (`validate`, `test`) does not make its run's archive ours to write to.
            own = {manifest.run, parent["run"]} if parent is not None and copy_steps else {manifest.run}
            if existing.run not in own:
                raise ArchiveError(
                    f"archive: {path!r} belongs to another run ({existing.run}, {existing.created}) and is not written"
                    " to; choose another log directory or version, give the callback another name=, resume that run"
                    " with ckpt_path, or delete the folder"
                )
            if changed := existing.differences(manifest):
                raise ArchiveError(
                    f"archive: {path!r} is continued with other {', '.join(changed)} than it was begun with; choose"
                    " another log directory or version, or go back to the former configuration"
                )
            writer = cls(storage, existing)
            if parent is not None:
                writer.rewind(int(parent["step"]))
            return writer, None
        filled = replace(manifest, parent=parent, created=_now(), versions=_versions())
        # Steps without a manifest are the remains of a run that was killed while it began.
        for file in filter(_REMAINS.fullmatch, storage.names(STEPS)):
            storage.remove(f"{STEPS}/{file}")
        remark = _copy_steps(storage, filled, parent) if parent is not None and copy_steps else None
        storage.write(PROBES, probes.to_bytes())
        storage.write(MANIFEST, json.dumps(asdict(filled), indent=1).encode())
        return cls(storage, filled), remark

    def append(self, record: CamRecord) -> None:
        """Writes one step's maps."""
        epoch = "untrained" if record.epoch < 0 else f"{record.epoch:04d}"
        self._storage.write(f"{STEPS}/step-{record.step:010d}-epoch-{epoch}.npz", _packed(record))

    def rewind(self, step: int) -> None:
        """Deletes the steps after ``step``: a run resumed from there will make them again."""
        for later, _, file in self._files():
            if later > step:
                self._storage.remove(f"{STEPS}/{file}")


def _copy_steps(storage: Storage, manifest: Manifest, parent: Mapping[str, Any]) -> str | None:
    try:
        source = Archive.open(parent["archive"])
    except (ArchiveError, OSError, ValueError) as error:
        return f"the earlier steps could not be copied, the record begins here ({error})"
    if changed := source.manifest.differences(manifest):
        return f"the earlier steps stay in {source.path!r} alone: {', '.join(changed)} changed since"
    for step, _, file in source._files():
        if step <= int(parent["step"]):
            storage.write(f"{STEPS}/{file}", source._storage.read(f"{STEPS}/{file}"))
    return None


def _packed(record: CamRecord) -> bytes:
    names = ("epoch", "step", "stage", "score", "probe_ids")
    meta: dict[str, Any] = {name: getattr(record, name) for name in names}
    meta.update(schema=SCHEMA, keys=list(record.maps), targets=list(record.scores))
    arrays: dict[str, Any] = {"predicted": record.predicted, "confidence": record.confidence}
    for place, maps in enumerate(record.maps.values()):
        finite = np.where(np.isfinite(maps), maps, 0)
        largest = np.abs(finite).reshape(len(maps), -1).max(axis=1)
        # 1 and not 0 for maps without a finite value: infinity times 0 would come back as NaN.
        scale = np.where(largest > 0, largest, 1).astype(np.float32)
        shares = maps / scale.reshape(-1, *[1] * (maps.ndim - 1))
        arrays[f"scale{place}"], arrays[f"map{place}"] = scale, shares.astype(np.float16)
    for place, name in enumerate(record.scores):
        arrays[f"scores{place}"], arrays[f"classes{place}"] = record.scores[name], record.classes[name]
    buffer = io.BytesIO()
    np.savez(buffer, meta=np.frombuffer(json.dumps(meta).encode(), np.uint8), **arrays)
    return buffer.getvalue()


def _unpacked(data: bytes) -> CamRecord:
    with np.load(io.BytesIO(data), allow_pickle=False) as file:
        meta = json.loads(bytes(file["meta"]))
        maps = {}
        for place, key in enumerate(meta["keys"]):
            shares = file[f"map{place}"].astype(np.float32)
            maps[CamKey(*key)] = shares * file[f"scale{place}"].reshape(-1, *[1] * (shares.ndim - 1))
        targets = list(enumerate(meta["targets"]))
        return CamRecord(
            epoch=meta["epoch"],
            step=meta["step"],
            stage=meta["stage"],
            score=meta["score"],
            probe_ids=tuple(meta["probe_ids"]),
            maps=MappingProxyType(maps),
            scores=MappingProxyType({name: file[f"scores{place}"] for place, name in targets}),
            classes=MappingProxyType({name: file[f"classes{place}"] for place, name in targets}),
            predicted=file["predicted"],
            confidence=file["confidence"],
        )


def _now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="seconds")


def _versions() -> dict[str, str]:
    return {
        "lightning-gradcam": version("lightning-gradcam"),
        "torch": torch.__version__,
        "python": platform.python_version(),
    }
