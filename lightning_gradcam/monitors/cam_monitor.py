"""CAMs as a monitor: what is explained and how it is drawn, from the callback's options."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from typing import Any

from lightning_gradcam.archive import Manifest
from lightning_gradcam.capture.calls import call_of
from lightning_gradcam.capture.inputs import Inputs, pick_output
from lightning_gradcam.capture.layout import parse_layouts
from lightning_gradcam.compute.batches import explain_in_parts
from lightning_gradcam.compute.callers import Request
from lightning_gradcam.methods import resolve_methods
from lightning_gradcam.monitors.base import Monitor, Subject
from lightning_gradcam.probes import ProbeSet
from lightning_gradcam.record.cam_record import CamRecord
from lightning_gradcam.record.cams import CamKey, Cams
from lightning_gradcam.render.drawing import Drawing
from lightning_gradcam.targets import Given, ScoreKind, TargetSpec, resolve_targets
from lightning_gradcam.warn import warn


@dataclass(frozen=True)
class CamMonitor(Monitor):
    """What is explained, and how it is drawn.

    Attributes:
        methods: As specified by the user.
        targets: As specified by the user.
        score: The kind of score.
        drawing: How sheets are drawn.
        output_key: Location of the explained output in the model's return value.
        min_energy_inside: Warn if a smaller share of the maps is inside the probes' masks or boxes.
        gradients: Also log statistics and histograms of the gradients.
        numbers: Numbers to log: ``"default"`` or ``"all"``.
        class_names: The user's class names, to be checked against the model's classes.
        known: The probes' class names by index, for targets given by name.
        copies: Whether the model is known to change a layer's output in place.
        once: Names of checks already made, once per run; shared with the monitors that replace this one.
    """

    methods: str | Sequence[str]
    targets: TargetSpec | Sequence[TargetSpec]
    score: ScoreKind
    drawing: Drawing
    output_key: Any = None
    min_energy_inside: float | None = None
    gradients: bool = False
    numbers: str = "default"
    class_names: Sequence[str] | None = None
    known: tuple[str, ...] | None = None
    copies: bool = False
    once: set[str] = field(default_factory=set, repr=False, compare=False)

    def observe(self, subject: Subject, probes: ProbeSet, *, trial: bool = False) -> Cams:
        """Computes signed maps for all probes; in a trial, for the first two, and checks the labels of all."""
        # In a trial, which delays the start of training, named layers are trusted; "auto" looks at the model anyway.
        moves = not trial and "places" not in self.once
        request = self.of(probes).request
        asked = replace(
            request,
            run=lambda inputs: request.run(subject.forward(inputs)),
            halve=subject.halve,
            trial=trial,
            moves=moves,
        )
        labels = probes.values if probes.labels is None else probes.labels
        known = None if probes.class_names is None else len(probes.class_names)
        own = self.class_names is not None and tuple(map(str, self.class_names)) == probes.class_names
        names, found_names = (known, None) if own else (None, known)
        given = Given(len(probes), labels, probes.masks, self.score, names=names, found_names=found_names)
        given = replace(given, from_one=subject.from_one)
        found = explain_in_parts(subject.model, self.layers, subject.load, given, asked)
        if moves:
            self.once.add("places")
        if not self.tried:
            _remark(found, subject.load)
        return found

    @cached_property
    def request(self) -> Request:
        """The request for the forward pass, built once from the options; each call replaces ``run``."""
        return Request(
            resolve_targets(self.targets, self.known),
            resolve_methods(self.methods),
            parse_layouts(self.layout),
            run=partial(pick_output, key=self.output_key),
            relu=False,
            batch_size=self.batch_size,
            check=not self.tried,
            copies=self.copies,
            keep_output=False,
            gradients=self.gradients,
        )

    def of(self, probes: ProbeSet) -> CamMonitor:
        """Returns the monitor with the probes' class names."""
        return self if self.known == probes.class_names else replace(self, known=probes.class_names)

    def pinned(self, found: Cams) -> CamMonitor:
        """Returns the monitor with the resolved layers and layouts, which are searched only once per run."""
        return replace(super().pinned(found), copies=found.overwritten)

    def record(self, found: Cams, probes: ProbeSet, *, epoch: int, step: int, stage: str) -> CamRecord:
        """Copies signed maps to the CPU and freezes them; see :meth:`CamRecord.from_cams`."""
        return CamRecord.from_cams(found, probe_ids=probes.ids, epoch=epoch, step=step, stage=stage, score=found.score)

    def tag(self, layer: str, method: str, kind: str = "") -> str:
        """Returns a tag for the loggers: ``<name><kind>/<layer>``, with ``/<method>`` for all but Grad-CAM.

        Args:
            layer: The map's layer.
            method: The map's method.
            kind: ``""`` for a sheet, ``"_evolution"`` for a film strip.
        """
        return f"{self.name}{kind}/{layer}" + ("" if method == "gradcam" else f"/{method}")

    def evolution_tag(self, layer: str, method: str) -> str:
        """Returns the loggers' tag for one film strip."""
        return self.tag(layer, method, "_evolution")

    def stats_tag(self, key: CamKey) -> str:
        """Returns the loggers' tag for a map's numbers, with ``/<target>`` for all targets but the first."""
        tag = self.tag(key.layer, key.method, "_stats")
        return tag if key.target == self.request.targets[0].name else f"{tag}/{key.target}"

    def manifest(self, probes: ProbeSet, found: Cams, run: str) -> Manifest:
        """Returns the manifest for an archive of such maps.

        Args:
            probes: The run's probes.
            found: Maps for the probes, from which the layers' names and shapes are read.
            run: The run's id.
        """
        keys = list(found)
        return Manifest(
            run=run,
            name=self.name,
            layers=tuple(dict.fromkeys(key.layer for key in keys)),
            methods=tuple(dict.fromkeys(key.method for key in keys)),
            targets=tuple(dict.fromkeys(key.target for key in keys)),
            score=found.score,
            map_shapes=_shapes(found),
            fingerprint=probes.fingerprint,
        )


def _remark(cams: Cams, load: Callable[[int, int], Inputs]) -> None:
    """Warns if a map may belong to an input other than the one that it is drawn on."""
    called = [layer for layer in cams.layouts if call_of(layer) is not None]
    called += [layer for (layer, _), names in cams.levels.items() if any(call_of(name) is not None for name in names)]
    if called and load(0, 1).pictures > 1:
        warn(
            f"lightning-gradcam: {called[0]!r} is called once for each of several inputs, but sheets show all its maps "
            "on one image, the one that input_key= selects. A map belongs to the input of its own call ('layer#0' is "
            "the first call). To see a map on its own input, add a second callback for that call, with its input_key="
        )


def _shapes(cams: Cams) -> dict[str, list[int]]:
    """Returns the shape of each layer's maps; ``layer/method`` for methods whose maps have a different shape."""
    layers = dict.fromkeys(key.layer for key in cams if key.layer in cams.layouts)
    shapes = {layer: list(cams.layouts[layer].grid) for layer in layers}
    for key, maps in cams.items():
        if shapes.get(key.layer) != list(maps.shape[1:]):
            shapes[f"{key.layer}/{key.method}"] = list(maps.shape[1:])
    return shapes
