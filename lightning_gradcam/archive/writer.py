"""Writing an archive that this run owns."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping
from typing import Any

from lightning_gradcam.archive import channel_file
from lightning_gradcam.archive.manifest import MANIFEST, PROBES, STEPS, Manifest
from lightning_gradcam.archive.reader import Archive
from lightning_gradcam.archive.step_file import is_ours, packed, step_file_name
from lightning_gradcam.channels import ChannelRecord
from lightning_gradcam.errors import ArchiveError
from lightning_gradcam.probes import ProbeSet
from lightning_gradcam.record import CamRecord
from lightning_gradcam.storage import Stamp, Storage

# Seconds between two looks at a manifest that is no regular file.
_POLL = 0.05


class ArchiveWriter(Archive):
    """Appends steps to an archive that this run owns."""

    # How many files each step and epoch have; the folder is listed once and not at every step.
    _written: Counter[tuple[int, int]] | None = None
    # The manifest's state when it was last read and found to be this run's.
    _owned: Stamp | None = None

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
            ArchiveError: The folder belongs to another run, or to this one with another configuration, or can't be
                written.
        """
        storage = Storage(path)
        try:
            # Of two processes that begin at the same moment, the second is to find the manifest of the first.
            with storage.locked():
                return cls._begin(storage, manifest, probes, parent, copy_steps)
        except OSError as error:
            raise ArchiveError(
                f"archive: {path!r} can't be written ({type(error).__name__}: {error}); give this process a folder that"
                " it can write to, with room in it: another save_dir of the logger, or Trainer(default_root_dir=...)"
            ) from error

    @classmethod
    def _begin(
        cls,
        storage: Storage,
        manifest: Manifest,
        probes: ProbeSet,
        parent: Mapping[str, Any] | None,
        copy_steps: bool,
    ) -> tuple[ArchiveWriter, str | None]:
        path = storage.root
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
            writer = cls(storage, existing)
            writer.check(manifest)
            if parent is not None:
                writer.rewind(int(parent["step"]))
            return writer, None
        filled = manifest.stamped(parent)
        # Steps without a manifest are the remains of a run that was killed while it began.
        for file in filter(is_ours, storage.names(STEPS)):
            storage.remove(f"{STEPS}/{file}")
        remark = _copy_steps(storage, filled, parent) if parent is not None and copy_steps else None
        storage.write(PROBES, probes.to_bytes())
        storage.write(MANIFEST, filled.to_bytes())
        return cls(storage, filled), remark

    def check(self, manifest: Manifest) -> None:
        """Refuses a configuration whose maps can't stand in this archive.

        Raises:
            ArchiveError: It names what changed.
        """
        if changed := self.manifest.differences(manifest):
            raise ArchiveError(
                f"archive: {self.path!r} is continued with other {', '.join(changed)} than it was begun with; choose"
                " another log directory or version, or go back to the former configuration"
            )

    def append(self, record: CamRecord | ChannelRecord) -> None:
        """Writes one step's maps or channels; never over another's: two validations can share a step.

        As long as the manifest is there but is no regular file, it waits, as it would for a disk that does not answer:
        call it from a thread for which somebody has limited patience.

        Raises:
            ArchiveError: The folder no longer belongs to this run.
        """
        self._check_owner()
        if self._written is None:
            self._written = Counter((step, epoch) for step, epoch, _, _ in self._files())
        place = record.step, record.epoch
        content = channel_file.packed(record) if isinstance(record, ChannelRecord) else packed(record)
        self._storage.write(f"{STEPS}/{step_file_name(*place, self._written[place])}", content)
        self._written[place] += 1

    def _check_owner(self) -> None:
        # Steps without a manifest could not be opened, and beside another run's manifest they would pass for its own.
        while (stamp := self._storage.stamp(MANIFEST)) is not None and not stamp.prompt:
            time.sleep(_POLL)
        if stamp is not None and stamp == self._owned:
            return
        try:
            owner = Archive.open(self.path).manifest.run
        except ArchiveError as error:
            raise ArchiveError(
                f"archive: {self.path!r} was moved, deleted or damaged while the run went on ({error}); put it back, or"
                " resume from a checkpoint to begin another one"
            ) from error
        if owner != self.manifest.run:
            raise ArchiveError(
                f"archive: {self.path!r} was taken over by another run ({owner}) that began at the same moment, and is"
                " not written to; give each run a log directory or version of its own"
            )
        # Taken before reading: whatever replaced the manifest since then has another one.
        self._owned = stamp

    def discard(self) -> None:
        """Deletes the steps and the manifest; the folder is then nobody's."""
        self.rewind(-1)
        self._storage.remove(MANIFEST)

    def rewind(self, step: int) -> None:
        """Deletes the steps after ``step``: a run resumed from there will make them again."""
        self._written = None
        for later, _, _, file in self._files():
            if later > step:
                self._storage.remove(f"{STEPS}/{file}")
        self._names, self._listed = [], []


def _copy_steps(storage: Storage, manifest: Manifest, parent: Mapping[str, Any]) -> str | None:
    try:
        source = Archive.open(parent["archive"])
        files = source._files()
    except (ArchiveError, OSError) as error:
        return f"the earlier steps could not be copied, the record begins here ({error})"
    if changed := source.manifest.differences(manifest):
        return f"the earlier steps stay in {source.path!r} alone: {', '.join(changed)} changed since"
    for step, _, _, file in files:
        if step <= int(parent["step"]):
            try:
                data = source._storage.read(f"{STEPS}/{file}")
            except OSError as error:
                return f"not all of the earlier steps could be copied: {file} can't be read ({error})"
            storage.write(f"{STEPS}/{file}", data)
    return None
