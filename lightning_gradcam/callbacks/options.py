"""A callback's options: one frozen object with all of them, and the descriptions of those that callbacks share."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from textwrap import dedent, indent
from typing import TYPE_CHECKING, Any, TypeVar

from lightning_gradcam.callbacks.steering import SteeringOptions
from lightning_gradcam.monitors.base import Monitor, Reporter
from lightning_gradcam.pipeline.failures import OnError
from lightning_gradcam.probes import ProbeSet
from lightning_gradcam.probes.options import ProbeOptions
from lightning_gradcam.sinks import Sink

if TYPE_CHECKING:
    from typing_extensions import Self

D = TypeVar("D")
C = TypeVar("C", bound=type)


@dataclass(frozen=True)
class RunOptions:
    """A callback's options, checked.

    Attributes:
        monitor: What to record, and its options.
        reporter: Creates the object that measures and draws the monitor's steps.
        probes: The choice of probes.
        forward_fn: Called with the module and a batch instead of the module's ``forward``.
        every_n_epochs: Log at all validations in every n-th epoch.
        every_n_validations: Log at every n-th validation instead.
        max_overhead: Largest share of the run's time that the callback may use.
        log_untrained: Log a baseline before the first step.
        background: Draw, write and log in background threads.
        on_error: How to react to a failure in lightning-gradcam.
        sinks: Sinks given by the user.
        check: Check the maps at the end of training.
        steering: How the numbers may affect training.
    """

    monitor: Monitor
    reporter: Callable[[Any, ProbeSet], Reporter]
    probes: ProbeOptions
    forward_fn: Callable[..., Any] | None
    every_n_epochs: int
    every_n_validations: int | None
    max_overhead: float | None
    log_untrained: bool
    background: bool
    on_error: OnError
    sinks: Sequence[Sink]
    check: bool = False
    steering: SteeringOptions = SteeringOptions()  # noqa: RUF009 - frozen

    @classmethod
    def of(cls, options: Mapping[str, Any], monitor: Monitor, reporter: Callable[[Any, ProbeSet], Reporter]) -> Self:
        """Returns a run's options.

        Args:
            options: As :func:`checked_options` returns them.
            monitor: The monitor built from them.
            reporter: Creates the object that measures and draws the monitor's steps.
        """
        probes = fill(ProbeOptions, options, given=options["probes"])
        steering = fill(SteeringOptions, options)
        return fill(cls, options, monitor=monitor, reporter=reporter, probes=probes, steering=steering)


def fill(kind: type[D], options: Mapping[str, Any], **others: Any) -> D:
    """Creates an object whose fields are the options with the same names.

    Args:
        kind: A dataclass.
        options: Values by name; values without a field are ignored.
        others: Fields with a different name or value.
    """
    named = {each.name: options[each.name] for each in fields(kind) if each.name in options}  # type: ignore[arg-type]
    return kind(**{**named, **others})


# In the format of an `Args:` section.
SHARED = """
layers: Layers to record: dotted module names, shell patterns (``"backbone.layer*"``), modules, a list of these, or
    ``"auto"`` (default): the last layer with a spatial output.
probes: A :class:`ProbeSet`, the path to a saved one, or a folder of images. Default: a class-balanced draw from the
    samples that the validation loader's sampler yields; if the data can't be indexed, the first samples that the
    loader yields.
seed: Random seed for drawing the probes.
input_key: Location of the model's input in a batch: a dict key, a field, an index into a tuple, a path of these
    (``["t1", "data"]``, ``"inputs.image"``; a key that contains a dot takes precedence over a path), or a function
    that extracts the input from the batch. Default: the first element of a tuple, or an entry with a common name; the
    first of several views; with ``forward_fn``, any image in the batch.
label_key: Location of the true class in a batch, in the same forms as ``input_key``. Default: the second element of
    a tuple, or an entry with a common name.
class_names: Names of all classes by index, instead of the data set's: a list, ``"imagenet"`` for torchvision's 1000
    names, the path to a text file with one name per line or to a JSON file, or the import path
    ``"package.module:Name"`` of a list of names or of weights, such as ``"torchvision.models:ResNet18_Weights"``.
mean: Mean used to normalise the inputs, per channel or one for all. Undone for display if the data set's transform has
    no visible ``Normalize``.
std: Standard deviation used with ``mean``, per channel or one for all.
layout: Meaning of a layer's axes, if it can't be detected: ``"NHWC"``, ``"NLC:1+14x14"``, ``"(NT)CHW"`` (frames
    folded into the batch), or a mapping from layer names to these.
forward_fn: A function ``forward_fn(module, batch)`` that computes the output to explain from a whole batch on the
    device. For modules without ``forward(x)`` and for models with several inputs.
every_n_epochs: Log at every validation in every n-th epoch, counted as in Lightning's ``ModelCheckpoint``: with 2, in
    epochs 1, 3, 5, … (the first epoch is 0).
every_n_validations: Log at every n-th validation instead, for training that validates within an epoch.
log_untrained: Log a baseline before the first training step.
max_overhead: Largest share of the run's time that the callback may use, such as 0.02. If it uses more, it logs at
    fewer validations from then on, and one line reports this. Default: no limit.
name: Name of the callback, used for its tags, its archive's folder and its state key. Callbacks in one Trainer need
    different names.
report: Write ``report.html`` to the run's folder when training ends.
sinks: Additional destinations for sheets and numbers, besides the Trainer's loggers.
background: Draw, write and log in background threads while training continues (default). With ``False``, training
    waits for this work.
on_error: How to react to a failure in lightning-gradcam after training has begun: ``"warn"`` (default) reports it,
    continues, and gives up after three failures in a row; ``"raise"`` stops training. Either way, an invalid
    configuration raises before the first training step if the model and the probes are complete by then.
"""
_ENTRY = re.compile(r"^(\w+): (.*(?:\n .*)*)", re.MULTILINE)


def documented(callback: C) -> C:
    """Completes a callback's ``Args:`` section with the shared options in its signature.

    Sphinx, ``help()`` and the command line's ``--help`` then show all options in the order of the signature.

    Args:
        callback: A class. If its own ``Args:`` describes a shared option, that description is kept.
    """
    if callback.__doc__ is None:  # python -OO
        return callback
    begin, rest = inspect.cleandoc(callback.__doc__).split("\nArgs:\n", 1)
    own, end = rest.split("\n\n", 1)
    entries = {**dict(_ENTRY.findall(SHARED)), **dict(_ENTRY.findall(dedent(own)))}
    args = "\n".join(f"{name}: {entries[name]}" for name in inspect.signature(callback).parameters)
    callback.__doc__ = f"{begin}\nArgs:\n{indent(args, '    ')}\n\n{end}"
    return callback
