"""Feeds the probes to the module like its own batches, through its transfer hooks and ``forward()``."""

from __future__ import annotations

from collections import Counter
from contextlib import AbstractContextManager, ExitStack, suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from torch import Tensor, nn

from lightning_gradcam.callbacks.host import Host
from lightning_gradcam.callbacks.options import RunOptions
from lightning_gradcam.callbacks.ranks import Ranks, alone
from lightning_gradcam.callbacks.transfer import sent_to_device
from lightning_gradcam.capture.image_moves import few, image_moves
from lightning_gradcam.capture.inputs import Inputs
from lightning_gradcam.compute.search import TRIED
from lightning_gradcam.errors import ConfigurationError, LightningGradCAMError, LostRankError
from lightning_gradcam.monitors.base import Monitor, Subject
from lightning_gradcam.probes.batches import Apart, exchanged, is_listed, part_of, part_of_listed
from lightning_gradcam.probes.dataset import Drawn
from lightning_gradcam.probes.entries import entry_of, input_of
from lightning_gradcam.probes.paths import fed, inputs_in, structure

_ROOTS = ("pytorch_lightning", "lightning")
_MOVES = {
    "turned": "turn or mirror",
    "shifted": "shift",
    "part": "crop",
    "border": "add a border to",
}


@dataclass(frozen=True, eq=False)
class Feeding:
    """A run's probes, and the module that receives them.

    Attributes:
        host: The trainer.
        drawn: The probes, with the batch that contained them.
        ranks: The ranks that explain together.
        options: The callback's options.
    """

    host: Host
    drawn: Drawn
    ranks: Ranks
    options: RunOptions

    @property
    def looks(self) -> Monitor:
        """The monitor for these probes; it explains one at a time if the batch stores them separately."""
        # A model that receives images in a tuple may run its layers once per image.
        monitor = self.options.monitor
        return replace(monitor, batch_size=1) if self.drawn.form(self.options.probes.input_key) else monitor

    def tried(self, *, trial: bool) -> Any:
        """Returns the monitor's results.

        Args:
            trial: Use only two of the probes, if the model accepts two.

        Raises:
            ConfigurationError: The options do not fit the model or the probes.
        """
        try:
            seen = partial(self.subject("trying the configuration").seen, self.looks, self.drawn.probes)
            if trial:
                try:
                    return seen(trial=True)
                except LostRankError:
                    raise
                except Exception:
                    # A multiple-instance model or a callable target may only accept all of them at once.
                    if len(self.drawn.probes) <= TRIED:
                        raise
            return seen()
        except LightningGradCAMError:
            raise
        except Exception as error:
            raise ConfigurationError(
                f"model: the forward pass failed on the probes {list(self.drawn.probes.inputs.shape)} "
                f"({type(error).__name__}: {error!s:.120}); input_key selects the input from the batch "
                f"{structure(self.drawn.batch, 100)}; it then passes through the module's transfer hooks to "
                f"forward(){self._several(error)}"
            ) from error

    def moved(self) -> str | None:
        """Returns a warning if the transfer hooks move parts of the images, so maps would be misplaced."""
        host, drawn, key = self.host, self.drawn, self.options.probes.input_key
        if drawn.transferred or isinstance(drawn.batch, Apart) or not host.trainer.is_global_zero:
            return None
        count = tried = len(drawn.probes)
        found: dict[int, str] = {}
        # A hook may raise anything for changed images.
        with suppress(Exception), host.explaining(), alone():
            tried = min(self.looks.batch_size, few(drawn.probes.inputs))
            batch = part_of(drawn.batch, 0, tried, count)
            entry = entry_of(batch, key)

            def run(images: Tensor) -> Tensor:
                return input_of(sent_to_device(host, exchanged(batch, entry, images)), key).cpu()

            if isinstance(entry, Tensor):
                found = image_moves(run, entry)
        if not found:
            return None
        kinds, of = Counter(found.values()), str(count) if tried == count else f"the first {tried}"
        what = " and ".join(_MOVES[kind] for kind, _ in kinds.most_common(2))
        return (
            f"the module's transfer hooks (on_before_batch_transfer, on_after_batch_transfer) {what} the images of "
            f"{len(found)} of {of} probes. Maps, masks and boxes are drawn on the unchanged images, so they are "
            "misplaced. Change the images in the data set's transform instead, and apply random changes only `if "
            "self.trainer.training`"
        )

    def _several(self, error: Exception) -> str:
        """Returns advice for a ``forward()`` that may need the batch's other inputs, or the whole batch."""
        if self.options.forward_fn is not None or isinstance(self.drawn.batch, Tensor):
            return ""
        inputs = inputs_in(self.drawn.batch)
        if isinstance(error, TypeError) and len(inputs) > 1:
            return f"; if forward() accepts several inputs, {fed(inputs)}"
        return "; if forward() accepts the batch, pass forward_fn=lambda module, batch: module(batch)"

    def subject(self, what: str) -> Subject:
        """Returns the module and how to feed it, for the recorder.

        Args:
            what: The action that all participating ranks perform, for errors.
        """
        host, drawn, key, forward_fn = self.host, self.drawn, self.options.probes.input_key, self.options.forward_fn
        first = drawn.batch.batches[0] if isinstance(drawn.batch, Apart) else drawn.batch
        entry = entry_of(first, key)
        kind: Any = type(entry)
        forward, listed = host.forward_of(forward_fn), is_listed(entry, first)
        part = part_of_listed if listed or first is not drawn.batch else part_of

        def load(start: int, stop: int) -> Inputs:
            batch = part(drawn.batch, start, stop, len(drawn.probes))
            # A failure on one rank must not leave the others waiting in the forward pass.
            with self.ranks.together("preparing the probes"):
                batch = sent_to_device(host, batch, transferred=drawn.transferred)
            picture = input_of(batch, key, listed=listed)
            if listed:
                batch = exchanged(batch, entry_of(batch, key), picture)
            return Inputs(picture if forward_fn is None else batch, picture)

        def forward_listed(values: Any) -> Any:
            """Passes the model a tuple or list of images; the methods use one tensor of all images."""
            picture = entry_of(values, key)
            return forward(exchanged(values, picture, kind(picture.unbind())))

        def guard() -> AbstractContextManager[Any]:
            with ExitStack() as stack:
                stack.enter_context(self.ranks.together(what))
                stack.enter_context(host.explaining())
                if not host.shards:
                    stack.enter_context(alone())
                return stack.pop_all()

        # Ranks that explain together must use the same parts.
        run = forward_listed if listed else forward
        return Subject(host.module, load, run, guard, halve=not host.shards, from_one=drawn.from_one)


def check_forward(module: nn.Module) -> None:
    """Rejects a module that does not define its own ``forward``.

    Raises:
        ConfigurationError: The module only inherits the base class's ``forward``.
    """
    # A module may be given its ``forward`` in ``__init__``, or define ``__call__`` instead.
    if "forward" in vars(module) or type(module).__call__ is not nn.Module.__call__:
        return
    forward = type(module).forward
    inherited = forward.__qualname__ == "LightningModule.forward" and forward.__module__.split(".")[0] in _ROOTS
    if inherited or forward is nn.Module.forward:
        raise ConfigurationError(
            f"model: {type(module).__name__} defines no forward(), so there is no output to explain; define"
            " forward(self, x) to return the logits, for instance `return self.model(x)`, or pass the callback"
            " forward_fn=(module, batch) -> logits"
        )
