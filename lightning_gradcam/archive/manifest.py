"""What an archive says of itself."""

from __future__ import annotations

import json
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch

from lightning_gradcam.archive.step_file import SCHEMA
from lightning_gradcam.errors import ArchiveError

MANIFEST, PROBES, STEPS = "manifest.json", "probes.npz", "steps"


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
        map_shapes: Layer to ``[h, w]`` (``[d, h, w]`` in 3-D); ``layer/method`` to the shape of a method whose maps
            have one of their own, such as the input's.
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

    @classmethod
    def parse(cls, raw: bytes, place: str) -> Manifest:
        """Reads a manifest's bytes; ``place`` is what errors call its folder.

        Raises:
            ArchiveError: It is damaged or of another schema.
        """
        try:
            values = json.loads(raw)
            if values["schema"] != SCHEMA:
                raise ArchiveError(
                    f"archive: {place!r} has schema {values['schema']!r}, this version reads {SCHEMA}; install the"
                    " version that wrote it"
                )
            values.update({key: tuple(values[key]) for key in ("layers", "methods", "targets")})
            return cls(**values)
        except (ValueError, KeyError, TypeError) as error:
            raise ArchiveError(f"archive: the manifest in {place!r} is damaged ({error})") from error

    def to_bytes(self) -> bytes:
        """Returns the content of the file."""
        return json.dumps(asdict(self), indent=1).encode()

    def stamped(self, parent: Mapping[str, Any] | None) -> Manifest:
        """Returns the manifest with its parent, the time, and the versions of the libraries at work."""
        versions = {"python": platform.python_version(), "torch": torch.__version__}
        for name in ("lightning-gradcam", "pytorch-lightning", "lightning", "numpy", "pillow"):
            try:
                versions[name] = version(name)
            except PackageNotFoundError:  # run from a source tree, or the other Lightning is the one at work
                continue
        now = datetime.now(timezone.utc).isoformat(timespec="seconds")
        return replace(self, parent=parent, created=now, versions=versions)

    def differences(self, other: Manifest) -> list[str]:
        """Returns what keeps the maps of two archives from standing in one: differing fields, by name."""
        names = ("layers", "methods", "targets", "score", "map_shapes", "fingerprint")
        return [name for name in names if getattr(self, name) != getattr(other, name)]
