"""A callback's options: plain values, each checked by name, and one frozen object with all of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from lightning_gradcam.callbacks.checks import (
    check_choice,
    check_count,
    check_drawing,
    check_filters,
    check_flag,
    check_forward_fn,
    check_monitor,
    check_name,
    check_overhead,
    check_probes,
    check_schedule,
    check_share,
    check_sinks,
)
from lightning_gradcam.callbacks.from_config import check_kept, output_key_of, plain, recovered, with_functions
from lightning_gradcam.callbacks.steering import SteeringOptions
from lightning_gradcam.capture.inputs import check_output_key
from lightning_gradcam.capture.layers import check_layers
from lightning_gradcam.capture.layout import parse_layouts
from lightning_gradcam.methods import resolve_methods
from lightning_gradcam.monitors.base import Monitor, Reporter
from lightning_gradcam.pipeline.failures import OnError
from lightning_gradcam.probes import ProbeSet
from lightning_gradcam.probes.display import normalization
from lightning_gradcam.probes.options import ProbeOptions
from lightning_gradcam.sinks import Sink
from lightning_gradcam.targets import check_names, check_score, resolve_targets

if TYPE_CHECKING:
    from typing_extensions import Self

D = TypeVar("D")


@dataclass(frozen=True)
class RunOptions:
    """A callback's options, checked.

    Attributes:
        monitor: What to record, with the options for it.
        reporter: Measures and draws its steps.
        probes: The choice of probes.
        forward_fn: Called with module and batch instead of the module's ``forward``.
        every_n_epochs: Log at all validations of every n-th epoch.
        every_n_validations: Log at every n-th validation instead.
        max_overhead: Largest share of the run's time.
        log_untrained: Log a baseline before the first step.
        background: Draw, write and log in background threads.
        on_error: What a failure in lightning-gradcam does.
        sinks: Sinks given by the user.
        check: Check the maps at the end of training.
        steering: What the numbers may do to the training.
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
        """Returns the options of a run.

        Args:
            options: As :func:`checked_options` returns them.
            monitor: The monitor built from them.
            reporter: Measures and draws the monitor's steps.
        """
        probes = fill(ProbeOptions, options, given=options["probes"])
        steering = fill(SteeringOptions, options)
        return fill(cls, options, monitor=monitor, reporter=reporter, probes=probes, steering=steering)


def fill(kind: type[D], options: Mapping[str, Any], **others: Any) -> D:
    """Returns an object whose fields are the options of the same names.

    Args:
        kind: A dataclass.
        options: Values by name; values without a field are ignored.
        others: Fields with another name or value.
    """
    named = {each.name: options[each.name] for each in fields(kind) if each.name in options}  # type: ignore[arg-type]
    return kind(**{**named, **others})


def checked_options(given: Mapping[str, Any], drawing: type) -> dict[str, Any]:
    """Returns a callback's options as plain values.

    Args:
        given: The ``locals()`` of its constructor, before anything else is assigned.
        drawing: The class of its drawing.

    Raises:
        ConfigurationError: An option is invalid; the message names it, its value and what is valid.
    """
    options = {name: value for name, value in given.items() if name not in ("self", "__class__")}
    if "targets" in options:
        options["targets"] = recovered(options["targets"])
    check_kept(**options)
    options = {name: plain(value) for name, value in options.items()}
    options["drawing"] = check_drawing(options["drawing"], drawing)
    for name, convert in _CONVERTED.items():
        if name in options:
            options[name] = convert(options[name])
    for name, check in _CHECKS.items():
        if name in options:
            check(options[name])
    for name, least in _COUNTS.items():
        if name in options and (options[name] is not None or name not in _OPTIONAL):
            check_count(name, options[name], least=least)
    normalization(options.get("mean"), options.get("std"))
    check_schedule(options["every_n_epochs"], options["every_n_validations"])
    return options


_CONVERTED: dict[str, Callable[[Any], Any]] = {
    "class_names": check_names,
    "targets": with_functions,
    "output_key": output_key_of,
    "sinks": check_sinks,
}
_CHECKS: dict[str, Callable[[Any], object]] = {
    "layers": check_layers,
    "methods": resolve_methods,
    "targets": resolve_targets,
    "score": check_score,
    "filters": check_filters,
    "probes": check_probes,
    "layout": parse_layouts,
    "output_key": check_output_key,
    "forward_fn": check_forward_fn,
    "max_overhead": check_overhead,
    "min_energy_inside": partial(check_share, "min_energy_inside"),
    "monitor": check_monitor,
    "name": check_name,
    "check": partial(check_flag, "check"),
    "numbers": partial(check_choice, "numbers", choices=("default", "all")),
    "on_error": partial(check_choice, "on_error", choices=("warn", "raise")),
}
# The smallest valid value of each.
_COUNTS = {"num_probes": 1, "batch_size": 1, "seed": 0, "max_channels": 1}
_OPTIONAL = ("num_probes", "max_channels")
