"""Imports classes by name, constructs objects from a config's or checkpoint's arguments, and reads class names."""

from __future__ import annotations

import hashlib
import inspect
import os
import reprlib
import sys
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from importlib.util import module_from_spec, spec_from_file_location
from operator import attrgetter
from pathlib import Path
from typing import Any

from lightning_gradcam.errors import ConfigurationError, RefusedError, TargetError, did_you_mean
from lightning_gradcam.probes.class_names import FORMS, IMAGENET, is_object, is_path, names_of

_SECTION = "a config whose {}: section has its arguments (--config)"
_KEEPING = "a class that calls save_hyperparameters() keeps them in its checkpoints"
_ADVICE = {
    "model": f"pass its arguments (--model-args KEY=VALUE), or {_SECTION.format('model')}; {_KEEPING}",
    "data": f"pass {_SECTION.format('data')}; {_KEEPING}",
    "callbacks": "fix its init_args in the config",
}
_INSTEAD = {
    "model": "; if you trust it, specify the class or function yourself (--model)",
    "data": "; if you trust it, specify the class yourself (--data)",
}
# Errors from urllib, sockets, requests and huggingface_hub if a server can't be reached or lacks the file.
_OFFLINE = {"URLError", "ConnectionError", "TimeoutError", "Timeout", "HTTPError", "LocalEntryNotFoundError"}


def find_class(name: str, argument: str) -> Callable[..., Any]:
    """Imports a class, or a function that returns an instance.

    For a file, its folder is prepended to ``sys.path`` permanently, as Python does for a script.

    Args:
        name: ``"package.module:Class"``, ``"package.module.Class"`` or ``"path/to/file.py:Class"``.
        argument: The option that the class is for, for errors.

    Raises:
        ConfigurationError: The module, or the name in it, does not exist.

    Example:
        >>> find_class("torch.nn:ReLU", "model")
        <class 'torch.nn.modules.activation.ReLU'>
    """
    found = find_object(name, argument)
    if not callable(found):
        raise ConfigurationError(f"{argument}: {name!r} is a {type(found).__name__}; pass a class")
    made: Callable[..., Any] = found
    return made


def find_object(name: str, argument: str) -> Any:
    """Imports any named object, as :func:`find_class` does.

    Args:
        name: ``"package.module:name"``, ``"package.module.name"`` or ``"path/to/file.py:name"``.
        argument: The option that the object is for, for errors.

    Raises:
        ConfigurationError: The module, or the name in it, does not exist.
    """
    place, _, attribute = name.rpartition(":") if ":" in name else name.rpartition(".")
    if not place or not attribute or name.endswith(".py"):
        raise ConfigurationError(
            f"{argument}: got {name!r}; pass package.module:Class, or path/to/file.py:Class for a class in a script"
        )
    module = _imported(place, argument)
    try:
        return attrgetter(attribute)(module)
    except Exception as error:  # packages with lazy imports may raise anything
        public = [entry for entry, value in vars(module).items() if callable(value) and not entry.startswith("_")]
        why = "" if isinstance(error, AttributeError) else f" ({error!s:.200})"
        near = did_you_mean(attribute, public)
        raise ConfigurationError(f"{argument}: {place!r} has no {attribute!r}{why}{near}") from error


def named_class(name: str, argument: str, base: type | str) -> type:
    """Imports a class named in a file and checks its base class, without calling it.

    Args:
        name: ``"package.module.Class"`` or ``"package.module:Class"``; not a script or function.
        argument: The option that the class is for, for errors.
        base: The required base class, or the name of a class in Lightning.

    Raises:
        RefusedError: The name is not of this form, or its object is not such a class; nothing was called.
        ConfigurationError: The class can't be imported.

    Example:
        >>> named_class("collections.Counter", "model", dict)
        <class 'collections.Counter'>
    """
    place, _, attribute = name.rpartition(":") if ":" in name else name.rpartition(".")
    parts = (*place.split("."), attribute)
    if len(name) > 200 or place.endswith(".py") or not all(part.isidentifier() for part in parts):
        raise RefusedError(
            f"{argument}: the file names {name!r:.200}, which is not of the form package.module.Class; specify the "
            "class yourself"
        )
    return check_class(find_object(name, argument), name, argument, base)


def check_class(found: Any, name: str, argument: str, base: type | str) -> type:
    """Returns an object named in a file if it is a class with the required base; nothing is called.

    Args:
        found: The object with that name.
        name: The name, for errors.
        argument: The option that the class is for, for errors.
        base: As in :func:`named_class`.

    Raises:
        RefusedError: The object is not such a class.
    """
    # Lightning exists as two packages, and the class's module may have just imported one.
    homes = [sys.modules.get(package) for package in ("pytorch_lightning", "lightning.pytorch")]
    bases = [base] if isinstance(base, type) else [getattr(home, base) for home in homes if hasattr(home, base)]
    # Not `issubclass`, which abstract classes can override; not `isinstance`, which the object can override.
    if not issubclass(type(found), type) or not any(kind in found.__mro__ for kind in bases):
        wanted = base if isinstance(base, str) else base.__name__
        raise RefusedError(
            f"{argument}: the file names {name!r}, which is not a subclass of {wanted}, so it was not called; if you "
            f"did not write the file, it may be an attempt to run code on this machine{_INSTEAD.get(argument, '')}"
        )
    made: type = found
    return made


def accepted(function: Callable[..., Any], arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the arguments that a constructor accepts; all of them if it has ``**kwargs``.

    Example:
        >>> accepted(lambda width, depth=2: None, {"width": 3, "color": "red"})
        {'width': 3}
    """
    try:
        parameters = inspect.signature(function).parameters
    except ValueError:  # built-in types have none
        return {}
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()):
        return dict(arguments)
    return {name: value for name, value in arguments.items() if name in parameters}


def build(
    function: Callable[..., Any],
    arguments: Mapping[str, Any],
    argument: str,
    *,
    parsed: bool,
    kept: Mapping[str, Any] | None = None,
) -> Any:
    """Calls a constructor.

    Args:
        function: A class, or a function that returns an instance.
        arguments: The arguments by name.
        argument: The option that the class is for, for errors.
        parsed: Whether the arguments are plain values from a command line or YAML file. For a class, jsonargparse then
            converts them according to the constructor's annotations, and imports the classes and functions they name.
            Otherwise they are passed unchanged.
        kept: Arguments that are always passed unchanged; ``arguments`` take precedence over them.

    Raises:
        ConfigurationError: An argument is missing, unknown or can't be used.
    """
    name = getattr(function, "__qualname__", repr(function))
    rest = {key: value for key, value in (kept or {}).items() if key not in arguments}
    try:
        # Without arguments, jsonargparse is not needed.
        if parsed and arguments and isinstance(function, type):
            return _parsed(function, arguments, rest)
        return function(**rest, **arguments)
    except ConfigurationError:
        raise
    except Exception as error:  # a user's constructor may raise anything
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        if argument == "model" and {kind.__name__ for kind in type(error).__mro__} & _OFFLINE:
            raise ConfigurationError(
                f"model: {name} could not download its weights ({reason:.200}); try again with a network connection, "
                "or download the file on another machine and pass it as the checkpoint: explain FILE IMAGES --model ..."
            ) from error
        came = [f"{key}={reprlib.repr(value):.60}" for key, value in {**rest, **arguments}.items()]
        raise ConfigurationError(
            f"{argument}: {name} can't be created with {', '.join(came) or 'no arguments'} ({reason:.400}); "
            f"{_ADVICE[argument]}"
        ) from error


def _imported(place: str, argument: str) -> Any:
    file = Path(place) if place.endswith(".py") else None
    if file is not None:
        if not file.is_file():
            raise ConfigurationError(f"{argument}: no file {place!r}; pass path/to/file.py:Class")
        folder, place = str(file.resolve().parent), file.stem
        if folder not in sys.path:
            sys.path.insert(0, folder)
    try:
        if file is not None and place in sys.modules:
            origin = getattr(sys.modules[place], "__file__", None) or ""
            # A different file or a standard library module may have the same name.
            place = place if Path(origin).resolve() == file.resolve() else _loaded_from(file)
        return import_module(place)
    except SystemExit as error:
        raise ConfigurationError(
            f"{argument}: importing {place!r} ended the program (SystemExit: {error.code}), as in a script that parses"
            " its command line on import; put that code under if __name__ == '__main__':"
        ) from error
    except ImportError as error:
        raise ConfigurationError(
            f"{argument}: {place!r} can't be imported ({error}); install the package, run in the folder that contains "
            "it, or pass path/to/file.py:Class"
        ) from error


def _loaded_from(file: Path) -> str:
    """Makes a file importable under a unique name and returns that name."""
    name = f"{file.stem}_{hashlib.sha256(str(file.resolve()).encode()).hexdigest()[:8]}"
    if name not in sys.modules:
        spec = spec_from_file_location(name, file.resolve())
        if spec is None or spec.loader is None:
            return file.stem
        module = sys.modules[name] = module_from_spec(spec)
        try:
            spec.loader.exec_module(module)
        except BaseException:
            del sys.modules[name]
            raise
    return name


def _parsed(function: type, arguments: Mapping[str, Any], kept: Mapping[str, Any]) -> Any:
    try:
        from jsonargparse import ArgumentParser
    except ImportError as error:
        raise ConfigurationError(
            "config: jsonargparse, which parses its values as LightningCLI does, is not installed; run pip install "
            "'jsonargparse[signatures]'"
        ) from error

    def make(kind: type, *unnamed: Any, **named: Any) -> Any:
        return kind(*unnamed, **{**kept, **named})

    parser, skip = ArgumentParser(exit_on_error=False), set(kept)
    if kept:
        # Keep values from an untrusted file away from jsonargparse, which would import the objects they name.
        parser.add_instantiator(make, function, subclasses=False)
    if set(arguments) <= set(inspect.signature(function).parameters):
        parser.add_class_arguments(function, "made", fail_untyped=False, skip=skip)
        values: dict[str, Any] = {"made": dict(arguments)}
    else:
        # Arguments passed through **kwargs to a base class.
        parser.add_subclass_arguments(function, "made", fail_untyped=False, skip=skip)
        path = f"{function.__module__}.{function.__qualname__}"
        values = {"made": {"class_path": path, "dict_kwargs": dict(arguments)}}
    return parser.instantiate_classes(parser.parse_object(values)).made


def read_class_names(given: Sequence[str] | str | None) -> list[str] | None:
    """Returns the names of all classes, in the order of the model's outputs.

    Args:
        given: The names; or one string, alone or in a list, as in
            :func:`~lightning_gradcam.probes.class_names.names_of`, or the name of an object in a script
            (``"path/to/file.py:NAMES"``). ``None`` is returned unchanged.

    Raises:
        TargetError: A path is mixed with names, or the file does not exist or contains no names.

    Example:
        >>> read_class_names(["cat", "dog"])
        ['cat', 'dog']
    """
    if given is None:
        return None
    texts = [given] if isinstance(given, str) else list(given)
    if not texts or not all(isinstance(text, str) for text in texts):
        raise TargetError(f"class_names: got {given!r:.100}; {FORMS}")
    path = next(filter(is_path, texts), None)
    if len(texts) > 1 and path is not None:
        raise TargetError(
            f"class_names: {path!r:.200} among {len(texts)} names is a file, but would be read as a class name; pass "
            "either the file or the names"
        )
    if len(texts) > 1:
        return texts
    text = texts[0]
    place = os.path.exists(text) or os.sep in text or is_path(text)
    if isinstance(given, str) or place or is_object(text) or text.lower() == IMAGENET:
        return names_of(text, find_object)
    return texts
