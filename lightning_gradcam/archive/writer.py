"""Writes an archive that this run owns."""

from __future__ import annotations

import hashlib
import time
from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from functools import cached_property
from typing import Any

from lightning_gradcam.archive import channel_file
from lightning_gradcam.archive.cam_file import is_ours, packed_cams, step_file_name
from lightning_gradcam.archive.manifest import MANIFEST, PROBES, STEPS, Manifest
from lightning_gradcam.archive.ownership import TakenError, abandoned, missing_steps, owned_by
from lightning_gradcam.archive.reader import Archive
from lightning_gradcam.errors import ArchiveError
from lightning_gradcam.probes import ProbeSet
from lightning_gradcam.record.cam_record import CamRecord
from lightning_gradcam.record.channel_record import ChannelRecord
from lightning_gradcam.storage import Hold, Stamp, Storage

# Seconds between two checks of a manifest that is not a regular file.
_POLL = 0.05


class ArchiveWriter(Archive):
    """Appends steps to an archive that this run owns."""

    continued = False
    """Whether the folder had a manifest from this run, and therefore already contains its steps."""

    # Number of files for each step and epoch; the folder is listed once rather than at every step.
    _written: Counter[tuple[int, int]] | None = None
    # The manifest's file state when it was last read and belonged to this run.
    _owned: Stamp | None = None
    # Tells other processes that the archive is in use.
    _held: Hold | None = None
    # The hash of the probe file, and the probes.
    _given: tuple[bytes, ProbeSet] | None = None

    @classmethod
    def start(
        cls,
        path: str,
        manifest: Manifest,
        probes: ProbeSet,
        *,
        parent: Mapping[str, Any] | None = None,
        copy_steps: bool = True,
        later: bool = False,
    ) -> tuple[ArchiveWriter, str | None]:
        """Creates the archive, or continues this run's own.

        Args:
            path: The archive's folder.
            manifest: The manifest; ``parent``, date and versions are filled in here.
            probes: The probes, written once.
            parent: ``{"archive": folder, "run": id, "step": last}`` of the checkpoint's run, if one was resumed;
                :meth:`take_over` describes the entries.
            copy_steps: Whether training continues from the checkpoint: the parent's steps up to it are taken over; in
                the parent's own folder, later ones are deleted.
            later: Leave the steps to a later call to :meth:`take_over`, which can take long for a large archive.

        Returns:
            The writer, and a remark for the user if some of the parent's steps are not in the archive.

        Raises:
            TakenError: The folder contains steps from another run, a record that another process is writing, or this
                run's record with a different configuration.
            ArchiveError: The folder can't be written to.
        """
        storage = Storage(path)
        try:
            # If two processes start at the same time, the second must find the first one's manifest.
            with storage.locked():
                return cls._begin(storage, manifest, probes, parent, copy_steps, later)
        except OSError as error:
            raise ArchiveError(
                f"archive: {path!r} can't be written ({type(error).__name__}: {error}); choose a writable folder with"
                " enough free space: another save_dir of the logger, or Trainer(default_root_dir=...)"
            ) from error

    @classmethod
    def _begin(
        cls,
        storage: Storage,
        manifest: Manifest,
        probes: ProbeSet,
        parent: Mapping[str, Any] | None,
        copy_steps: bool,
        later: bool,
    ) -> tuple[ArchiveWriter, str | None]:
        path = storage.root
        if storage.exists(MANIFEST):
            try:
                existing = Archive.open(path).manifest
            except ArchiveError as error:
                raise TakenError(path, f"contains a record that can't be read ({error!s:.200})") from error
            if existing.run in owned_by(manifest, parent, copy_steps):
                writer = cls(storage, existing)
                writer.check(manifest)
                writer.hold()
                writer.continued = True
                # The fingerprints are equal, so these probes can replace those in the file.
                with suppress(OSError):
                    writer._given = hashlib.sha256(storage.read(PROBES)).digest(), probes
                return writer, None if parent is None or later else writer.take_over(parent)
            left = abandoned(storage)
            if left is None:
                raise TakenError(path, f"belongs to another run ({existing.run}, {existing.created})")
            storage.remove(MANIFEST)
            left.release()
        filled = manifest.stamped(parent)
        # Steps without a manifest were left by a run that was killed during its start.
        for file in filter(is_ours, storage.names(STEPS)):
            storage.remove(f"{STEPS}/{file}")
        writer = cls(storage, filled)
        remark = writer.take_over(parent) if parent is not None and copy_steps and not later else None
        content = probes.to_bytes()
        try:
            storage.create(PROBES, content)
        except FileExistsError as error:
            raise TakenError(path, "belongs to another run, which has just started or was killed") from error
        writer.hold()
        storage.write(MANIFEST, filled.to_bytes())
        writer._given = hashlib.sha256(content).digest(), probes
        return writer, remark

    @cached_property
    def probes(self) -> ProbeSet:
        """The run's own probes, as long as their file is unchanged.

        They are requested in the background, where reading the file would create tensors.
        """
        if self._given is not None:
            digest, probes = self._given
            # If the file can't be read, reading it again raises the reason.
            with suppress(Exception):
                if hashlib.sha256(self._storage.read(PROBES)).digest() == digest:
                    return probes
        return super().probes

    def take_over(self, parent: Mapping[str, Any]) -> str | None:
        """Restores the archive's state at a checkpoint: the second half of :meth:`start`, before any append.

        The parent's steps up to the checkpoint are added to this archive, as hard links if the disk supports them; in
        the parent's own folder, steps after the checkpoint are deleted.

        Args:
            parent: As in :meth:`start`. ``archive`` is the parent's folder, ``step`` the last step queued for writing
                when the checkpoint was saved (-1: none), and ``logged``, if given, the number of steps queued by then.

        Returns:
            A remark for the user if some of these steps are not in the archive.

        Raises:
            OSError: The folder can't be written to.
        """
        last, logged = int(parent["step"]), parent.get("logged")
        if self.continued:
            return self.rewind(last, logged)
        try:
            source = Archive.open(parent["archive"])
            files = [(step, file) for step, _, _, file in source._files() if step <= last]
        except (ArchiveError, OSError) as error:
            return f"the earlier steps could not be copied, so the record begins here ({error})"
        if files and source.manifest.run != parent["run"]:
            return f"{source.path!r} belongs to another run, so no earlier steps are copied and the record begins here"
        if changed := source.manifest.differences(self.manifest):
            return f"the earlier steps remain only in {source.path!r}, because {', '.join(changed)} changed"
        self._written = None
        unreadable: list[str] = []
        for _, file in files:
            name = f"{STEPS}/{file}"
            self.tick()
            # Step files are never modified in place, so both archives can share one.
            if not self._storage.link(name, source._storage, name):
                try:
                    data = source._storage.read(name)
                except Exception as error:  # object stores raise their own exceptions
                    unreadable.append(f"{file} can't be read ({error!s:.200})")
                else:
                    self._storage.write(name, data)
        remarks = [missing_steps([step for step, _ in files], last, logged)]
        if unreadable:
            remarks.append(f"{len(unreadable)} of {len(files)} earlier steps could not be copied: {unreadable[0]}")
        return "; ".join(filter(None, remarks)) or None

    def check(self, manifest: Manifest) -> None:
        """Rejects a configuration whose maps do not match this archive.

        Raises:
            TakenError: The configuration differs; the message names the changes.
        """
        if changed := self.manifest.differences(manifest):
            raise TakenError(self.path, f"was started with different {', '.join(changed)}")

    def hold(self) -> None:
        """Locks the archive against other processes until :meth:`release`, if the file system supports locks.

        Raises:
            TakenError: Another process is writing to it.
        """
        if self._held is None:
            try:
                self._held = self._storage.hold(PROBES)
            except BlockingIOError as error:
                raise TakenError(self.path, "is being written by another process or Trainer") from error

    def release(self) -> None:
        """Releases the lock: another run may then resume here, or take over the folder if it has no steps."""
        if self._held is not None:
            self._held.release()
            self._held = None

    def reclaim(self) -> None:
        """Checks that the archive still belongs to this run before continuing after a :meth:`release`.

        Raises:
            TakenError: It is missing, unreadable, or belongs to another run.
        """
        self.hold()
        try:
            owner = Archive.open(self.path).manifest.run
        except ArchiveError as error:
            self.release()
            raise TakenError(self.path, "was moved, deleted or damaged") from error
        if owner != self.manifest.run:
            self.release()
            raise TakenError(self.path, f"was taken over by another run ({owner})")

    def append(self, record: CamRecord | ChannelRecord) -> None:
        """Writes one step's maps or channels without overwriting existing ones: two validations can share a step.

        If the manifest exists but is not a regular file, this blocks, as it would for an unresponsive disk. Call it
        from a thread for which others wait only a limited time.

        Raises:
            ArchiveError: The folder no longer belongs to this run.
        """
        self._check_owner()
        if self._written is None:
            self._written = Counter((step, epoch) for step, epoch, _, _ in self._files())
        place = record.step, record.epoch
        content = channel_file.packed_channels(record) if isinstance(record, ChannelRecord) else packed_cams(record)
        self._storage.write(f"{STEPS}/{step_file_name(*place, self._written[place])}", content)
        self._written[place] += 1

    def _check_owner(self) -> None:
        # Steps without a manifest could not be opened, and next to another run's manifest they would look like its own.
        while (stamp := self._storage.stamp(MANIFEST)) is not None and not stamp.prompt:
            time.sleep(_POLL)
        if stamp is not None and stamp == self._owned:
            return
        try:
            owner = Archive.open(self.path).manifest.run
        except ArchiveError as error:
            raise ArchiveError(
                f"archive: {self.path!r} was moved, deleted or damaged during the run ({error}); restore it, or resume"
                " from a checkpoint to start a new archive"
            ) from error
        if owner != self.manifest.run:
            raise ArchiveError(
                f"archive: {self.path!r} was taken over by another run ({owner}) that started at the same time, so "
                "this run no longer writes to it; give each run its own log directory or version"
            )
        # This state was taken before reading: a manifest replaced since then has a different state.
        self._owned = stamp

    def discard(self) -> None:
        """Deletes the steps, manifest and probes, so that no run owns the folder; keeps another run's record."""
        try:
            self.reclaim()
        except TakenError:
            return
        self.rewind(-1)
        for name in (MANIFEST, PROBES):
            with suppress(FileNotFoundError):
                self._storage.remove(name)
        self.release()

    def rewind(self, step: int, logged: int | None = None) -> str | None:
        """Deletes the steps after ``step``, because a run resumed from there will write them again.

        Args:
            step: The last step to keep.
            logged: The number of steps queued by then, if known.

        Returns:
            A remark for the user if some of the steps up to ``step`` were never written.
        """
        self._written = None
        files = self._files()
        for *_, file in (entry for entry in files if entry[0] > step):
            self._storage.remove(f"{STEPS}/{file}")
        self._names, self._listed = [], []
        return missing_steps([found for found, *_ in files if found <= step], step, logged)
