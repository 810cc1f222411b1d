"""What is explained, and how it is drawn: the callback's options that do not concern the Trainer."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from torch import nn

from lightning_gradcam.archive import Manifest
from lightning_gradcam.capture.calls import call_of
from lightning_gradcam.capture.inputs import Forward, Inputs, pick_output
from lightning_gradcam.capture.layers import LayerSpec
from lightning_gradcam.capture.layout import parse_layouts
from lightning_gradcam.compute.batches import explain_in_parts
from lightning_gradcam.compute.request import Request
from lightning_gradcam.methods import resolve_methods
from lightning_gradcam.monitors.base import Monitor
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
        name: The root of tags and the archive's folder.
        layers: As the user gives them, or the names that were found.
        methods: Likewise.
        targets: Likewise.
        score: What the targets' scores are.
        drawing: How sheets are drawn.
        layout: What the user says of layouts.
        output_key: Where the output stands in what the model returns.
        batch_size: How many probes go through the model at once, at most.
        copies: The model is known to change a layer's output in place.
        min_energy_inside: Warn where less of the maps lies inside the probes' masks or boxes.
        gradients: Put the gradients into numbers, and log their histograms.
        evolution: Draw film strips on the way, and at the end also animations and the report.
        class_names: Names of the classes by index, for targets that are given by name.
        own_names: Those that the user gives, to be checked against the model's classes.
        tried: The monitor has been carried out once on this model: what can't change with its weights is known.
        once: What has been looked at once a run; shared with the monitors that this one is replaced by.
    """

    name: str
    layers: LayerSpec
    methods: str | Sequence[str]
    targets: TargetSpec | Sequence[TargetSpec]
    score: ScoreKind
    drawing: Drawing
    layout: str | Mapping[str, str] | None = None
    output_key: Any = None
    batch_size: int = 32
    copies: bool = False
    tried: bool = False
    min_energy_inside: float | None = None
    evolution: bool = True
    class_names: tuple[str, ...] | None = None
    gradients: bool = False
    own_names: tuple[str, ...] | None = None
    once: set[str] = field(default_factory=set, repr=False, compare=False)

    def observe(
        self,
        model: nn.Module,
        load: Callable[[int, int], Inputs],
        probes: ProbeSet,
        forward: Forward,
        *,
        halve: bool = True,
        trial: bool = False,
    ) -> Cams:
        """Computes signed maps of all probes.

        Args:
            model: In evaluation mode, guarded by the caller.
            load: Returns what ``forward`` takes, on the model's device, of the probes from one place to before another.
            probes: The probes.
            forward: From inputs to the model's output.
            halve: Take half as many probes at once where memory does not suffice.
            trial: Compute the maps of the first two probes alone, and check the labels of all.
        """
        targets, methods, layouts = self.of(probes)._resolved
        # In a trial, which delays the start of training, named layers are trusted; "auto" looks at the model anyway.
        moves = not trial and "places" not in self.once
        asked = Request(
            targets,
            methods,
            layouts,
            lambda inputs: pick_output(forward(inputs), self.output_key),
            relu=False,
            batch_size=self.batch_size,
            check=not self.tried,
            copies=self.copies,
            keep_output=False,
            halve=halve,
            gradients=self.gradients,
            trial=trial,
            moves=moves,
        )
        labels = probes.values if probes.labels is None else probes.labels
        # Names that a data set gives are not the user's to change.
        names = len(self.own_names) if self.own_names and self.own_names == probes.class_names else None
        given = Given(len(probes), labels, probes.masks, self.score, names=names)
        found = explain_in_parts(model, self.layers, load, given, asked)
        if moves:
            self.once.add("places")
        if not self.tried:
            _remark(found, load)
        return found

    @cached_property
    def _resolved(self) -> tuple[Any, Any, Any]:
        return (
            resolve_targets(self.targets, self.class_names),
            resolve_methods(self.methods),
            parse_layouts(self.layout),
        )

    def of(self, probes: ProbeSet) -> CamMonitor:
        """Returns the monitor with the probes' names of classes."""
        return self if self.class_names == probes.class_names else replace(self, class_names=probes.class_names)

    def pinned(self, found: Cams) -> CamMonitor:
        """Returns the monitor with the layers and layouts that were found, so that they are looked for once a run."""
        layouts = {layer: str(layout) for layer, layout in found.layouts.items()}
        return replace(self, layers=list(layouts), layout=layouts, copies=found.overwritten, tried=True)

    def record(self, found: Cams, probes: ProbeSet, *, epoch: int, step: int, stage: str) -> CamRecord:
        """Copies signed maps to the CPU and freezes them; see :meth:`CamRecord.from_cams`."""
        return CamRecord.from_cams(found, probe_ids=probes.ids, epoch=epoch, step=step, stage=stage, score=found.score)

    def tag(self, layer: str, method: str) -> str:
        """Returns the loggers' tag of one sheet: ``<name>/<layer>``, with ``/<method>`` for all but Grad-CAM."""
        return f"{self.name}/{layer}" if method == "gradcam" else f"{self.name}/{layer}/{method}"

    def evolution_tag(self, layer: str, method: str) -> str:
        """Returns the loggers' tag of one film strip: ``<name>_evolution/<layer>``, with ``/<method>`` likewise."""
        return f"{self.name}_evolution/{layer}" if method == "gradcam" else f"{self.name}_evolution/{layer}/{method}"

    def stats_tag(self, key: CamKey) -> str:
        """Returns the loggers' tag of a map's numbers.

        ``<name>_stats/<layer>``, with ``/<method>`` for all but Grad-CAM and ``/<target>`` for all but the first.
        """
        parts = [f"{self.name}_stats", key.layer]
        if key.method != "gradcam":
            parts.append(key.method)
        if key.target != self._resolved[0][0].name:
            parts.append(key.target)
        return "/".join(parts)

    def manifest(self, probes: ProbeSet, found: Cams, run: str) -> Manifest:
        """Returns what an archive of such maps says of itself.

        Args:
            probes: The run's fixed inputs.
            found: Maps of them, for the layers' names and shapes.
            run: The run's own id.
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
    """Warns where a map may belong to another input than the one that it is drawn on."""
    called = [layer for layer in cams.layouts if call_of(layer) is not None]
    called += [layer for (layer, _), names in cams.levels.items() if any(call_of(name) is not None for name in names)]
    if called and load(0, 1).pictures > 1:
        warn(
            f"lightning-gradcam: {called[0]!r} is called once for each of several inputs, and sheets show all its maps"
            " on one picture, that of input_key=. A map belongs to the input of its own call: 'layer#0' is the first"
            " call's. To see it on that input, add a second callback with input_key= for it and that call's layer"
        )


def _shapes(cams: Cams) -> dict[str, list[int]]:
    """Layer to the shape of its maps, and ``layer/method`` to that of a method whose maps have one of their own."""
    layers = dict.fromkeys(key.layer for key in cams if key.layer in cams.layouts)
    shapes = {layer: list(cams.layouts[layer].grid) for layer in layers}
    for key, maps in cams.items():
        if shapes.get(key.layer) != list(maps.shape[1:]):
            shapes[f"{key.layer}/{key.method}"] = list(maps.shape[1:])
    return shapes
