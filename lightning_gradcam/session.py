"""One run: from the fixed probes to the record, the archive and the sinks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
from torch import Tensor, nn

from lightning_gradcam.archive import ArchiveWriter, Manifest
from lightning_gradcam.cams import CamKey, Cams
from lightning_gradcam.compute import compute_cams
from lightning_gradcam.drawing import Drawing
from lightning_gradcam.inputs import Forward
from lightning_gradcam.layers import LayerSpec
from lightning_gradcam.picture import Picture
from lightning_gradcam.probes import ProbeSet
from lightning_gradcam.record import CamRecord, FloatArray
from lightning_gradcam.render import sheet
from lightning_gradcam.sinks import Entry, FileSink, Sink, sinks_for
from lightning_gradcam.storage import join
from lightning_gradcam.targets import ScoreKind, TargetSpec
from lightning_gradcam.tiles import maxima


@dataclass(frozen=True)
class Plan:
    """What is explained, and how it is drawn: the callback's options that do not concern the Trainer."""

    name: str
    layers: LayerSpec
    methods: str | Sequence[str]
    targets: TargetSpec | Sequence[TargetSpec]
    score: ScoreKind
    drawing: Drawing
    layout: str | Mapping[str, str] | None = None
    output_key: Any = None

    def explain(
        self,
        model: nn.Module,
        inputs: Any,
        probes: ProbeSet,
        forward: Forward | None = None,
        picture: Tensor | None = None,
    ) -> Cams:
        """Computes signed maps of all probes at once; ``inputs`` are what the model takes, on its device."""
        return compute_cams(
            model,
            inputs,
            self.layers,
            targets=self.targets,
            methods=self.methods,
            labels=probes.labels,
            masks=probes.masks,
            score=self.score,
            relu=False,
            layout=self.layout,
            output_key=self.output_key,
            picture=picture,
            forward=forward,
        )

    def pinned(self, cams: Cams) -> Plan:
        """Returns the plan with the layers and layouts that were found, so that they are looked for once a run."""
        layouts = {layer: str(layout) for layer, layout in cams.layouts.items()}
        return replace(self, layers=list(layouts), layout=layouts)

    def tag(self, layer: str, method: str) -> str:
        """Returns the loggers' tag of one sheet: ``<name>/<layer>``, with ``/<method>`` for all but Grad-CAM."""
        return f"{self.name}/{layer}" if method == "gradcam" else f"{self.name}/{layer}/{method}"


class Session:
    """Logs step after step of one run.

    Args:
        plan: What is explained.
        probes: The run's fixed inputs.
        archive: Where records go; ``None`` writes none (``fast_dev_run``).
        sinks: Where pictures go.
    """

    def __init__(self, plan: Plan, probes: ProbeSet, archive: ArchiveWriter | None, sinks: Sequence[Sink]) -> None:
        self.plan = plan
        self.probes = probes
        self.archive = archive
        self.last_step = -1
        self._sinks = list(sinks)
        self._unclosed: list[Sink] = []
        self._peaks: dict[CamKey, FloatArray] = {}
        if archive is not None:
            self._recall(archive)

    @classmethod
    def start(
        cls,
        plan: Plan,
        probes: ProbeSet,
        cams: Cams,
        *,
        run: str,
        log_dir: str | None,
        loggers: Sequence[object],
        sinks: Sequence[Sink],
        resumed: Mapping[str, Any],
        copy_steps: bool,
    ) -> tuple[Session, str | None]:
        """Opens the archive and the sinks of a run.

        Args:
            plan: What is explained.
            probes: The run's fixed inputs.
            cams: Maps of them, for the layers' names and shapes.
            run: The run's own id.
            log_dir: Where the archive's folder goes; ``None``: nothing is written and no logger is served.
            loggers: The trainer's loggers.
            sinks: The user's own.
            resumed: The state in the checkpoint, empty without one.
            copy_steps: Take over the earlier run's steps.

        Returns:
            The session, and a remark for the user where earlier steps could not be taken over.

        Raises:
            ArchiveError: The folder belongs to another run.
        """
        if log_dir is None:
            return cls(plan.pinned(cams), probes, None, sinks), None
        root = join(log_dir, plan.name)
        manifest = _manifest(plan, probes, cams, run)
        parent = {key: resumed[key] for key in ("archive", "run", "step")} if resumed.get("archive") else None
        archive, remark = ArchiveWriter.start(root, manifest, probes, parent=parent, copy_steps=copy_steps)
        files = partial(FileSink, join(root, "sheets"), prefix=plan.name, format=plan.drawing.format)
        return cls(plan.pinned(cams), probes, archive, [*sinks_for(loggers, files), *sinks]), remark

    def log(self, cams: Cams, *, epoch: int, step: int, stage: str) -> CamRecord:
        """Records one step, draws its sheets and hands them to every sink."""
        record = CamRecord.from_cams(
            cams, probe_ids=self.probes.ids, epoch=epoch, step=step, stage=stage, score=self.plan.score
        )
        if self.archive is not None:
            self.archive.append(record)
        self.last_step = step
        self._remember(record)
        pairs = dict.fromkeys((key.layer, key.method) for key in record.maps)
        entry = Entry(
            step=step, epoch=epoch, pictures={self.plan.tag(*pair): self._sheet(record, *pair) for pair in pairs}
        )
        self._unclosed = list(self._sinks)
        failures = []
        for sink in self._sinks:
            try:
                sink.log(entry)
            except Exception as error:  # the other sinks are served first
                failures.append(error)
        if failures:
            raise failures[0]
        return record

    def check(self, cams: Cams) -> None:
        """Refuses maps that do not fit those recorded so far: training goes on with another model.

        Raises:
            ArchiveError: Layers or their sizes changed.
        """
        if self.archive is not None:
            self.archive.check(_manifest(self.plan, self.probes, cams, self.archive.manifest.run))

    def discard(self) -> None:
        """Deletes the archive's steps and manifest, to begin again in its folder."""
        if self.archive is not None:
            self.archive.discard()

    def rewind(self, step: int) -> None:
        """Forgets what was logged after ``step``: training goes on from an earlier checkpoint of this run."""
        self.last_step = min(self.last_step, step)
        self._peaks.clear()
        if self.archive is not None:
            self.archive.rewind(step)
            self._recall(self.archive)

    def close(self) -> list[Exception]:
        """Closes the sinks, once; what they raise is returned, so that each of them gets its turn."""
        sinks, self._unclosed = self._unclosed, []
        failures: list[Exception] = []
        for sink in sinks:
            try:
                sink.close()
            except Exception as error:
                failures.append(error)
        return failures

    def _sheet(self, record: CamRecord, layer: str, method: str) -> Picture:
        return sheet(
            record,
            self.probes,
            layer=layer,
            method=method,
            drawing=self.plan.drawing,
            title=self.plan.name,
            limits=self._peaks,
        )

    def _recall(self, archive: ArchiveWriter) -> None:
        if self.plan.drawing.scale == "run":
            for index in range(len(archive.steps)):
                self._remember(archive.record(index))
        self.last_step = max(archive.steps, default=self.last_step)

    def _remember(self, record: CamRecord) -> None:
        if self.plan.drawing.scale == "run":
            for key, maps in record.maps.items():
                peak = maxima(maps)
                self._peaks[key] = np.maximum(self._peaks[key], peak) if key in self._peaks else peak


def _manifest(plan: Plan, probes: ProbeSet, cams: Cams, run: str) -> Manifest:
    keys = list(cams)
    return Manifest(
        run=run,
        name=plan.name,
        layers=tuple(dict.fromkeys(key.layer for key in keys)),
        methods=tuple(dict.fromkeys(key.method for key in keys)),
        targets=tuple(dict.fromkeys(key.target for key in keys)),
        score=plan.score,
        map_shapes=_shapes(cams),
        fingerprint=probes.fingerprint,
    )


def _shapes(cams: Cams) -> dict[str, list[int]]:
    """Layer to the shape of its maps, and ``layer/method`` to that of a method whose maps have one of their own."""
    layers = dict.fromkeys(key.layer for key in cams if key.layer in cams.layouts)
    shapes = {layer: list(cams.layouts[layer].grid) for layer in layers}
    for key, maps in cams.items():
        if shapes.get(key.layer) != list(maps.shape[1:]):
            shapes[f"{key.layer}/{key.method}"] = list(maps.shape[1:])
    return shapes
