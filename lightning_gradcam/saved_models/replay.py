"""Rebuilds a training run's maps from its checkpoints, as if a callback had been active."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any

from lightning_gradcam.archive import Archive
from lightning_gradcam.archive.manifest import MANIFEST, PROBES
from lightning_gradcam.callbacks.base import ProbeCallback
from lightning_gradcam.callbacks.gradcam import GradCAMCallback
from lightning_gradcam.callbacks.host import Host, rank_zero_warn
from lightning_gradcam.callbacks.resume_state import flaw
from lightning_gradcam.callbacks.stand_ins import at_train_start
from lightning_gradcam.errors import ArchiveError, ConfigurationError
from lightning_gradcam.guard.model import uninitialized
from lightning_gradcam.saved_models.checkpoints import Found, check_fit, find_checkpoints, restore
from lightning_gradcam.saved_models.file import read_checkpoint, weights_of
from lightning_gradcam.storage import Storage, absolute, join

Progress = Callable[[int, int], None]


def replay(
    checkpoints: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    module: Any,
    callback: ProbeCallback | Mapping[str, Any] | None = None,
    *,
    datamodule: Any = None,
    output: str | os.PathLike[str] = "replay",
    trainer: Mapping[str, Any] | None = None,
    trust: bool = False,
    progress: Progress | None = None,
) -> Archive:
    """Rebuilds a training run's maps from its checkpoints, as if the callback had been active.

    ``fit`` is set up and ended before its first step. The callback's own hooks then run with each checkpoint's weights,
    at its epoch and step. Probes are selected as during training; if the last checkpoint contains the state of a
    callback with this name, its probes are reused. On the same machine, with the same number of threads, precision and
    batch size, the maps equal those of the live run bit for bit. Validations without a checkpoint can't be rebuilt, nor
    can the baseline (``log_untrained`` logs the module as given).

    Args:
        checkpoints: Files, or folders with ``.ckpt`` files. Damaged files are skipped with a warning.
        module: A LightningModule of the class that was trained, compiled or not. Afterwards it has the last
            checkpoint's weights.
        callback: A new callback, or its options. Default: ``GradCAMCallback()``.
        datamodule: The data module used for training, or its validation dataloader; ``None`` to use the module's own
            loaders, or if the callback has its own probes.
        output: Folder for the archive, which becomes ``<output>/<name>`` and contains sheets, film strips and
            ``report.html``.
        trainer: Trainer options that affect the maps, such as ``{"precision": "bf16-mixed"}``.
        trust: As in :func:`~lightning_gradcam.load_checkpoint`.
        progress: Function to call before each checkpoint and at the end, with the number done and the total.

    Returns:
        The archive.

    Raises:
        CheckpointFileError: No checkpoint was found, or all are damaged.
        ConfigurationError: A checkpoint belongs to a different model (nothing is written), or an option is invalid.
        ArchiveError: The folder can't be written to.

    Example::

        archive = replay("version_0/checkpoints", Net(), {"layers": ["backbone.layer4"]}, datamodule=Data())
        archive.epochs, archive.maps("backbone.layer4").shape
    """
    found = find_checkpoints(checkpoints, trust=trust)
    for path, why in found.damaged:
        rank_zero_warn(f"lightning-gradcam: {path} is skipped: {why}")
    made = callback if isinstance(callback, ProbeCallback) else GradCAMCallback(**(callback or {}))
    (archive,) = replay_all(
        found, module, [made], datamodule=datamodule, output=output, trainer=trainer, trust=trust, progress=progress
    )
    return archive


def replay_all(
    found: Found,
    module: Any,
    callbacks: Sequence[ProbeCallback],
    *,
    datamodule: Any = None,
    output: str | os.PathLike[str],
    trainer: Mapping[str, Any] | None = None,
    trust: bool = False,
    progress: Progress | None = None,
) -> list[Archive]:
    """Replays a training run for several callbacks at once; see :func:`replay`.

    Returns:
        One archive per callback.
    """
    # Unwrap a compiled module, as Lightning's Trainer does.
    module = getattr(module, "_orig_mod", module)
    root = absolute(os.fspath(output))
    for callback in callbacks:
        # The live run's archive may also be in the output folder; a replay must not continue it.
        state = found.checkpoints[-1].states.get(callback.state_key)
        live = str(state.get("archive")) if isinstance(state, dict) else ""
        for place in (join(root, callback.name), live):
            if place.rsplit("/", 1)[0] == root.rstrip("/") and Storage(place).exists(MANIFEST):
                raise ConfigurationError(
                    f"output: {place!r} already contains an archive; pass another folder (-o), or delete that one"
                )
    if not hasattr(module, "configure_optimizers"):
        raise ConfigurationError(f"module: got a {type(module).__name__}; pass the LightningModule that was trained")
    _check_all(found, module, trust)
    total, reported = len(found.checkpoints), progress or (lambda done, total: None)

    def prepare() -> None:
        for callback in callbacks:
            if (state := _state_of(callback, found)) is not None:
                callback.load_state_dict(state)

    def visit(host: Host, move: Callable[[int, int], None]) -> None:
        for callback in callbacks:
            if callback.probes is None:
                lazy = uninitialized(module)
                why = "lazy modules have no weights yet" if lazy else "its data can't be indexed or is missing"
                raise ConfigurationError(
                    f"probes: {callback.name} draws its probes at the first batch, because {why}, but a replay has no "
                    "batches; pass probes= (--probes): a saved probe set, a folder of images, or an archive's "
                    "probes.npz"
                )
        for done, saved in enumerate(found.checkpoints):
            reported(done, total)
            contents = read_checkpoint(saved.path, trust=trust)
            restore(host.module, contents, weights_of(contents, saved.path), saved.path)
            move(saved.epoch, saved.step)
            for callback in callbacks:
                callback.on_validation_epoch_end(host.trainer, host.module)
                callback.on_validation_end(host.trainer, host.module)
        reported(total, total)

    try:
        at_train_start(module, datamodule, list(callbacks), prepare, visit, folder=root, options=trainer or {})
    except BaseException:
        for callback in callbacks:
            # Remove what would block the next attempt.
            if callback.archive is not None and not callback.archive.steps:
                for name in (MANIFEST, PROBES):
                    with suppress(OSError):
                        Storage(callback.archive.path).remove(name)
        raise
    archives = [callback.archive for callback in callbacks]
    return [Archive.open(archive.path) for archive in archives if archive is not None]


def _check_all(found: Found, module: Any, trust: bool) -> None:
    """Rejects checkpoints of a different model before anything is written."""
    configure = getattr(module, "configure_model", None)
    if callable(configure):
        # `fit` calls this again; Lightning requires that a second call has no effect.
        configure()
    home = str(getattr(type(module).on_load_checkpoint, "__module__", "")).split(".")[0]
    if home not in ("pytorch_lightning", "lightning"):
        # The module's own hook may rename the weights when they are loaded.
        return
    for saved in found.checkpoints:
        contents = read_checkpoint(saved.path, trust=trust, mapped=True)
        check_fit(module, weights_of(contents, saved.path), saved.path)


def _state_of(callback: ProbeCallback, found: Found) -> dict[str, Any] | None:
    """Returns the last checkpoint's state for this callback, whose probes are reused, or ``None``."""
    state = found.checkpoints[-1].states.get(callback.state_key)
    if state is None:
        return None
    if (why := flaw(state)) is not None:
        rank_zero_warn(f"lightning-gradcam: the live run's probes are not known ({why}); new ones are drawn")
        return None
    archive = str(state["archive"])
    try:
        Archive.open(archive)
    except ArchiveError:
        archive = ""
    kept = ("schema", "indices", "fingerprint", "run", "transferred", "form")
    # Step -1 takes over no steps from the live run's archive.
    return {**{name: state[name] for name in kept if name in state}, "archive": archive, "step": -1}
