"""From a saved checkpoint to the module it belongs to, in evaluation mode, and what the file tells of its training."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from lightning_gradcam.errors import ConfigurationError, RefusedError
from lightning_gradcam.saved_models.construction import accepted, find_class, mapping, named_class, read_config, section
from lightning_gradcam.saved_models.file import averaged, config_beside, place_of, read_checkpoint, some, weights_of
from lightning_gradcam.saved_models.origin import class_of_run, layers_of_run
from lightning_gradcam.saved_models.stored import build_stored

_COMPILED = "_orig_mod."
_INSTANTIATOR, _CLASS = "_instantiator", "_class_path"


@dataclass(frozen=True, eq=False)
class Loaded:
    """A checkpoint's module, and what the file tells of its training.

    Attributes:
        path: The file.
        module: In evaluation mode, with the checkpoint's weights.
        datamodule: The data module, where one is named; it has not been set up.
        epoch: The epoch whose weights these are, counted from 0.
        step: The x value at which Lightning logged the validation that belongs to these weights.
        callbacks: The states of callbacks, by their keys.
        hyper_parameters: What ``save_hyperparameters`` has kept of the module's arguments.
        remarks: What a user should know of how it was loaded.
        layers: Those that the run explained; none where nothing tells them.
    """

    path: str
    module: nn.Module
    datamodule: Any = None
    epoch: int = 0
    step: int = 0
    callbacks: Mapping[str, Any] = field(default_factory=dict)
    hyper_parameters: Mapping[str, Any] = field(default_factory=dict)
    remarks: tuple[str, ...] = ()
    layers: tuple[str, ...] = ()


def load_checkpoint(
    path: str | os.PathLike[str],
    *,
    model: str | Callable[..., nn.Module] | None = None,
    config: str | os.PathLike[str] | None = None,
    data: str | type | None = None,
    map_location: Any = "cpu",
    trust: bool = False,
    model_args: Mapping[str, Any] | None = None,
) -> Loaded:
    """Builds the module that a checkpoint belongs to, and gives it the checkpoint's weights.

    The class is, in this order: ``model``; the config's ``model.class_path``; what the checkpoint itself names
    (LightningCLI writes it there); the ``config.yaml`` beside the run's ``checkpoints`` folder; the class whose name
    this package's callback has stored in the checkpoint, which is imported with ``trust`` only, and otherwise has to be
    loaded already. Its arguments are those
    of the config that was given, else those that ``save_hyperparameters`` has put into the checkpoint, else those of
    the ``config.yaml`` beside; ``model_args`` come before all of them.

    What a file names is checked to be a class of the right kind before it is called. With ``model``, nothing that the
    checkpoint or the ``config.yaml`` beside it names is imported, except with ``trust``.

    Args:
        path: A checkpoint of Lightning's, or a file that ``torch.save`` made of a module's ``state_dict()``.
        model: The class (``"package.module:Class"``, ``"path/to/file.py:Class"``, or the class itself), or a function
            that returns the module, such as ``"torchvision.models:resnet18"``.
        config: A YAML file of LightningCLI.
        data: The data module's class, likewise. Default: that of the config; without ``model``, also that of the
            checkpoint.
        map_location: Where the weights go, as ``torch.load`` takes it.
        trust: Read objects of any kind, and import what the files name. Whoever made them can then run code here: for
            your own files only.
        model_args: Arguments of the class, by name, such as ``{"num_classes": 10}``.

    Raises:
        CheckpointFileError: The file is missing, damaged, or no checkpoint.
        RefusedError: The file, or the config, names what is not imported or called.
        ConfigurationError: Nothing names the class, it can't be made, its weights are others, the device is not there,
            or the file holds objects that only ``trust=True`` reads.

    Example::

        loaded = load_checkpoint("lightning_logs/version_0/checkpoints/last.ckpt", model="my_package.models:Classifier")
        loaded.module(images)
    """
    if isinstance(map_location, (str, torch.device)):
        check_device(map_location)
    contents = read_checkpoint(path, map_location=map_location, trust=trust)
    place = os.fspath(path)
    if isinstance(contents, nn.Module):
        return Loaded(place, contents.eval(), remarks=("the file holds a whole module, whose class and code it names",))
    state = weights_of(contents, place)
    given = None if config is None else read_config(config)
    beside = config_beside(place) if given is None else None
    if isinstance(data, str):
        # The module's class may lie in the same script, and is then loaded by the user's word.
        find_class(data, "data")
    module = build_module(contents, place, model=model, given=given, beside=beside, model_args=model_args, trust=trust)
    restore(module, contents, state, place)
    epoch, step, guess = place_of(contents)
    # A file of weights alone does not claim to know of steps.
    remark = guess if "global_step" in contents else None
    names = may_import(model, given, trust=trust)
    datamodule, failed = find_data(contents, data, given=given, beside=beside, names=names, trust=trust)
    return Loaded(
        place,
        module.to(map_location).eval() if isinstance(map_location, (str, torch.device)) else module.eval(),
        datamodule,
        epoch,
        step,
        contents.get("callbacks") or {},
        plain_arguments(contents.get("hyper_parameters")),
        tuple(text for text in (remark, averaged(contents, state), failed) if text is not None),
        layers_of_run(contents, given, beside),
    )


def load_model(
    model: str | Callable[..., nn.Module],
    *,
    config: str | os.PathLike[str] | None = None,
    data: str | type | None = None,
    device: str | torch.device = "cpu",
    model_args: Mapping[str, Any] | None = None,
) -> Loaded:
    """Makes a module without a checkpoint, with the weights that it begins with.

    Args:
        model: The class or function that makes it; see :func:`load_checkpoint`, as for ``config`` and ``data``.
        config: A configuration that has its arguments.
        data: The data module's class.
        device: Where the module goes.
        model_args: Arguments by name, such as ``{"weights": "DEFAULT"}`` of torchvision's functions.

    Raises:
        ConfigurationError: The class can't be made, the device is not there, or a download fails.
    """
    check_device(device)
    given = None if config is None else read_config(config)
    module = build_module({}, "", model=model, given=given, model_args=model_args)
    datamodule, failed = find_data({}, data, given=given, beside=None, names=False, trust=False)
    remarks = [] if failed is None else [failed]
    if not any(value for name, value in (model_args or {}).items() if "weights" in name or "pretrained" in name):
        remarks.append(
            "no checkpoint is given, and no weights: the maps are those of the weights that the model begins with"
            " (--model-args weights=DEFAULT for torchvision's)"
        )
    return Loaded(
        "", module.to(device).eval(), datamodule, remarks=tuple(remarks), layers=layers_of_run({}, given, None)
    )


def check_device(device: str | torch.device) -> None:
    """Refuses a device that this machine does not have.

    Raises:
        ConfigurationError: It says why.
    """
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).strip().split("\n")[0]
        raise ConfigurationError(
            f"device: got {str(device)!r}, which can't be used here ({reason:.200}); give one that this machine"
            " has, such as cpu, cuda, cuda:1 or mps"
        ) from error


def build_module(
    contents: Mapping[str, Any],
    path: str,
    *,
    model: str | Callable[..., nn.Module] | None = None,
    given: Mapping[str, Any] | None = None,
    beside: Mapping[str, Any] | None = None,
    model_args: Mapping[str, Any] | None = None,
    trust: bool = False,
) -> nn.Module:
    """Makes the module that a checkpoint belongs to, with its own initial weights.

    Args:
        contents: The checkpoint's.
        path: Its file, for errors.
        model: As :func:`load_checkpoint` takes it.
        given: A config's sections.
        beside: Those of a config that was found beside the checkpoint.
        model_args: Arguments of the class that come before all others.
        trust: As :func:`load_checkpoint` takes it.

    Raises:
        RefusedError: A file names what is not imported or called.
        ConfigurationError: Nothing names the class, or it can't be made.
    """
    function = model_class(contents, model, given, beside, path, trust=trust)
    if function is None:
        raise ConfigurationError(
            f"model: nothing names the class of {path!r}: it was not saved by LightningCLI with a class_path, and no"
            " config names one; give model='package.module:Class' (--model), in a script 'path/to/file.py:Class'"
        )
    saved = mapping(contents.get("hyper_parameters"))
    arguments = plain_arguments(saved)
    kept = contents.get("hparams_name")
    if isinstance(kept, str) and kept and kept in accepted(function, {kept: None}) and kept not in arguments:
        arguments = {kept: arguments} if kept != "kwargs" else arguments
    config = given if given is not None else (beside if not arguments else None)
    # Links between arguments leave some out of the config.
    configured = {} if config is None else section(config, "model")[1]
    module = build_stored(
        function,
        accepted(function, arguments),
        configured,
        "model",
        own=model_args or {},
        # Values that a Python program has kept are what its constructor took.
        parsed=_INSTANTIATOR in saved or config is not None,
        names=may_import(model, given, trust=trust),
        trusted=trust,
        trusted_config=trust or given is not None,
    )
    if not isinstance(module, nn.Module):
        named = getattr(function, "__qualname__", function)
        raise ConfigurationError(f"model: {named} gives a {type(module).__name__}; give the class of a torch.nn.Module")
    configure: Any = getattr(module, "configure_model", None)
    if callable(configure):
        configure()
    return module


def may_import(model: Any, given: Mapping[str, Any] | None, *, trust: bool) -> bool:
    """Whether classes that a checkpoint, or the config beside it, names may be imported: not where the user names one.

    Args:
        model: As :func:`load_checkpoint` takes it.
        given: The sections of a config that the user has given.
        trust: As :func:`load_checkpoint` takes it.
    """
    return trust or (model is None and section(given or {}, "model")[0] is None)


def model_class(
    contents: Mapping[str, Any],
    model: Any,
    given: Mapping[str, Any] | None,
    beside: Mapping[str, Any] | None,
    path: str,
    *,
    trust: bool,
) -> Callable[..., Any] | None:
    """Returns a checkpoint's class: the user's, or one that a config or the checkpoint names; see `build_module`.

    Raises:
        RefusedError: A file names something else than a module's class.
        ConfigurationError: It can't be imported.
    """
    if model is not None:
        return find_class(model, "model") if isinstance(model, str) else model
    saved = mapping(contents.get("hyper_parameters"))
    named = (section(given or {}, "model")[0], saved.get(_CLASS), section(beside or {}, "model")[0])
    name = next((found for found in named if isinstance(found, str)), None)
    return class_of_run(contents, path, trust=trust) if name is None else named_class(name, "model", nn.Module)


def restore(module: nn.Module, contents: Mapping[str, Any], state: Mapping[str, Tensor], path: str) -> None:
    """Gives a module the weights of a checkpoint, as Lightning does.

    Args:
        module: Their owner; whether all have to fit is its own ``strict_loading``.
        contents: The checkpoint's, for the module's ``on_load_checkpoint``.
        state: The weights in it.
        path: Its file, for errors.

    Raises:
        ConfigurationError: They are another model's; it says how they differ.
    """
    hook: Any = getattr(module, "on_load_checkpoint", None)
    if callable(hook):
        hook(contents)
    check_fit(module, state, path)
    try:
        module.load_state_dict(dict(aligned(state, module)), strict=bool(getattr(module, "strict_loading", True)))
    except RuntimeError as error:
        raise _other(path, module, " ".join(str(error).split())[:400]) from error


def check_fit(module: nn.Module, state: Mapping[str, Tensor], path: str) -> None:
    """Refuses weights that are another model's, before any of them is loaded.

    Args:
        module: Their owner.
        state: The weights.
        path: Their file, for errors.

    Raises:
        ConfigurationError: It says how they differ.
    """
    strict = bool(getattr(module, "strict_loading", True))
    if (why := _mismatch(aligned(state, module), module, strict=strict)) is not None:
        raise _other(path, module, why)


def aligned(state: Mapping[str, Tensor], module: nn.Module) -> Mapping[str, Tensor]:
    """Returns weights under the module's own names, whichever of the two went through torch.compile or DataParallel.

    Where none of the names is the module's, and all of its names are there behind the same prefix (``"model."``), these
    are taken: the module was a part of the one that was saved.

    Example:
        >>> list(aligned({"_orig_mod.weight": torch.zeros(1)}, nn.ReLU()))
        ['weight']
    """
    own = {name.replace(_COMPILED, ""): name for name in module.state_dict()}
    names = {name: name.replace(_COMPILED, "") for name in state}
    if (
        names
        and all(name.startswith("module.") for name in names.values())
        and not any(name.startswith("module.") for name in own)
    ):
        names = {name: plain.removeprefix("module.") for name, plain in names.items()}
    plain_names = set(names.values())
    first = next(iter(own), None)
    if first is not None and plain_names.isdisjoint(own):
        ends = [name.removesuffix(first) for name in names.values() if name.endswith(f".{first}")]
        prefix = next((end for end in ends if all(f"{end}{name}" in plain_names for name in own)), None)
        if prefix is not None:
            names = {name: plain[len(prefix) :] for name, plain in names.items() if plain.startswith(prefix)}
    return {own.get(plain, plain): state[name] for name, plain in names.items()}


def plain_arguments(saved: Any) -> dict[str, Any]:
    """Returns a checkpoint's hyper-parameters without LightningCLI's own entries."""
    return {name: value for name, value in mapping(saved).items() if name not in (_INSTANTIATOR, _CLASS)}


def find_data(
    contents: Mapping[str, Any],
    data: str | type | None,
    *,
    given: Mapping[str, Any] | None,
    beside: Mapping[str, Any] | None,
    names: bool,
    trust: bool,
    asked: bool = False,
) -> tuple[Any, str | None]:
    """Makes the data module that the user, the config or the checkpoint names, where one does.

    Args:
        contents: The checkpoint's.
        data: As :func:`load_checkpoint` takes it.
        given: A config's sections.
        beside: Those of a config that was found beside the checkpoint.
        names: See :func:`may_import`.
        trust: As :func:`load_checkpoint` takes it.
        asked: Without its data module, the user can't go on.

    Returns:
        The data module or ``None``, and a remark where one is named and not made.

    Raises:
        RefusedError: A file names what is not imported or called.
        ConfigurationError: One that was asked for can't be made.
    """
    saved = mapping(contents.get("datamodule_hyper_parameters"))
    config = given if given is not None else beside
    asked = asked or data is not None or given is not None
    of_given, of_files = section(given or {}, "data")[0], (section(beside or {}, "data")[0], saved.get(_CLASS))
    name = data if data is not None else of_given or next((one for one in of_files if isinstance(one, str)), None)
    if name is None:
        return None, None
    if data is None and of_given is None and not names:
        return None, (
            f"the data module that the checkpoint names ({name!r:.200}) is not imported, because you have named the"
            " model; name it, too, if you trust it (--data)"
        )
    try:
        if data is None:
            function: Callable[..., Any] = named_class(str(name), "data", "LightningDataModule")
        else:
            function = find_class(data, "data") if isinstance(data, str) else data
        configured = section(config or {}, "data")[1]
        made = build_stored(
            function,
            accepted(function, plain_arguments(saved)),
            configured,
            "data",
            own={},
            parsed=bool(configured) or _INSTANTIATOR in saved,
            names=names,
            trusted=trust,
            trusted_config=trust or given is not None,
        )
        if not any(kind.__name__ == "LightningDataModule" for kind in type(made).__mro__):
            raise ConfigurationError(f"data: {name} gives a {type(made).__name__}; give a LightningDataModule's class")
    except ConfigurationError as error:
        if asked or isinstance(error, RefusedError):
            raise
        return None, f"the data module that the checkpoint names is left out ({error})"
    return made, None


def _other(path: str, module: nn.Module, why: str) -> ConfigurationError:
    return ConfigurationError(
        f"checkpoint: {path!r} does not fit {type(module).__name__}: {why}; give the model (--model) and the arguments"
        " (--config) that it was trained with"
    )


def _mismatch(state: Mapping[str, Tensor], module: nn.Module, *, strict: bool) -> str | None:
    own = module.state_dict()
    parts = []
    if strict:
        parts.append(("missing", [name for name in own if name not in state and not name.endswith("_extra_state")]))
        parts.append(("unexpected", [name for name in state if name not in own]))
    shapes = [
        f"{name} {list(value.shape)} in place of {list(own[name].shape)}"
        for name, value in state.items()
        if isinstance(own.get(name), Tensor)
        and isinstance(value, Tensor)
        and not is_lazy(own[name])
        and own[name].shape != value.shape
    ]
    parts.append(("of another shape", shapes))
    said = [f"{what}: {some(names)}" for what, names in parts if names]
    return "; ".join(said) or None
