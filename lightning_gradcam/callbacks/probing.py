"""Where the probes of a run come from: the user, a checkpoint, the data set, or batches that pass by."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

from lightning_gradcam.archive import Archive
from lightning_gradcam.callbacks.host import Host, rank_zero_info, rank_zero_warn
from lightning_gradcam.callbacks.ranks import Ranks, alone
from lightning_gradcam.errors import LightningGradCAMError, ProbeError
from lightning_gradcam.probes.batches import Apart
from lightning_gradcam.probes.dataset import Drawn
from lightning_gradcam.probes.options import ProbeOptions
from lightning_gradcam.probes.samplers import UnindexedError
from lightning_gradcam.probes.source import obtain_probes
from lightning_gradcam.probes.streaming import Passing

# What happens where all ranks take them, for errors.
_DRAWING = "drawing probes"


class Probing:
    """Selects the probes of a run, once.

    Args:
        options: The user's choice.

    Attributes:
        drawn: The probes, with the batch that they came in; ``None`` until they are taken.
        streams: Whether they can only be taken from batches that pass by; ``None`` until :meth:`look` has found out.
    """

    def __init__(self, options: ProbeOptions) -> None:
        self._options = options
        self.drawn: Drawn | None = None
        self.streams: bool | None = None
        self._found: tuple[Drawn, str | None] | None = None
        # Why samples can't be read by index, until the user has been told.
        self._unindexed = ""
        self.passing = Passing(options)

    def begin_anew(self) -> None:
        """Forgets the probes and all collected samples."""
        self.drawn = self._found = None
        self.passing = Passing(self._options)

    def state(self) -> dict[str, Any]:
        """Returns what a checkpoint keeps of how the probes were taken."""
        if self.drawn is None:
            return {"transferred": False, "form": ""}
        return {"transferred": self.drawn.transferred, "form": self.drawn.form(self._options.input_key)}

    def look(self, host: Host, resumed: dict[str, Any], *, needed: bool) -> None:
        """Checks whether probes can be taken before training begins.

        Args:
            host: The trainer.
            resumed: The checkpoint's state; emptied where its probes are lost.
            needed: There is no recorder yet, which has its probes.
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
                    f"lightning-gradcam: the probes are in an archive that can't be read ({error}); new ones are drawn,"
                    " so maps can't be compared with earlier ones"
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
                self._unindexed += ", nor is the checkpoint's archive readable, so that maps can't be compared"
        except Exception:  # comes again where all ranks hear of it
            return

    def take(self, host: Host, resumed: dict[str, Any], ranks: Ranks) -> tuple[Drawn, str | None]:
        """Returns the probes, and a warning for the user or ``None``.

        Raises:
            ProbeError: They can't be drawn, or ranks that explain together have drawn different ones.
        """
        warning = None
        if self.drawn is None:
            with ranks.together(_DRAWING):
                self.drawn, warning = self._found or self._obtained(host, resumed)
                self._found = None
        if not ranks.same(self.drawn.probes.fingerprint):
            raise ProbeError(
                "probes: the ranks drew different ones, although their weights are shards of one model; use the same"
                " validation data set on all ranks, or give probes="
            )
        return self.drawn, warning

    def replaced(self, host: Host, ranks: Ranks, why: str) -> Drawn | None:
        """Returns new probes where archived ones can't be fed to the model; ``None`` if these have to pass by."""
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

    def reason(self) -> str:
        """Returns, once, why the probes are those that pass by; empty if they are not."""
        why, self._unindexed = self._unindexed, ""
        chosen = "the probes are the first samples that pass by (give probes= for chosen ones)"
        return f"{why:.300}; {chosen}" if why else ""

    def say_that_it_waits(self, host: Host, lazy: Sequence[str], *, baseline: bool) -> None:
        """Tells the user what the run waits for: a model that is whole, or samples that pass by.

        Args:
            host: The trainer.
            lazy: The model's lazy modules that have not run yet.
            baseline: The untrained model was to be logged.
        """
        what = f"{', '.join(lazy)} get their parameters in the first forward" if lazy else self.reason()
        rank_zero_info(
            f"lightning-gradcam: {what}; the configuration is tried after that and not before training begins"
        )
        if host.fitting and baseline and host.untrained:
            instead = (
                "the weights are there only after the first training batch; run one batch through the model before"
                " trainer.fit, or let Lightning's sanity check do it (num_sanity_val_steps)"
                if lazy
                else "there are no probes yet; give probes=, or let Lightning's sanity check see as many samples"
                " (num_sanity_val_steps)"
            )
            rank_zero_warn(f"lightning-gradcam: log_untrained=True: there is no baseline, because {instead}")

    def remarks(self, found: Any) -> Iterator[str]:
        """Yields what the user should know about the probes.

        Args:
            found: The monitor's results for them.
        """
        if self.drawn is None:
            return
        probes = self.drawn.probes
        if isinstance(self.drawn.batch, Apart):
            size = " x ".join(map(str, probes.inputs.shape[-2:]))
            yield (
                "probes: the pictures have several sizes, and each is explained by itself, at its own size; sheets and"
                f" the archive show pictures and maps resized to {size}"
            )
        if len(self.passing) and (reason := self.reason()):
            yield reason
        if self.drawn.remark is not None:
            yield self.drawn.remark
        if probes.values is not None and getattr(found, "predicted", None) is not None:
            values = probes.values.flatten().tolist()
            odd = next((value for value in values if not value.is_integer()), values[0])
            yield (
                f"labels: numbers such as {odd:.3g} are no classes, and the model predicts one, so sheets show no true"
                " class; name the labels with label_key=, or give probes=ProbeSet(inputs, labels=…)"
            )

    def _obtained(self, host: Host, resumed: dict[str, Any], *, passed: bool = True) -> tuple[Drawn, str | None]:
        """Returns the probes, and a remark."""
        # A sampler that waits for other ranks would wait for ever where these are not here.
        with nullcontext() if host.shards else alone():
            try:
                return obtain_probes(
                    replace(self._options, apart=True, fewer=host.tries),
                    host.probe_loader,
                    resumed=resumed,
                    archived=lambda path: Archive.open(path).probes,
                    redraw=host.stage != "test",
                    passing=self.passing if passed and self.streams and len(self.passing) else None,
                    batches=host.overfitted,
                )
            except UnindexedError as error:
                if not host.shards:
                    raise
                raise ProbeError(
                    f"{str(error).split(';')[0]:.200}; each rank sees different samples, but all must explain"
                    " the same ones; give probes=ProbeSet(...), a saved probe set, or a folder of pictures"
                ) from error
