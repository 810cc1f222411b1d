"""Where a run's probes come from: the user, a checkpoint, the data set, or the first batches."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import torch

from lightning_gradcam.archive import Archive
from lightning_gradcam.callbacks.host import Host, rank_zero_info, rank_zero_warn
from lightning_gradcam.callbacks.ranks import Ranks, alone
from lightning_gradcam.errors import LightningGradCAMError, ProbeError
from lightning_gradcam.probes.batches import Apart
from lightning_gradcam.probes.dataset import Drawn
from lightning_gradcam.probes.labels import mark_of_none
from lightning_gradcam.probes.options import ProbeOptions
from lightning_gradcam.probes.samplers import UnindexedError
from lightning_gradcam.probes.source import obtain_probes
from lightning_gradcam.probes.streaming import Passing
from lightning_gradcam.targets.labels import LabelError

# Advice for labels that do not fit the output.
_OTHERS = "if the labels belong to another output, select it with output_key=, or select other labels with label_key="
# The action that all ranks perform here, for errors.
_DRAWING = "drawing probes"


class Probing:
    """Selects a run's probes once.

    Args:
        options: The user's choice.

    Attributes:
        drawn: The probes, with the batch that contained them; ``None`` until they are selected.
        streams: Whether they can only come from the first batches; ``None`` until :meth:`look` has checked.
    """

    def __init__(self, options: ProbeOptions) -> None:
        self._options = options
        self.drawn: Drawn | None = None
        self.streams: bool | None = None
        self._found: tuple[Drawn, str | None] | None = None
        # Why another number of probes is used than requested.
        self._other_number = ""
        # Why samples can't be read by index, until the user has been informed.
        self._unindexed = ""
        self.passing = Passing(options)

    def begin_anew(self) -> None:
        """Forgets the probes and all collected samples."""
        self.drawn = self._found = None
        self.passing = Passing(self._options)

    def state(self) -> dict[str, Any]:
        """Returns the state to store in a checkpoint: how the probes were selected."""
        if self.drawn is None:
            return {"transferred": False, "form": ""}
        return {"transferred": self.drawn.transferred, "form": self.drawn.form(self._options.input_key)}

    def look(self, host: Host, resumed: dict[str, Any], *, needed: bool) -> None:
        """Checks whether probes can be selected before training begins.

        Args:
            host: The trainer.
            resumed: The checkpoint's state; emptied if its probes are lost.
            needed: Whether the run still needs probes, because it has no recorder yet.
        """
        self.streams = False
        if not needed or self._options.given is not None:
            return
        if resumed.get("transferred"):
            try:
                _ = Archive.open(resumed["archive"]).probes
                return
            except LightningGradCAMError as error:
                resumed.clear()
                rank_zero_warn(
                    f"lightning-gradcam: the archive with the probes can't be read ({error}); new probes are drawn, so "
                    "maps can't be compared with earlier ones"
                )
        if self._found is not None:
            return
        try:
            self._found = self._obtained(host, resumed)
        except UnindexedError as error:
            self.streams = True
            self._unindexed = str(error).split(";")[0]
            if resumed:
                resumed.clear()
                self._unindexed += ", and the checkpoint's archive can't be read, so maps can't be compared"
        except Exception:  # raised again where all ranks receive it
            return

    def take(self, host: Host, resumed: dict[str, Any], ranks: Ranks) -> tuple[Drawn, str | None]:
        """Returns the probes, and a warning for the user or ``None``.

        Raises:
            ProbeError: They can't be drawn, or ranks that explain together drew different ones.
        """
        warning = None
        if self.drawn is None:
            with ranks.together(_DRAWING):
                self.drawn, warning = self._found or self._obtained(host, resumed)
                self._found = None
            wanted, found = self._options.num_probes, len(self.drawn.probes)
            if resumed and self._options.given is None and wanted not in (None, found) and not host.tries:
                self._other_number = (
                    f"num_probes: got {wanted}, but a resumed run keeps its probes, and the checkpoint has {found}"
                )
        if not ranks.same(self.drawn.probes.fingerprint):
            raise ProbeError(
                "probes: the ranks drew different probes, but their weights are shards of one model; use the same "
                "validation data set on all ranks, or pass probes="
            )
        return self.drawn, warning

    def replaced(self, host: Host, ranks: Ranks, why: str) -> Drawn | None:
        """Returns new probes if archived ones can't be used; ``None`` if they must come from the first batches."""
        rank_zero_warn(
            f"lightning-gradcam: the checkpoint's probes can't be used as archived ({why}); new ones are drawn, so"
            " maps can't be compared with earlier ones"
        )
        try:
            with ranks.together(_DRAWING):
                self.drawn = self._obtained(host, {}, passed=False)[0]
        except UnindexedError as error:
            self.begin_anew()
            self.streams = True
            self._unindexed = str(error).split(";")[0]
        return self.drawn

    def unmarked(self, drawn: Drawn, error: LabelError) -> tuple[Drawn, str]:
        """Returns the data set's probes without labels that are none of the model's classes, and a warning.

        These are the label that marks samples without a class, and marks for other classes than the model's.

        Raises:
            LabelError: ``error``, if the user gave the probes, or if the labels are of another kind.
        """
        labels = drawn.probes.labels
        if labels is not None and labels.dim() > 1 and self._options.given is None:
            warning = f"{str(error).split(';')[0]}, so sheets show no true class; {_OTHERS}"
            return replace(drawn, probes=replace(drawn.probes, labels=None)), warning
        mark = mark_of_none(labels, error.classes) if self._options.given is None else None
        if labels is None or mark is None:
            raise error
        known = torch.where(labels == mark, -1, labels)
        warning = (
            f"labels: {int((labels == mark).sum())} of {len(labels)} probes have the label {mark}, but the model's "
            f"output has {error.classes} classes; it is taken to mark samples without a class (ignore_index), so these "
            f"probes show no true class; {_OTHERS}"
        )
        return replace(drawn, probes=replace(drawn.probes, labels=known)), warning

    def reason(self) -> str:
        """Returns, once, why the probes come from the first batches; empty if they do not."""
        why, self._unindexed = self._unindexed, ""
        chosen = "the probes are the first samples that the loader yields (pass probes= to choose them)"
        return f"{why:.300}; {chosen}" if why else ""

    def say_that_it_waits(self, host: Host, lazy: Sequence[str], *, baseline: bool) -> None:
        """Reports what the run waits for: a complete model, or the first batches.

        Args:
            host: The trainer.
            lazy: The model's lazy modules that have not run yet.
            baseline: Whether a baseline of the untrained model is requested.
        """
        what = f"{', '.join(lazy)} get their parameters in the first forward pass" if lazy else self.reason()
        rank_zero_info(
            f"lightning-gradcam: {what}; the configuration is checked after that, not before training begins"
        )
        if host.fitting and baseline and host.untrained:
            instead = (
                "the weights exist only after the first training batch; run one batch through the model before"
                " trainer.fit, or let Lightning's sanity check do it (num_sanity_val_steps)"
                if lazy
                else "there are no probes yet; pass probes=, or let Lightning's sanity check see enough samples "
                "(num_sanity_val_steps)"
            )
            rank_zero_warn(f"lightning-gradcam: log_untrained=True: there is no baseline, because {instead}")

    def remarks(self, found: Any) -> Iterator[str]:
        """Yields notes for the user about the probes.

        Args:
            found: The monitor's results for them.
        """
        if self.drawn is None:
            return
        probes = self.drawn.probes
        if isinstance(self.drawn.batch, Apart):
            size = " x ".join(map(str, probes.inputs.shape[-2:]))
            yield (
                "probes: the images differ in size, so each is explained separately, at its own size; sheets and the "
                f"archive show images and maps resized to {size}"
            )
        if len(self.passing) and (reason := self.reason()):
            yield reason
        if self.drawn.remark is not None:
            yield self.drawn.remark
        if self._other_number:
            yield self._other_number
        if probes.values is not None and getattr(found, "predicted", None) is not None:
            values = probes.values.flatten().tolist()
            odd = next((value for value in values if not value.is_integer()), values[0])
            yield (
                f"labels: values such as {odd:.3g} are not classes, but the model predicts one, so sheets show no true "
                "class; select the labels with label_key=, or pass probes=ProbeSet(inputs, labels=…)"
            )

    def _obtained(self, host: Host, resumed: dict[str, Any], *, passed: bool = True) -> tuple[Drawn, str | None]:
        """Returns the probes, and a remark."""
        passing = self.passing if passed and self.streams and len(self.passing) else None
        # A sampler that waits for other ranks would wait forever, because the other ranks do not call it here.
        with nullcontext() if host.shards else alone():
            try:
                if passing is None and not resumed and self._expects_combined(host):
                    raise UnindexedError(
                        "probes: a batch contains one batch from each of several loaders, so samples can't be read by "
                        "index"
                    )
                return obtain_probes(
                    replace(self._options, apart=True, fewer=host.tries),
                    host.probe_loader,
                    resumed=resumed,
                    archived=lambda path: Archive.open(path).probes,
                    redraw=host.stage != "test",
                    passing=passing,
                    batches=host.overfitted,
                )
            except UnindexedError as error:
                if not host.shards:
                    raise
                raise ProbeError(
                    f"{str(error).split(';')[0]:.200}; each rank sees different samples, but all must explain the same "
                    "ones; pass probes=ProbeSet(...), a saved probe set, or a folder of images"
                ) from error

    def _expects_combined(self, host: Host) -> bool:
        """Whether the user's keys or function read a batch that consists of those of several loaders, side by side."""
        if self._options.given is not None or (self._options.input_key is None and self._options.label_key is None):
            return False
        trainer: Any = host.trainer
        loop = {"test": trainer.test_loop, "validate": trainer.validate_loop}.get(host.stage, trainer.fit_loop)
        if host.fitting and host.validates:
            loop = loop.epoch_loop.val_loop
        # Until the loaders are set up, only the user's own object is known.
        loader = loop._data_source.instance if loop._combined_loader is None else loop._combined_loader
        mode, loaders = getattr(loader, "_mode", "sequential"), getattr(loader, "iterables", None)
        return mode != "sequential" and isinstance(loaders, (Mapping, Sequence))
