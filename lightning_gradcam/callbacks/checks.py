"""Checks a callback's options, one by one or all at once. Each check rejects invalid values and names valid ones."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from lightning_gradcam.callbacks.from_config import check_kept, output_key_of, plain, recovered, with_functions
from lightning_gradcam.capture.inputs import check_output_key
from lightning_gradcam.capture.layers import check_layers
from lightning_gradcam.capture.layout import parse_layouts
from lightning_gradcam.compute.callers import check_whole
from lightning_gradcam.errors import ConfigurationError
from lightning_gradcam.methods import resolve_methods
from lightning_gradcam.probes import ProbeSet
from lightning_gradcam.probes.display import normalization
from lightning_gradcam.render.drawing import Drawing
from lightning_gradcam.sinks import Sink
from lightning_gradcam.targets.base import check_score
from lightning_gradcam.targets.labels import check_names
from lightning_gradcam.targets.resolve import resolve_targets

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")


def check_schedule(every_n_epochs: object, every_n_validations: object) -> None:
    """Rejects numbers below 1, and both options at once.

    Raises:
        ConfigurationError: The message names the argument, the value and the valid values.
    """
    check_whole("every_n_epochs", every_n_epochs)
    if every_n_validations is None:
        return
    check_whole("every_n_validations", every_n_validations)
    if every_n_epochs != 1:
        raise ConfigurationError(
            f"every_n_validations: got {every_n_validations} and every_n_epochs={every_n_epochs}; pass only one"
        )


def check_overhead(max_overhead: object) -> None:
    """Rejects anything but a share of the time, or ``None``.

    Raises:
        ConfigurationError: The message names the value and the valid values.
    """
    if max_overhead is None:
        return
    number = isinstance(max_overhead, (int, float)) and not isinstance(max_overhead, bool)
    if not number or not 0 < max_overhead < 1:  # type: ignore[operator]
        raise ConfigurationError(
            f"max_overhead: got {max_overhead!r}; pass the largest share of the run's time that the callback may use, "
            "between 0 and 1, such as 0.02, or None for no limit"
        )


def check_share(argument: str, value: object) -> None:
    """Rejects anything but a number above 0 and up to 1, or ``None``.

    Raises:
        ConfigurationError: The message names the argument, the value and the valid values.
    """
    if value is None:
        return
    if not isinstance(value, (int, float)) or isinstance(value, bool) or not 0 < value <= 1:
        raise ConfigurationError(f"{argument}: got {value!r}; pass a fraction above 0 and up to 1, such as 0.5")


def check_choice(argument: str, value: object, choices: tuple[str, ...]) -> None:
    """Rejects anything but one of ``choices``.

    Raises:
        ConfigurationError: The message names the argument, the value and the valid values.
    """
    if value not in choices:
        raise ConfigurationError(
            f"{argument}: got {value!r}; valid: {', '.join(map(repr, choices[:-1]))} and {choices[-1]!r}"
        )


def check_monitor(monitor: object) -> None:
    """Rejects anything but true, false or a list of names.

    Raises:
        ConfigurationError: The message names the value and the valid values.
    """
    names = isinstance(monitor, list) and bool(monitor) and all(isinstance(name, str) and name for name in monitor)
    if not isinstance(monitor, bool) and not names:
        raise ConfigurationError(
            f"monitor: got {monitor!r:.120}; pass true for all numbers, false for none, or a list of names, such as"
            " ['gradcam_stats/backbone.layer4/energy_inside']"
        )


def check_on_alarm(on_alarm: object, min_energy_inside: object) -> None:
    """Rejects anything but the three reactions, and a reaction without an alarm.

    Raises:
        ConfigurationError: The message names the value and the valid values.
    """
    check_choice("on_alarm", on_alarm, choices=("warn", "stop", "checkpoint"))
    if on_alarm != "warn" and min_energy_inside is None:
        raise ConfigurationError(
            f"on_alarm: got {on_alarm!r}, but there is no alarm; pass min_energy_inside, such as 0.3, or leave on_alarm"
            " out"
        )


def check_name(name: object) -> str:
    """Returns ``name`` if it can be used as a folder and a tag.

    Raises:
        ConfigurationError: It is empty, longer than 100 characters, contains characters other than ASCII letters,
            digits, ``_``, ``-`` and ``.``, or begins with ``-`` or ``.``.
    """
    if not isinstance(name, str) or not _NAME.fullmatch(name) or len(name) > 100:
        raise ConfigurationError(
            f"name: got {name!r:.200}; it becomes a folder and a tag, so use at most 100 letters, digits, '_', '-' and "
            "'.'"
        )
    return name


def check_drawing(drawing: object, kind: type = Drawing) -> Any:
    """Returns drawing options of this kind; also accepts them as a mapping.

    Args:
        drawing: The user's value.
        kind: :class:`Drawing`, or a different dataclass of options.

    Raises:
        ConfigurationError: The value is neither, or an option is unknown.
    """
    if isinstance(drawing, kind):
        return drawing
    if isinstance(drawing, Mapping):
        try:
            return kind(**plain(drawing))
        except TypeError as error:
            raise ConfigurationError(
                f"drawing: got {dict(drawing)!r} ({error}); see lightning_gradcam.{kind.__name__}"
            ) from None
    raise ConfigurationError(f"drawing: got {drawing!r}; pass {kind.__name__}(...) or a dict of its options")


def check_forward_fn(function: object) -> None:
    """Rejects anything but a callable or ``None``.

    Raises:
        ConfigurationError: The value is anything else.
    """
    if function is not None and not callable(function):
        raise ConfigurationError(
            f"forward_fn: got {function!r}; pass a function (module, batch) -> output; in YAML, its import path"
        )


def check_flag(argument: str, value: object) -> None:
    """Rejects anything but true and false.

    Raises:
        ConfigurationError: The message names the argument and the value.
    """
    if not isinstance(value, bool):
        raise ConfigurationError(f"{argument}: got {value!r}; pass true or false")


def check_gradients(gradients: object, methods: str | list[str]) -> None:
    """Rejects anything but true and false, and true if no method uses gradients.

    Raises:
        ConfigurationError: The message names the value and what to do.
    """
    check_flag("gradients", gradients)
    found = resolve_methods(methods)
    if gradients and not any(method.needs == "gradients" for method in found.values()):
        raise ConfigurationError(
            f"gradients: got True, but none of methods={list(found)} uses a layer's gradients; add 'gradcam' to "
            "methods, or leave gradients out"
        )


def check_filters(filters: Any) -> None:
    """Rejects anything but ``None`` (all filters), a number for the first ones, or a list of filters.

    Raises:
        ConfigurationError: It is something else, or the list contains a filter twice.
    """
    listed = filters if isinstance(filters, list) else [] if filters is None else [filters]
    whole = all(isinstance(number, int) and not isinstance(number, bool) and number >= 0 for number in listed)
    empty = filters is not None and (not listed or (filters == 0 and not isinstance(filters, bool)))
    if not whole or empty or len(set(listed)) < len(listed):
        raise ConfigurationError(
            f"filters: got {filters!r:.80}; pass None for all, a number for the first ones, or a list of distinct "
            "filter indices, starting at 0"
        )


def check_sinks(sinks: Any) -> list[Sink]:
    """Returns the user's sinks as a list.

    Raises:
        ConfigurationError: It is not a list, or an entry is not an instance of :class:`Sink`.
    """
    listed = list(sinks or ()) if isinstance(sinks, (list, tuple, type(None))) else [sinks]
    wrong = [sink for sink in listed if not isinstance(sink, Sink)]
    if wrong or not isinstance(sinks, (list, tuple, type(None))):
        came = wrong[0] if wrong else sinks
        raise ConfigurationError(f"sinks: got {came!r}; pass a list of instances of Sink, such as [MemorySink()]")
    return listed


def check_probes(probes: object) -> None:
    """Rejects anything but a probe set, a path, or ``None``.

    Raises:
        ConfigurationError: The value is anything else.
    """
    if probes is not None and not isinstance(probes, (ProbeSet, str, os.PathLike)):
        raise ConfigurationError(
            f"probes: got a {type(probes).__name__}; pass a ProbeSet (ProbeSet(inputs, labels=…) takes tensors), the"
            " path of a saved one, or a folder of images"
        )


def checked_options(given: Mapping[str, Any], drawing: type) -> dict[str, Any]:
    """Returns a callback's options as plain values.

    Args:
        given: The ``locals()`` of its constructor, before anything else is assigned.
        drawing: The class of its drawing options.

    Raises:
        ConfigurationError: An option is invalid; the message names it, its value and the valid values.
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
            check_whole(name, options[name], least)
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
