"""An archive's manifest: its run and its contents."""

from __future__ import annotations

import json
import math
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Literal, get_args

import torch

from lightning_gradcam.archive.cam_file import SCHEMA
from lightning_gradcam.errors import ArchiveError
from lightning_gradcam.npz import is_whole, text, texts

MANIFEST, PROBES, STEPS = "manifest.json", "probes.npz", "steps"
_LARGEST_MAP = 2**31
_PARENT = ("archive", "run", "step")
Kind = Literal["cams", "features", "patterns"]


@dataclass(frozen=True)
class Manifest:
    """Describes an archive.

    Attributes:
        run: The run's own id; a folder with a different id is never written to.
        name: The callback's name.
        layers: Names of the layers, in the order configured.
        methods: Names of the methods, in the order configured.
        targets: Names of the targets, in the order configured.
        score: ``"logit"``, ``"probability"`` or ``"sigmoid"``.
        map_shapes: Layer to ``[h, w]`` (``[d, h, w]`` in 3-D); ``layer/method`` to the shape for methods whose maps
            have a different one, such as the input's.
        fingerprint: Fingerprint of the probes.
        parent: Folder, run and last step of the run that this one continues, or ``None``.
        created: Date and time in UTC, ISO 8601.
        versions: Versions of the libraries in use.
        schema: Version of the archive's layout.
        kind: ``"cams"``, or for :class:`~lightning_gradcam.ChannelRecord` ``"features"`` or ``"patterns"``. These have
            empty ``methods`` and ``targets``, and ``map_shapes`` contains ``[C, h, w]`` for feature maps and
            ``[F, c, H, W]`` for patterns.
        settings: How sheets of channels are drawn, which filters are shown and how their patterns are found, so that
            the report can be recreated; ``None`` for CAMs.
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
    kind: Kind = "cams"
    settings: Mapping[str, Any] | None = None

    @classmethod
    def parse(cls, raw: bytes, place: str) -> Manifest:
        """Parses a manifest's bytes; errors refer to its folder as ``place``. Unknown entries are ignored.

        Raises:
            ArchiveError: It is damaged or has a different schema.
        """
        try:
            values = json.loads(raw)
            if not is_whole(values["schema"]) or values["schema"] != SCHEMA:
                raise ArchiveError(
                    f"archive: {place!r} has schema {values['schema']!r:.40}, but this version reads {SCHEMA}; install "
                    "the version that wrote it"
                )
            # Later versions may add entries; a change that this version would misread gets a new schema.
            values = {field.name: values[field.name] for field in fields(cls) if field.name in values}
            texts_of = {name: text(values, name) for name in ("run", "name", "score", "fingerprint")}
            created = text(values, "created") if "created" in values else ""
            lists = {name: texts(values, name) for name in ("layers", "methods", "targets")}
            for name in ("parent", "versions"):
                _check_entries(values.get(name), name)
            if values.get("kind", "cams") not in get_args(Kind):
                raise ValueError(f"its kind is {values['kind']!r:.40}, which this version does not know")
            if not isinstance(values.get("settings", {}) or {}, dict):
                raise TypeError("'settings' is not a JSON object")
            shapes = values["map_shapes"]
            if not isinstance(shapes, dict) or not all(map(_is_shape, shapes.values())):
                raise TypeError("'map_shapes' is not a JSON object whose values are shapes")
            return cls(**{**values, **texts_of, **lists, "created": created})
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise ArchiveError(
                f"archive: the manifest in {place!r} is damaged ({error!s:.200}); restore it from a copy of the run"
            ) from error

    def to_bytes(self) -> bytes:
        """Returns the content of the manifest's file."""
        return json.dumps(asdict(self), indent=1).encode()

    def stamped(self, parent: Mapping[str, Any] | None) -> Manifest:
        """Returns the manifest with its parent, the current time, and the versions of the libraries in use."""
        versions = {"python": platform.python_version(), "torch": torch.__version__}
        for name in ("lightning-gradcam", "pytorch-lightning", "lightning", "numpy", "pillow"):
            try:
                versions[name] = version(name)
            except PackageNotFoundError:  # running from a source tree, or the other Lightning package is in use
                continue
        now = datetime.now(timezone.utc).isoformat(timespec="seconds")
        if parent is not None:
            parent = {name: parent[name] for name in _PARENT if name in parent}
        return replace(self, parent=parent, created=now, versions=versions)

    def differences(self, other: Manifest) -> list[str]:
        """Returns the names of the fields whose differences prevent joining two archives' maps."""
        names = ("kind", "layers", "methods", "targets", "score", "map_shapes", "fingerprint")
        own, others = self._found_by(), other._found_by()
        return [
            *(name for name in names if getattr(self, name) != getattr(other, name)),
            *(name for name in dict.fromkeys([*own, *others]) if own.get(name) != others.get(name)),
        ]

    def _found_by(self) -> dict[str, Any]:
        """Returns the settings that determine the records, as read back; those for drawing may differ."""
        return {name: value for name, value in json.loads(json.dumps(self.settings or {})).items() if name != "drawing"}


def _is_shape(value: Any) -> bool:
    """Whether a value is a valid map shape; arrays of this shape will be allocated."""
    sizes = isinstance(value, list) and 1 <= len(value) <= 4 and all(is_whole(size) and size > 0 for size in value)
    return sizes and math.prod(value) <= _LARGEST_MAP


def _check_entries(value: object, name: str) -> None:
    if value is not None and not (
        isinstance(value, dict) and all(isinstance(entry, str) or is_whole(entry) for entry in value.values())
    ):
        raise TypeError(f"{name!r} is not a JSON object whose values are strings or integers")
