"""Reports errors in this package's callbacks in one sentence instead of jsonargparse's long message."""

from __future__ import annotations

import dataclasses
import difflib
import importlib
import inspect
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

from lightning_gradcam.errors import ConfigurationError, LightningGradCAMError

_PACKAGE = "lightning_gradcam"
# Error messages of jsonargparse 4.28 to 4.53; the groups match the unknown names.
_UNKNOWN = (
    re.compile(r"Option '(?P<name>[^']+)' is not accepted"),
    re.compile(r"Group '(?P<group>[^']+)' does not accept option '(?P<name>[^']+)'"),
    re.compile(r"No action for (?:destination )?key \"(?P<name>[^\"]+)\""),
    re.compile(r"[Uu]nrecognized arguments: --(?P<name>[^\s=]+)"),
)
_PROBLEM = re.compile(
    r"^(?P<indent> *)- Problem with given class_path '(?P<path>[^']+)':\n(?P<rest>(?:(?P=indent) .*\n?)*)", re.M
)
_KEY = re.compile(r'Parser key "(?P<name>[^"]+)":')
_EXPECTED = re.compile(r"Expected (?:an? |one of )?(?P<what>.+)")
_BARE = re.compile(r"Expected a dot import path string: (?P<name>\w+)")


def one_sentence(message: str) -> str:
    """Shortens jsonargparse's message about a callback from this package; returns other messages unchanged.

    Args:
        message: The message from jsonargparse.

    Example:
        >>> one_sentence('''Errors:
        ...   - Problem with given class_path 'lightning_gradcam.GradCAMCallback':
        ...       Option 'num_probe' is not accepted
        ... ''').split(";")[0]
        "GradCAMCallback has no option 'num_probe'"
    """
    for problem in _PROBLEM.finditer(message):
        place, _, name = problem["path"].rpartition(".")
        if place.split(".")[0] == _PACKAGE:
            return _of_callback(name, problem["rest"]) or message
    bare = _BARE.search(message)
    if bare is not None and (near := difflib.get_close_matches(bare["name"], _callbacks(), n=3)):
        return f"trainer.callbacks: no callback {bare['name']!r}; {_either(near)}"
    return message


def _of_callback(name: str, why: str) -> str | None:
    kind = getattr(importlib.import_module(_PACKAGE), name, None) if name in _callbacks() else None
    if kind is None:
        near = difflib.get_close_matches(name, _callbacks(), n=3) or _callbacks()
        return f"trainer.callbacks: {_PACKAGE} has no callback {name!r}; {_either(near)}"
    for pattern in _UNKNOWN:
        if found := pattern.search(why):
            group = found.groupdict().get("group")
            path = f"{group}.{found['name']}" if group else found["name"].removeprefix("init_args.")
            return _no_option(kind, path)
    key = _KEY.search(why)
    expected = [text for each in _EXPECTED.finditer(why) if "NoneType" not in (text := each["what"])]
    if key is None or not expected:
        return None
    return f"{kind.__name__}: {key['name']}: expected {' or '.join(dict.fromkeys(expected))}"[:480]


def _no_option(kind: type, path: str) -> str:
    options = inspect.signature(kind).parameters
    group, _, name = path.rpartition(".")
    default = options[group].default if group in options else None
    if dataclasses.is_dataclass(default):
        choices = [f"{group}.{field.name}" for field in dataclasses.fields(default)]
    else:
        choices = list(options)
    # Similar names, and names that contain it: `layer` is similar to `layers`, and `colormap` contains `color`.
    near = difflib.get_close_matches(path, choices, n=3, cutoff=0.6)
    near += [choice for choice in choices if name in choice.rpartition(".")[2] and choice not in near]
    listed = _either(near[:3]) if near else f"options are {', '.join(choices[:5])}, …"
    help_option = f"lightning-gradcam fit --trainer.callbacks.help={_PACKAGE}.{kind.__name__}"
    return f"{kind.__name__} has no option {path!r}; {listed} ({help_option} lists all)"


def _either(names: Iterable[str]) -> str:
    return f"did you mean {' or '.join(map(repr, names))}?"


def _callbacks() -> list[str]:
    return [name for name in importlib.import_module(_PACKAGE).__all__ if name.endswith("Callback")]


def shorten_errors(parser: Any) -> None:
    """Makes a parser report errors in this package's callbacks in one sentence instead of its long message.

    Args:
        parser: A jsonargparse parser; its ``error`` method is replaced.
    """
    from lightning_gradcam import Drawing, GridDrawing, PatternDrawing
    from lightning_gradcam.callbacks.base import ProbeCallback

    say: Callable[..., NoReturn] = parser.error

    def error(message: str, *rest: Any) -> NoReturn:
        say(one_sentence(message), *rest)

    def make(kind: Any, *unnamed: Any, **named: Any) -> Any:
        try:
            return kind(*unnamed, **named)
        except LightningGradCAMError as mistake:
            raise _MistakeError(mistake) from None

    parser.error = error
    for made in (ProbeCallback, Drawing, GridDrawing, PatternDrawing):
        parser.add_instantiator(make, made, subclasses=True)


class _MistakeError(BaseException):
    """Carries this package's error past jsonargparse, which would wrap any other exception in a long message."""

    def __init__(self, mistake: LightningGradCAMError) -> None:
        super().__init__(str(mistake))
        self.mistake = mistake


@contextmanager
def refusals() -> Iterator[None]:
    """Raises this package's errors that :func:`shorten_errors` carried past jsonargparse.

    Lightning's configuration errors are converted to this package's errors, which the command prints on one line.
    """
    try:
        yield
    except _MistakeError as error:
        raise error.mistake from None
    except ValueError as error:
        # Older jsonargparse (before about 4.30) creates dataclasses separately.
        if str(error).startswith("Does not validate") and isinstance(error.__cause__, LightningGradCAMError):
            raise error.__cause__ from None
        raise
    except Exception as error:
        if all(kind.__name__ != "MisconfigurationException" for kind in type(error).__mro__):
            raise
        raise ConfigurationError(f"{type(error).__name__}: {' '.join(str(error).split())}") from error
