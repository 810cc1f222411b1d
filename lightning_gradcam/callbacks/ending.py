"""The end of a run: the check of its maps, its final lines, and the note to the process that launched it."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import replace
from pathlib import PurePath

from lightning_gradcam.archive import Archive
from lightning_gradcam.callbacks.feeding import Feeding
from lightning_gradcam.checks.result import MapCheck
from lightning_gradcam.checks.run import check_maps_of
from lightning_gradcam.errors import ConfigurationError
from lightning_gradcam.findings import FINDINGS, brief
from lightning_gradcam.monitors.cam_monitor import CamMonitor
from lightning_gradcam.record.finding import Finding
from lightning_gradcam.report import REPORT
from lightning_gradcam.storage import Storage, join
from lightning_gradcam.targets.classes import Class
from lightning_gradcam.targets.resolve import resolve_targets

# Maximum number of layers, or of layers and methods, named in one line.
_NAMED = 4
_RECORDS: dict[str, str] = {}

# An archive with at least one step, whether ``"auto"`` chose its layers, and its findings, most severe first.
Recorded = tuple[Archive, bool, Sequence[Finding]]


def last_words(recorded: Sequence[Recorded], board: str) -> list[str]:
    """Returns a run's final lines, at most three: layers and findings, the report, TensorBoard's command.

    Args:
        recorded: Each callback's record.
        board: The TensorBoard logger's folder; empty if there is none.
    """
    if not recorded:
        return []
    archives = [archive for archive, _, _ in recorded]
    pages = [join(archive.path, REPORT) for archive in archives]
    made = [Storage(archive.path).exists(REPORT) for archive in archives]
    places = [page if there else archive.path for page, there, archive in zip(pages, made, archives, strict=True)]
    lines = [
        "; ".join(
            # If there are several archives, each is named by its folder.
            (f"{PurePath(archive.path).name}: " if len(archives) > 1 else "") + _layers(archive, chosen) + _shown(shown)
            for archive, chosen, shown in recorded
        ),
        f"{'report' if all(made) else 'record'}: {' '.join(places)}",
    ]
    if board:
        lines.append(f"tensorboard --logdir {shlex.quote(board)}    (tabs GRAD-CAM and IMAGES)")
    return [f"lightning-gradcam: {line}" for line in lines]


def missing(archive: Archive, *, explained: bool, schedule: str) -> str | None:
    """Returns why a run's archive has no step, or ``None`` if it has one.

    Args:
        archive: The run's archive.
        explained: Whether any step was explained.
        schedule: The options that set the schedule.
    """
    try:
        if archive.steps:
            return None
    except OSError as error:
        return f"the archive {archive.path} can't be listed ({error})"
    if explained:
        return f"{archive.path} contains no maps; the warnings above explain why"
    return (
        f"nothing was logged: no validation was due ({schedule}) before training ended; lower these values or "
        "train longer"
    )


def never_started(lazy: Sequence[str]) -> str:
    """Returns why a run never began to record.

    Args:
        lazy: The model's lazy modules that never ran.
    """
    if not lazy:
        return "there was no validation batch to take probes from"
    return (
        f"{', '.join(lazy)} never ran, so the model is incomplete; remove them, or call them in the model's forward()"
    )


def _layers(archive: Archive, chosen: bool) -> str:
    names, count = list(archive.layers), len(archive.steps)
    shown = ", ".join(names[:_NAMED]) + (f" and {len(names) - _NAMED} more" if len(names) > _NAMED else "")
    return f"logged {shown}{' (chosen by auto)' if chosen else ''} at {count} step{'s' if count > 1 else ''}"


def _shown(findings: Sequence[Finding]) -> str:
    """Returns the two most severe findings, to append to a line."""
    if not (sentences := brief(findings)):
        return ""
    count = len(findings)
    many = f"{count} findings ({FINDINGS}), most severe first" if count > 1 else "1 finding"
    return f"; {many}: {' '.join(sentences)}"


class Note:
    """Points the process that unpickles it to a callback's record.

    Strategies that spawn or fork train in separate processes. They return the trainer's state to the launching process,
    where the callback has no record of the run.

    Args:
        callback: The callback's token.
        path: The archive's path.
    """

    def __init__(self, callback: str, path: str) -> None:
        self._callback, self._path = callback, path

    def __reduce__(self) -> tuple[object, tuple[str, str]]:
        """Makes unpickling store the archive's path and return a new note."""
        return _noted, (self._callback, self._path)


def _noted(callback: str, path: str) -> Note:
    _RECORDS[callback] = path
    return Note(callback, path)


def forget(callback: str) -> None:
    """Forgets another process's record for this token, because its callback starts a new one here."""
    _RECORDS.pop(callback, None)


def record_of(callback: str) -> Archive | None:
    """Returns the record that another process created for the callback with this token, or ``None``."""
    path = _RECORDS.get(callback)
    return Archive.open(path) if path else None


def check_at_end(feeding: Feeding, monitor: CamMonitor) -> MapCheck:
    """Checks the maps of a run's probes.

    Args:
        feeding: The probes and the module.
        monitor: What is explained, with the resolved layers. With several targets, or one that is not a class, the
            predicted class is checked instead.

    Raises:
        ConfigurationError: The weights are sharded, ``forward_fn`` is used, or the probes are not one tensor of images.
        LightningGradCAMError: As for :func:`~lightning_gradcam.check_maps`.
    """
    probes, host = feeding.drawn.probes, feeding.host
    if host.shards:
        raise ConfigurationError(
            "check: the weights are sharded, and a check has to replace them; call check_maps on an unsharded model"
        )
    subject = feeding.subject("checking the maps")
    with subject.guard():
        inputs = subject.load(0, len(probes))
        if feeding.options.forward_fn is not None or not inputs.is_single:
            raise ConfigurationError(
                "check: the check changes the model's input image, so it needs a forward(x) that accepts one tensor; "
                "call check_maps with forward= instead"
            )
        targets = resolve_targets(monitor.targets, probes.class_names)
        one_class = len(targets) == 1 and isinstance(targets[0].select, Class)
        found = check_maps_of(
            subject.model,
            probes,
            inputs.picture,
            monitor.layers,
            methods=monitor.methods,
            targets=monitor.targets if one_class else "predicted",
            score=monitor.score,
            layout=monitor.layout,
            output_key=monitor.output_key,
            forward=subject.forward,
            batch_size=monitor.batch_size,
            # The other processes wait meanwhile, and a strategy gives up on a process that takes too long.
            quick=host.trainer.world_size > 1,
        )
    if not one_class:
        names = ", ".join(repr(target.name) for target in targets)
        left_out = f"Only the maps of the predicted class were checked, not those of the run's targets ({names:.200})."
        found = replace(found, remarks=(*found.remarks, left_out))
    return found


def spoken(check: MapCheck, archive: Archive | None) -> list[str]:
    """Saves a check to the run's folder, and returns its summary in at most three lines."""
    rows = list(check.verdicts.values())
    told = [f"{row.method!r} at {row.layer!r} is {row.verdict} (p = {row.figures['p']:.2g})" for row in rows[:_NAMED]]
    more = [f"{len(rows) - _NAMED} more"] if len(rows) > _NAMED else []
    remarks = "".join(f" {remark}" for remark in check.remarks)
    lines = [f"check on {check.pictures} probes: {'; '.join([*told, *more])}{'.' if remarks else ''}{remarks}"]
    if check.best is not None:
        lines.append(f"best: {check.best[1]!r} at {check.best[0]!r}")
    else:
        lines.append(f"no method is sound: {rows[0].reason}. {rows[0].advice}")
    if archive is not None:
        lines.append(f"check: {check.save(archive.path)}")
    return lines
