"""Entry point of the console script ``lightning-gradcam``: runs a command and returns its exit code."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from importlib.metadata import version

from lightning_gradcam.cli import check, explain, layers, probes, replay, report, train
from lightning_gradcam.cli.options import EXIT_CODES
from lightning_gradcam.cli.shared import say
from lightning_gradcam.errors import LightningGradCAMError, printable

_COMMANDS = (train, layers, probes, explain, check, replay, report)
_EPILOG = f"""\
Example:
  lightning-gradcam fit --config config.yaml
  lightning-gradcam layers --model torchvision.models:resnet18 --input-shape 3,224,224
  lightning-gradcam COMMAND --help

Modules in the current folder can be imported, as with `python -m`.

{EXIT_CODES}
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command.

    Args:
        arguments: Arguments to use instead of those on the command line.

    Returns:
        The exit code: 0 on success; 1 if the command failed, with one line on standard error; 130 if it was
        interrupted.

    Raises:
        SystemExit: With code 2 after wrong usage, and code 0 after ``--help``.
    """
    chosen = _parser().parse_args(arguments)
    try:
        with _current_folder_importable():
            code = int(chosen.run(chosen))
            sys.stdout.flush()
        return code
    except KeyboardInterrupt:
        say("interrupted")
        return 130
    except BrokenPipeError:
        # The reader (such as `head`) closed the pipe. Flushing the rest must not fail again when Python exits.
        with suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except (LightningGradCAMError, OSError) as error:
        if chosen.traceback:
            raise
        say(printable(f"{type(error).__name__}: {error}" if isinstance(error, OSError) else str(error)))
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "lightning-gradcam",
        description=(
            "Run Grad-CAM during training or on trained models, and create reports of what GradCAMCallback recorded."
        ),
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {version('lightning-gradcam')}")
    parser.add_argument("--traceback", action="store_true", help="show an error's traceback")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    for command in _COMMANDS:
        command.add(commands)
    return parser


@contextmanager
def _current_folder_importable() -> Iterator[None]:
    """Adds the current folder to ``sys.path``, which contains only the script's own folder for a console script."""
    here = os.getcwd()
    sys.path.insert(0, here)
    try:
        yield
    finally:
        with suppress(ValueError):
            sys.path.remove(here)
