"""The check of a run's maps at the end of training: on its probes, with the model as training leaves it."""

from __future__ import annotations

from dataclasses import replace

from lightning_gradcam.archive import Archive
from lightning_gradcam.callbacks.feeding import Feeding
from lightning_gradcam.checks.result import MapCheck
from lightning_gradcam.checks.run import check_maps_of
from lightning_gradcam.errors import ConfigurationError
from lightning_gradcam.monitors.cam_monitor import CamMonitor
from lightning_gradcam.targets import resolve_targets
from lightning_gradcam.targets.classes import Class

# The number of layers and methods named in one line.
_NAMED = 4


def check_at_end(feeding: Feeding, monitor: CamMonitor) -> MapCheck:
    """Checks the maps of a run's probes.

    Args:
        feeding: The probes and the module.
        monitor: What is explained, with the resolved layers. With several targets, or one that is not a class, the
            predicted class is checked instead.

    Raises:
        ConfigurationError: The weights are sharded, or the probes are not one tensor of images.
        LightningGradCAMError: As :func:`~lightning_gradcam.check_maps`.
    """
    probes, host = feeding.drawn.probes, feeding.host
    if host.shards:
        raise ConfigurationError(
            "check: the weights are sharded, and a check has to replace them; call check_maps on an unsharded model"
        )
    subject = feeding.subject("checking the maps")
    with subject.guard():
        inputs = subject.load(0, len(probes))
        if feeding.forward_fn is not None or not inputs.is_single:
            raise ConfigurationError(
                "check: the check changes the model's input image, so it needs a forward(x) of one tensor; call "
                "check_maps with forward= instead"
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
            # The other processes wait in the meantime, and a strategy gives up on a process that takes too long.
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
