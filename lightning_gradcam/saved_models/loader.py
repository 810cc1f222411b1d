"""Loads a checkpoint's module in evaluation mode, with its epoch and step."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from lightning_gradcam.errors import ConfigurationError, RefusedError
from lightning_gradcam.saved_models.checkpoints import restore
from lightning_gradcam.saved_models.config import mapping, section
from lightning_gradcam.saved_models.construction import accepted, find_class, named_class
from lightning_gradcam.saved_models.file import Recipe, averaged, place_of, read_checkpoint, weights_of
from lightning_gradcam.saved_models.origin import class_of_run, layers_of_run
from lightning_gradcam.saved_models.stored import build_stored

_INSTANTIATOR, _CLASS = "_instantiator", "_class_path"


@dataclass(frozen=True, eq=False)
class Loaded:
    """A checkpoint's module, with its epoch and step.

    Attributes:
        path: The file.
        module: The module in evaluation mode, with the checkpoint's weights.
        datamodule: The data module, if one is specified; it has not been set up.
        epoch: The epoch of these weights, counted from 0.
        step: The x value at which Lightning logged the validation of these weights.
        callbacks: The callbacks' states, by key.
        hyper_parameters: The module's arguments, as saved by ``save_hyperparameters``.
        remarks: Notes for the user about how the checkpoint was loaded.
        layers: The layers that the run explained; empty if unknown.
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
    path: str | os.PathLike[str] | None,
    *,
    model: str | Callable[..., nn.Module] | None = None,
    config: str | os.PathLike[str] | None = None,
    data: str | type | None = None,
    map_location: Any = "cpu",
    trust: bool = False,
    model_args: Mapping[str, Any] | None = None,
) -> Loaded:
    """Builds the module that a checkpoint belongs to and loads the checkpoint's weights into it.

    The class is the first one found in: ``model``; the config's ``model.class_path``; the checkpoint itself (written by
    LightningCLI); the ``config.yaml`` next to the run's ``checkpoints`` folder; the class name that this package's
    callback stored in the checkpoint, which is imported only with ``trust`` and otherwise must already be loaded. The
    arguments are read from the given config, else from the checkpoint's ``save_hyperparameters``, else from that
    ``config.yaml``; ``model_args`` take precedence over all of them.

    A class named in a file is checked to be of the right type before it is called. With ``model``, nothing named in the
    checkpoint or the ``config.yaml`` next to it is imported, except with ``trust``.

    Args:
        path: A Lightning checkpoint, or a module's ``state_dict()`` saved with ``torch.save``; ``None`` for a ``model``
            with its initial weights.
        model: The class (``"package.module:Class"``, ``"path/to/file.py:Class"``, or the class itself), or a function
            that returns the module, such as ``"torchvision.models:resnet18"``.
        config: A LightningCLI YAML file.
        data: The data module's class, or its import path. Default: from the config; without ``model``, also from the
            checkpoint.
        map_location: Device for the weights, as in ``torch.load``.
        trust: Whether to read objects of any type and import what the files name. The files' author can then run code
            on your machine, so use it only for your own files.
        model_args: Arguments for the class, by name, such as ``{"num_classes": 10}``, or ``{"weights": "DEFAULT"}`` for
            torchvision's functions.

    Raises:
        CheckpointFileError: The file is missing, damaged, or not a checkpoint.
        RefusedError: The file or config names something that must not be imported or called.
        ConfigurationError: The class is unknown or can't be built, the weights do not match it, the device is not
            available, or the file contains objects that are read only with ``trust=True``.

    Example::

        loaded = load_checkpoint("lightning_logs/version_0/checkpoints/last.ckpt", model="my_package.models:Classifier")
        loaded.module(images)
    """
    moved = isinstance(map_location, (str, torch.device))
    if moved:
        check_device(map_location)
    place = "" if path is None else os.fspath(path)
    contents: Any = {} if path is None else read_checkpoint(path, map_location=map_location, trust=trust)
    if isinstance(contents, nn.Module):
        return Loaded(
            place,
            contents.eval(),
            remarks=("the file contains a whole module, so the file determines which class and code are used",),
        )
    state = {} if path is None else weights_of(contents, place)
    recipe = Recipe.of(contents, place, config=config, model=model, model_args=model_args, trust=trust)
    if isinstance(data, str):
        # The module's class may be in the same script, which the user allows to be loaded here.
        find_class(data, "data")
    module = build_module(recipe)
    if path is not None:
        restore(module, contents, state, place)
    datamodule, failed = find_data(recipe, data)
    epoch, step, guess = place_of(contents)
    # A file with only weights contains no step, so the remark would not help.
    remarks = [guess if "global_step" in contents else None, averaged(contents, state), failed]
    given = [value for name, value in (model_args or {}).items() if "weights" in name or "pretrained" in name]
    if path is None and not any(given):
        remarks.append(
            "no checkpoint or weights were given, so the maps show the model's initial weights (--model-args "
            "weights=DEFAULT loads torchvision's)"
        )
    return Loaded(
        place,
        module.to(map_location).eval() if moved else module.eval(),
        datamodule,
        epoch,
        step,
        contents.get("callbacks") or {},
        plain_arguments(contents.get("hyper_parameters")),
        tuple(text for text in remarks if text is not None),
        layers_of_run(recipe),
    )


def check_device(device: str | torch.device) -> None:
    """Rejects a device that this machine does not have.

    Raises:
        ConfigurationError: The device can't be used; the message states the reason.
    """
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).strip().split("\n")[0]
        raise ConfigurationError(
            f"device: got {str(device)!r}, which can't be used here ({reason:.200}); pass one that this machine has, "
            "such as cpu, cuda, cuda:1 or mps"
        ) from error


def like_weights(module: nn.Module, inputs: Tensor) -> Tensor:
    """Returns inputs on the device of a module's weights and, unless they are integers, in their precision."""
    weight = next((p for p in module.parameters() if p.is_floating_point()), torch.zeros(0, device="cpu"))
    return inputs.to(weight.device, weight.dtype if inputs.is_floating_point() else inputs.dtype)


def build_module(recipe: Recipe) -> nn.Module:
    """Builds a checkpoint's module with its initial weights.

    Raises:
        RefusedError: A file names something that must not be imported or called.
        ConfigurationError: The class is unknown or can't be built.
    """
    function = model_class(recipe)
    if function is None:
        raise ConfigurationError(
            f"model: the class of {recipe.path or 'the config'!r} is not known: it was not saved by LightningCLI with "
            "a class_path, and no config names one; pass model='package.module:Class' (--model), or "
            "'path/to/file.py:Class' for a class in a script"
        )
    saved = mapping(recipe.contents.get("hyper_parameters"))
    arguments = plain_arguments(saved)
    kept = recipe.contents.get("hparams_name")
    if isinstance(kept, str) and kept not in ("", "kwargs", *arguments) and kept in accepted(function, {kept: None}):
        arguments = {kept: arguments}
    config = recipe.given if recipe.given is not None else (recipe.beside if not arguments else None)
    module = build_stored(
        recipe,
        function,
        "model",
        # The checkpoint also contains linked arguments, which are missing from the config.
        saved=accepted(function, arguments),
        configured=section(config or {}, "model")[1],
        # Values stored by a Python program are exactly its constructor's arguments.
        parsed=_INSTANTIATOR in saved or config is not None,
    )
    if not isinstance(module, nn.Module):
        named = getattr(function, "__qualname__", function)
        raise ConfigurationError(
            f"model: {named} returned a {type(module).__name__}; pass the class of a torch.nn.Module"
        )
    configure: Any = getattr(module, "configure_model", None)
    if callable(configure):
        configure()
    return module


def model_class(recipe: Recipe) -> Callable[..., Any] | None:
    """Returns a checkpoint's class: the user's choice, or the one named in a config or the checkpoint.

    Raises:
        RefusedError: A file names something other than a module class.
        ConfigurationError: The class can't be imported.
    """
    if recipe.model is not None:
        return find_class(recipe.model, "model") if isinstance(recipe.model, str) else recipe.model
    saved = mapping(recipe.contents.get("hyper_parameters"))
    named = (section(recipe.given or {}, "model")[0], saved.get(_CLASS), section(recipe.beside or {}, "model")[0])
    name = next((found for found in named if isinstance(found, str)), None)
    return class_of_run(recipe) if name is None else named_class(name, "model", nn.Module)


def plain_arguments(saved: Any) -> dict[str, Any]:
    """Returns a checkpoint's hyper-parameters without LightningCLI's own entries."""
    return {name: value for name, value in mapping(saved).items() if name not in (_INSTANTIATOR, _CLASS)}


def find_data(recipe: Recipe, data: str | type | None = None, *, asked: bool = False) -> tuple[Any, str | None]:
    """Builds the data module specified by the user, the config or the checkpoint, if any.

    Args:
        recipe: The checkpoint and the configs.
        data: As in :func:`load_checkpoint`.
        asked: Whether the user requires the data module.

    Returns:
        The data module or ``None``, and a remark if one is specified but was not built.

    Raises:
        RefusedError: A file names something that must not be imported or called.
        ConfigurationError: A required data module can't be built.
    """
    saved = mapping(recipe.contents.get("datamodule_hyper_parameters"))
    of_given = section(recipe.given or {}, "data")[0]
    of_files = section(recipe.beside or {}, "data")[0], saved.get(_CLASS)
    name = data if data is not None else of_given or next((one for one in of_files if isinstance(one, str)), None)
    if name is None:
        return None, None
    if data is None and of_given is None and not recipe.names:
        return None, (
            f"the data module named in the checkpoint or its config ({name!r:.200}) is not imported, because you "
            "specified the model yourself; if you trust it, specify it as well (--data)"
        )
    try:
        if data is None:
            function: Callable[..., Any] = named_class(str(name), "data", "LightningDataModule")
        else:
            function = find_class(data, "data") if isinstance(data, str) else data
        configured = section((recipe.beside if recipe.given is None else recipe.given) or {}, "data")[1]
        made = build_stored(
            recipe,
            function,
            "data",
            saved=accepted(function, plain_arguments(saved)),
            configured=configured,
            parsed=bool(configured) or _INSTANTIATOR in saved,
        )
        if not any(kind.__name__ == "LightningDataModule" for kind in type(made).__mro__):
            raise ConfigurationError(
                f"data: {name} returned a {type(made).__name__}; pass the class of a LightningDataModule"
            )
    except ConfigurationError as error:
        if asked or data is not None or recipe.given is not None or isinstance(error, RefusedError):
            raise
        return None, f"the data module named in the checkpoint or its config is not used ({error})"
    return made, None
