"""What the options mean that several callbacks have: written once, and put into the docstring of each of them."""

from __future__ import annotations

import inspect
import re
from textwrap import dedent, indent
from typing import TypeVar

C = TypeVar("C", bound=type)

# As an `Args:` section has them.
SHARED = """
layers: What to look at: dotted module names, shell patterns (``"backbone.layer*"``), modules, a list of these, or
    ``"auto"`` (default): the last layer with a spatial output.
probes: A :class:`ProbeSet`, the path of a saved one, or a folder of pictures. Default: drawn, class-balanced, from
    the samples that the validation loader's sampler yields; of data that can't be indexed, the first samples that
    pass by.
seed: Of the draw.
input_key: Where a batch holds the model's input: a key of a dict, a field, a place in a tuple, a path of these
    (``["t1", "data"]``, ``"inputs.image"``; a key with a dot in it comes before a path), or a function that
    takes it out of the batch. Default: the first of a tuple, or the usual names; of several views, the first;
    with ``forward_fn``, any picture in the batch.
label_key: Where a batch holds the true class, in the same forms as ``input_key``. Default: the second of a tuple, or
    the usual names.
class_names: Names of all classes by index, where the data set has none.
mean: Of each channel, or one for all: undone for display where the data set's transform shows no ``Normalize``.
std: The standard deviation that belongs to ``mean``, of each channel or one for all.
layout: What a layer's axes mean, where that can't be seen: ``"NHWC"``, ``"NLC:1+14x14"``, ``"(NT)CHW"`` (frames
    folded into the batch), or a mapping from layer names to these.
forward_fn: ``forward_fn(module, batch)`` returns the output to look at, from a whole batch on the device: for modules
    without a ``forward(x)`` and for models with several inputs.
every_n_epochs: Log at every validation of every n-th epoch, counted as Lightning's ``ModelCheckpoint`` counts: with
    2, in epochs 1, 3, 5, … (epochs begin at 0).
every_n_validations: Log at every n-th validation instead, for validation inside an epoch.
log_untrained: Log a baseline before the first training step.
max_overhead: The largest share of the time that this may take, for instance 0.02. Where it takes more, it is done at
    fewer validations from then on, and one line reports that. Default: no limit.
name: The root of tags, the archive's folder and the key of the state; callbacks side by side need different names.
report: Write ``report.html`` into the run's folder when training ends.
sinks: Further places for the pictures, besides those of the trainer's loggers.
background: Draw, write and log in background threads (default), while training goes on; ``False`` does all of it
    before training goes on.
on_error: What a failure in lightning-gradcam does after training has begun: ``"warn"`` (default) reports it, goes on,
    and gives up after three in a row; ``"raise"`` stops training. A wrong configuration always raises before the
    first training step.
"""
_ENTRY = re.compile(r"^(\w+): (.*(?:\n .*)*)", re.MULTILINE)


def documented(callback: C) -> C:
    """Completes a callback's ``Args:``, which has its own options: with the shared ones that its signature names.

    Sphinx, ``help()`` and ``--help`` of the command line read them all there, in the order of the signature.

    Args:
        callback: A class. Where its own ``Args:`` has a shared option, its own words are kept.
    """
    if callback.__doc__ is None:  # python -OO
        return callback
    begin, rest = inspect.cleandoc(callback.__doc__).split("\nArgs:\n", 1)
    own, end = rest.split("\n\n", 1)
    entries = {**dict(_ENTRY.findall(SHARED)), **dict(_ENTRY.findall(dedent(own)))}
    args = "\n".join(f"{name}: {entries[name]}" for name in inspect.signature(callback).parameters)
    callback.__doc__ = f"{begin}\nArgs:\n{indent(args, '    ')}\n\n{end}"
    return callback
