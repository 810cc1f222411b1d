"""The information in an archive's manifest and file names, available without reading any step."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from lightning_gradcam.archive.cam_file import parse_step_file_name
from lightning_gradcam.archive.manifest import STEPS, Manifest
from lightning_gradcam.errors import ArchiveError, did_you_mean
from lightning_gradcam.methods import MODEL
from lightning_gradcam.record.cams import CamKey
from lightning_gradcam.storage import Storage


class ArchiveFolder:
    """An archive's folder, possibly still being written.

    Args:
        storage: The folder.
        manifest: The archive's manifest.
    """

    def __init__(self, storage: Storage, manifest: Manifest) -> None:
        self._storage = storage
        # Called for every step read, so a long read in the background is not mistaken for a stall.
        self.tick: Callable[[], object] = lambda: None
        self._names: list[str] = []
        self._listed: list[tuple[int, int, int, str]] = []
        self.manifest = manifest

    def __repr__(self) -> str:
        return f"Archive({self.path!r}, {len(self.steps)} steps, layers {list(self.layers)})"

    @property
    def path(self) -> str:
        """The archive's folder."""
        return self._storage.root

    @property
    def steps(self) -> tuple[int, ...]:
        """The logged steps in order: the x values at which Lightning logged the validation metrics."""
        return tuple(step for step, _, _, _ in self._files())

    @property
    def epochs(self) -> tuple[int, ...]:
        """The epoch of each logged step; -1 is the untrained baseline."""
        return tuple(epoch for _, epoch, _, _ in self._files())

    @property
    def layers(self) -> tuple[str, ...]:
        """The layers' names, in the order configured."""
        return self.manifest.layers

    @property
    def methods(self) -> tuple[str, ...]:
        """The methods' names, in the order configured."""
        return self.manifest.methods

    @property
    def targets(self) -> tuple[str, ...]:
        """The targets' names, in the order configured."""
        return self.manifest.targets

    def _file(self, index: int) -> str:
        # Otherwise a loop over all steps would list the folder once per step.
        if 0 <= index < len(self._listed) and self._storage.exists(f"{STEPS}/{self._listed[index][-1]}"):
            return self._listed[index][-1]
        files = self._files()
        if not -len(files) <= index < len(files):
            raise ArchiveError(f"index: got {index}; the archive has {len(files)} steps")
        return files[index][-1]

    def _key(self, layer: str, method: str | None, target: str | int | None) -> CamKey:
        possible = [name for name in self.methods if self.shape_of(layer, name) is not None]
        chosen = {
            "layer": (layer, self.layers),
            "method": (method if method is not None or not possible else possible[0], possible),
            "target": (self.targets[0] if target is None else str(target), self.targets),
        }
        for argument, (value, choices) in chosen.items():
            if value not in choices:
                where = f" at layer {layer!r}" if argument == "method" and value in self.methods else ""
                raise ArchiveError(
                    f"{argument}: {value!r} is not in this archive{where}{did_you_mean(str(value), choices)}"
                )
        return CamKey(*(str(value) for value, _ in chosen.values()))

    def shape_of(self, layer: str, method: str) -> Sequence[int] | None:
        """Returns the shape of a probe's map, ``[h, w]`` or ``[d, h, w]``; ``None`` if there is no such map."""
        shapes = self.manifest.map_shapes
        own = shapes.get(f"{layer}/{method}")
        # A method with the key "model" has no maps at the layers, and is listed with its own shape.
        return own if own is not None or f"{MODEL}/{method}" in shapes else shapes.get(layer)

    def _check_cams(self) -> None:
        if self.manifest.kind != "cams":
            raise ArchiveError(
                f"archive: {self.path!r} contains {self.manifest.kind}, not CAMs; call channels(layer) instead"
            )

    def _check_channels(self) -> None:
        if self.manifest.kind == "cams":
            raise ArchiveError(
                f"archive: {self.path!r} contains CAMs, not channels; call maps(layer) instead, or open the folder "
                "written by a FeatureMapCallback or FilterPatternCallback"
            )

    def _files(self) -> list[tuple[int, int, int, str]]:
        names = self._storage.names(STEPS)
        # Most listings find nothing new, and parsing thousands of names takes longer than listing them.
        if names != self._names:
            places = [(name, parse_step_file_name(name)) for name in names]
            self._listed = sorted((*place, name) for name, place in places if place is not None)
            self._names = names
        return self._listed
